"""The shipped recipes at work: real Envoy, simulated models."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import yaml

from extproc.config.includes import SHIPPED, shipped
from extproc.decisions.probe import Probe, Probes
from tests.envoy.conftest import quick_models
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

MODELS = ("small", "other", "third", "large")


def roles(name: str) -> list[str]:
    file = yaml.safe_load((SHIPPED / f"{name}.yaml").read_text(encoding="utf-8"))
    return list(file["models"])


def first_of_each(name: str) -> dict[str, Probe]:
    """For each decision of a recipe the first probe that has to come to it."""
    text = (SHIPPED / f"{name}.probes.yaml").read_text(encoding="utf-8")
    found: dict[str, Probe] = {}
    for probe in Probes.model_validate(yaml.safe_load(text)).probes:
        if len(probe.expect.decision) == 1:
            found.setdefault(probe.expect.decision[0], probe)
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def recipes() -> AsyncIterator[Stack]:
    """A stack whose configuration includes every shipped recipe under its own name."""
    change: dict[str, Any] = {
        "recipes": {
            name: {
                "include": name,
                "models": dict(zip(roles(name), MODELS, strict=False)),
            }
            for name in shipped()
        },
        "entrypoints": {name: name for name in shipped()},
    }
    async with run_stack(quick_models(), change) as stack:
        yield stack


CASES = [(name, decision) for name in shipped() for decision in first_of_each(name)]


@pytest.mark.parametrize(("name", "decision"), CASES, ids="-".join)
async def test_every_decision_of_a_shipped_recipe_gives_an_answer(
    recipes: Stack, name: str, decision: str
) -> None:
    """What a probe expects offline is what becomes of the request, and a client gets an answer."""
    probe = first_of_each(name)[decision]
    body = {**msgspec.json.decode(probe.request().body), "model": name}
    async with recipes.session.post(f"{recipes.base_url}/chat/completions", json=body) as response:
        answer = await response.json()
        assert response.status == 200, answer
        assert response.headers["x-looper-decision"] == decision
        assert probe.expect.algorithm in ((), (response.headers["x-looper-algorithm"],))
    choice = answer["choices"][0]
    assert choice["message"].get("content") or choice["message"].get("tool_calls")
