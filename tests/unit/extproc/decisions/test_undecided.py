"""Models are asked only where the decision hangs on what they say."""

from typing import Any

import pytest

from extproc.decisions.engine import Policy
from extproc.decisions.recipe import Recipe
from extproc.signals import Egress
from tests.fakes.models import ScriptedClient, model
from tests.fakes.subjects import subject

SINGLE = {"type": "single", "model": "small"}
SIGNALS = {
    "guard": {"type": "keyword", "any": ["stop"]},
    "hard": {"type": "keyword", "any": ["prove"]},
    "wants": {"type": "model", "model": "small", "labels": {"math": "numbers", "art": "pictures"}},
}
SHAPES = {"task": {"type": "partition", "members": ["wants"], "default": "chat"}}


def decision(name: str, when: Any = None, **settings: Any) -> dict[str, Any]:
    rule = {} if when is None else {"when": when}
    return {"name": name, "algorithm": SINGLE, **rule, **settings}


WATCHES = decision("a", "guard", shadow=True)
TRIED = decision("a", "guard", percent=0.001)


async def asked(text: str, *decisions: dict[str, Any], **recipe: Any) -> tuple[str, int]:
    """What is decided, and how many calls it took to find out."""
    client = ScriptedClient({"small": '{"label": "math", "confidence": 1}'})
    data = {"signals": SIGNALS, "decisions": [*decisions, decision("rest")], **recipe}
    policy = Policy("p", Recipe.model_validate(data), Egress(client, {"small": model("small")}))
    decided = await policy.decide(subject(text))
    return decided.decision.name, len(client.asked)


@pytest.mark.parametrize(
    ("text", "decisions", "name", "calls"),
    [
        pytest.param("stop", [decision("a", "guard"), decision("b", "wants")], "a", 0, id="decided-before"),
        pytest.param("go", [decision("a", "guard"), decision("b", "wants")], "b", 1, id="not-decided-before"),
        pytest.param("go", [decision("a", {"all": ["hard", "wants"]})], "rest", 0, id="false-anyway"),
        pytest.param("prove", [decision("a", {"all": ["hard", "wants"]})], "a", 1, id="hangs-on-it"),
        pytest.param("prove", [decision("a", {"any": ["hard", "wants"]})], "a", 0, id="true-anyway"),
        pytest.param("go", [decision("a", "wants.art")], "rest", 1, id="a-label"),
        pytest.param("go", [decision("a", {"not": "wants"})], "rest", 1, id="its-contrary"),
        pytest.param("stop", [WATCHES, decision("b", "wants")], "b", 1, id="behind-a-shadow"),
        pytest.param("stop", [TRIED, decision("b", "wants")], "b", 1, id="behind-a-trial"),
        pytest.param("go", [decision("a", "wants"), decision("b", {"not": "wants"})], "a", 1, id="twice"),
    ],
)  # fmt: skip
async def test_a_model_is_asked_if_the_decision_hangs_on_it(
    text: str, decisions: list[dict[str, Any]], name: str, calls: int
) -> None:
    """Once at the most, and not where the other signals have decided already."""
    assert await asked(text, *decisions) == (name, calls)


@pytest.mark.parametrize(
    ("text", "name", "calls"),
    [
        pytest.param("go", "shaped", 1, id="it-may-change-the-shape"),
        pytest.param("stop", "guarded", 0, id="decided-before"),
    ],
)
async def test_a_projection_waits_for_its_signals(text: str, name: str, calls: int) -> None:
    """A partition would fall to its default without what the model says."""
    decisions = [decision("guarded", "guard"), decision("shaped", "task.wants")]
    assert await asked(text, *decisions, projections=SHAPES) == (name, calls)
