"""What holds for every round of calls, through a real Envoy: failures, stragglers, answers that were cut."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from looper.simulate.server import Hang, SimulatedModel, Simulator, Status
from looper.wire.sse import DONE, EventReader
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

TEAM = ["a", "b", "c", "d", "e"]
WRITER = "w"


def decision(**algorithm: Any) -> dict[str, Any]:
    only = {"name": "team", "algorithm": algorithm, "budget": {"deadline": "10s"}}
    return {"decisions": [only]}


FAILING: dict[str, dict[str, Any]] = {
    "ratings": {"models": TEAM},
    "fusion": {"analysis_models": TEAM, "judge_model": WRITER},
    "remom": {"models": TEAM, "breadth_schedule": [5], "model_distribution": "round_robin", "synthesis_model": WRITER},
    "confidence": {"stages": [TEAM[:4], "e"], "confidence_method": "agreement"},
    "workflows": {"steps": [{"id": "x", "models": TEAM, "prompt": "Work."}], "final": {"model": WRITER}},
}  # fmt: skip
QUICK: dict[str, Any] = {"max_concurrent": 4, "straggler_factor": 1}
RECIPES = {
    **{f"fail-{kind}": decision(type=kind, on_error="fail", **each) for kind, each in FAILING.items()},
    "late": decision(type="fusion", on_error="fail", round_timeout="300ms", **FAILING["fusion"]),
    "quick": decision(type="fusion", **QUICK, **FAILING["fusion"]),
    "timed": decision(type="ratings", round_timeout="300ms", **FAILING["ratings"]),
    "cut-remom": decision(type="remom", **FAILING["remom"]),
    "cut-fusion": decision(type="fusion", **FAILING["fusion"]),
    "cut-ratings": decision(type="ratings", min_successful_responses=5, below_quorum="fail", **FAILING["ratings"]),
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def teams() -> AsyncIterator[Stack]:
    names = [*TEAM, WRITER]
    change = {
        "models": [{"name": name, "rating": 0.7, "url": ""} for name in names],
        "recipes": RECIPES,
        "entrypoints": {name: name for name in RECIPES},
        "debug": True,
    }
    async with run_stack(Simulator([SimulatedModel(name=name) for name in names]), change) as stack:
        yield stack


@pytest.fixture
def team(teams: Stack) -> Stack:
    teams.simulator.reset()
    return teams


async def ask(stack: Stack, model: str) -> tuple[int, Any, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": "Which?"}]}
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json=body, headers={"looper-debug": "1"}
    ) as response:
        return response.status, response.headers, await response.json()


async def facts(stack: Stack, model: str) -> Any:
    """What a client that may ask is told of a run: with a stream."""
    body = {"model": model, "messages": [{"role": "user", "content": "Which?"}], "stream": True}
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json=body, headers={"looper-debug": "1"}
    ) as response:
        events = EventReader().feed(await response.read())
    chunks = [json.loads(event.data) for event in events if event.data != DONE]
    return next(chunk["looper"] for chunk in chunks if "looper" in chunk)


@pytest.mark.parametrize("kind", FAILING)
async def test_the_first_failure_is_the_requests(team: Stack, kind: str) -> None:
    """At once: those who have answered do not make up for it, and those who hang are not waited for."""
    for name in TEAM[2:4]:
        team.simulator.fault(name, Hang())
    team.simulator.fault("b", Status(status=500))
    began = time.monotonic()
    status, _, answer = await ask(team, f"fail-{kind}")
    assert (status, answer["error"]["code"]) == (502, "upstream_failed")
    assert time.monotonic() - began < 8  # the deadline is at 10
    assert team.simulator.count(WRITER) == 0


async def test_who_is_late_has_failed(team: Stack) -> None:
    team.simulator.fault("c", Hang())
    status, _, answer = await ask(team, "late")
    assert (status, answer["error"]["code"]) == (504, "deadline_exceeded")


async def test_nothing_that_waits_its_turn_starts_behind_the_quorum(team: Stack) -> None:
    """One of four has answered: the fifth call never reaches its backend, and nobody is missing."""
    for _ in range(20):
        status, headers, _ = await ask(team, "quick")
        assert (status, headers["x-looper-outcome"]) == (200, "ok")
    assert team.simulator.count("a") == 20
    assert team.simulator.count("e") == 0


async def test_what_ends_with_its_round_has_timed_out(team: Stack) -> None:
    """In every trace, whichever clock says it first."""
    for name in ("c", "d"):
        team.simulator.fault(name, Hang())
    for _ in range(5):
        calls = (await facts(team, "timed"))["trace"]["calls"]
        assert [call["state"] for call in calls] == ["ok", "ok", "timed_out", "timed_out", "ok"]


@pytest.mark.parametrize("kind", ["cut-ratings", "cut-fusion", "cut-remom"])
async def test_cut_answers_are_shown_and_published(team: Stack, kind: str) -> None:
    """Where every answer is cut, the writer sees them all, and if it is down the best of them is the client's."""
    for name in TEAM:
        team.simulator.script(name, {"content": f"half of {name}", "finish_reason": "length"})
    team.simulator.fault(WRITER, Status(status=500))
    status, _, answer = await ask(team, kind)
    choice = answer["choices"][0]
    assert (status, choice["finish_reason"]) == (200, "length")
    assert choice["message"]["content"].startswith("half of ")
    prompts = [
        str(call.parsed["messages"][-1]["content"])
        for call in team.simulator.calls
        if call.model == WRITER
    ]
    assert bool(prompts) == (kind != "cut-ratings")
    assert all(prompt.count("cut off: its end is missing") == 5 for prompt in prompts)
