"""Guards that hang on what a model says of a text of which it has read a part: padding hides nothing from them."""

import json
from typing import Any

import pytest

from extproc.decisions.engine import Policy
from extproc.decisions.recipe import Recipe
from extproc.signals import Egress
from tests.fakes.models import ScriptedClient, model
from tests.fakes.subjects import subject

SINGLE = {"type": "single", "model": "m"}
PADDED = "word " * 4_000
TOPIC = {
    "type": "model",
    "model": "small",
    "labels": {"attack": "an attack", "trade": "our trade", "other": "the rest"},
    "max_input": 100,
}


async def answered_by(
    when: Any, said: str, text: str, on_unknown: str, topic: dict[str, Any], **more: Any
) -> str:
    respond = {"message": "No.", "status": 403}
    guard = {"name": "guard", "when": when, "respond": respond, "on_unknown": on_unknown}
    recipe = {
        "signals": {"topic": {**TOPIC, **topic}},
        "decisions": [guard, {"name": "open", "algorithm": SINGLE}],
        **more,
    }
    small = model("small")
    client = ScriptedClient({"small": json.dumps({"label": said, "confidence": 0.9})})
    policy = Policy("p", Recipe.model_validate(recipe), Egress(client, {"small": small}))
    return (await policy.decide(subject(text))).decision.name


@pytest.mark.parametrize(
    ("when", "said", "whole", "padded"),
    [
        pytest.param("topic.attack", "attack", "guard", "guard", id="what-was-found-stands"),
        pytest.param("topic.attack", "other", "open", "unknown", id="another-label"),
        pytest.param("topic.attack", "none", "open", "unknown", id="no-label"),
        pytest.param({"not": "topic.trade"}, "other", "guard", "unknown", id="not-found"),
        pytest.param({"not": "topic.trade"}, "trade", "open", "unknown", id="found-in-the-padding"),
        pytest.param({"not": {"not": "topic.attack"}}, "attack", "guard", "guard", id="twice-not"),
        pytest.param(
            {"any": ["topic.attack", {"not": "topic.trade"}]}, "trade", "open", "unknown", id="any"
        ),
        pytest.param("topic", "trade", "guard", "guard", id="any-label"),
        pytest.param({"not": "topic"}, "trade", "open", "unknown", id="not-any-label"),
    ],
)
@pytest.mark.parametrize("on_unknown", ["act", "skip"])
async def test_padding(when: Any, said: str, whole: str, padded: str, on_unknown: str) -> None:
    """What was not read is unknown, so that `on_unknown` decides; read in full, a text is as it is."""
    unknown = {"act": "guard", "skip": "open"}[on_unknown]
    assert await answered_by(when, said, "short", on_unknown, {}) == whole
    found = await answered_by(when, said, PADDED, on_unknown, {})
    assert found == {"unknown": unknown}.get(padded, padded)


async def test_a_label_that_is_not_wanted_is_nothing_found() -> None:
    """With `any`, the signal itself matches some labels only."""
    for said, name in (("attack", "guard"), ("other", "open")):
        assert await answered_by("topic", said, "short", "act", {"any": ["attack"]}) == name
    assert await answered_by("topic", "other", PADDED, "act", {"any": ["attack"]}) == "guard"


async def test_by_way_of_a_projection() -> None:
    members = {"yes": "topic.attack", "no": {"not": "topic.attack"}}
    bad = {"type": "partition", "members": members, "default": "no"}
    more = {"projections": {"bad": bad}}
    assert await answered_by("bad.yes", "other", "short", "act", {}, **more) == "open"
    assert await answered_by("bad.yes", "other", PADDED, "act", {}, **more) == "guard"
