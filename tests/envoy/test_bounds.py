"""What a team's calls may take, of windows, budgets and memory, and how a team fails closed, through a real Envoy."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from looper.simulate.server import Huge, SimulatedModel, Simulator
from looper.wire.sse import DONE, EventReader
from tests.envoy.requests import chat
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")
both_ways = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])

NAMES = ("p", "q", "r", "j", "f", "v")
WINDOW = 8000
MOST = 1 << 20
PANEL = {
    "type": "fusion",
    "analysis_models": ["p", "q", "r"],
    "judge_model": "j",
    "final_model": "f",
    "skip_judge_when": "never",
}
CHECKED = {
    "type": "workflows",
    "steps": [
        {"id": "solve", "models": ["p", "q", "r"], "prompt": "Solve it."},
        {"id": "check", "role": "verifier", "models": ["v"], "needs": ["solve"], "prompt": "Check."},
    ],
    "final": {"model": "f"},
}  # fmt: skip
TEAMS: dict[str, dict[str, Any]] = {
    "panel": {"algorithm": PANEL},
    "frugal": {"algorithm": PANEL, "budget": {"tokens": 6000}},
    "voted": {
        "algorithm": {**CHECKED, "on_verify_fail": "continue"},
        "contract": {"type": "choice", "values": ["A", "B", "C"]},
    },
    "closed": {"algorithm": {**CHECKED, "on_verify_fail": "fail", "on_error": "fail"}},
}
JUDGED = json.dumps({"scores": [5, 5, 5], "consensus": ["They agree."]})


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared() -> AsyncIterator[Stack]:
    change = {
        "models": [
            {"name": name, "url": "", **({"context_window": WINDOW} if name in "jf" else {})}
            for name in NAMES
        ],
        "limits": {"max_answer_bytes": MOST},
        "recipes": {
            name: {"decisions": [{"name": name, **decision}]} for name, decision in TEAMS.items()
        },
        "entrypoints": {name: name for name in TEAMS},
    }
    # Their tokens are shorter than ours by a sixth, so that they count a fifth more.
    small = {"context_window": WINDOW, "token_length": 4 / 1.2}
    models = [SimulatedModel(name=name, **(small if name in "jf" else {})) for name in NAMES]
    async with run_stack(Simulator(models), change) as stack:
        yield stack


@pytest.fixture
def stack(shared: Stack) -> Stack:
    shared.simulator.reset()
    return shared


async def ask(stack: Stack, team: str, *, streamed: bool, **members: Any) -> tuple[int, str, str]:
    """Status, text and outcome of an answer, or its error's code; of a stream the outcome is not told."""
    body = {**chat("A, B or C?", **members), "model": team, "stream": streamed}
    async with stack.session.post(f"{stack.base_url}/chat/completions", json=body) as response:
        raw, outcome = await response.read(), response.headers.get("x-looper-outcome", "")
        if not response.headers["content-type"].startswith("text/event-stream"):
            whole = json.loads(raw)
            if "error" in whole:
                return response.status, "", whole["error"]["code"]
            return response.status, whole["choices"][0]["message"]["content"], outcome
        chunks = [json.loads(each.data) for each in EventReader().feed(raw) if each.data != DONE]
    failed = [chunk["error"]["code"] for chunk in chunks if "error" in chunk]
    deltas = [choice["delta"] for each in chunks for choice in each.get("choices", ())]
    text = "".join(delta.get("content") or "" for delta in deltas)
    return response.status, text, failed[0] if failed else ""


def asked(stack: Stack) -> str:
    """The models that were called, those that were at once in the order of their names."""
    names = [call.model for call in stack.simulator.calls]
    return "".join([*sorted(names[:3]), *names[3:]])


@both_ways
async def test_a_judge_with_a_small_window_judges(stack: Stack, streamed: bool) -> None:
    """What it reads is cut and what it may write is bounded, so that a backend that counts a fifth more takes it."""
    for name in "pqr":
        stack.simulator.script(name, f"{name} says so. " * 900)
    stack.simulator.script("j", JUDGED)
    stack.simulator.script("f", "It is B.")
    status, text, outcome = await ask(stack, "panel", streamed=streamed, max_tokens=6000)

    assert (status, text) == (200, "It is B.")
    assert outcome == ("" if streamed else "ok")
    assert {call.status for call in stack.simulator.calls} == {200}
    assert asked(stack) == "pqrjf"


@both_ways
async def test_a_budget_of_tokens_pays_the_whole_panel(stack: Stack, streamed: bool) -> None:
    """No member is granted what the others need, nor what judge and final model do."""
    for name in "pqr":
        stack.simulator.script(name, "It is B.")
    stack.simulator.script("j", JUDGED)
    stack.simulator.script("f", "It is B.")
    status, text, outcome = await ask(stack, "frugal", streamed=streamed)

    assert (status, text) == (200, "It is B.")
    assert outcome == ("" if streamed else "ok")
    assert asked(stack) == "pqrjf"
    limits = [json.loads(call.body)["max_tokens"] for call in stack.simulator.calls[:3]]
    assert min(limits) > 1000
    assert max(limits) < 2000


@both_ways
async def test_no_backend_sends_more_than_an_answer_may_have(stack: Stack, streamed: bool) -> None:
    """A body that is larger is given up: the others answer; and where all are, the client is told."""
    stack.simulator.fault("p", Huge(size=2 * MOST))
    for name in "qr":
        stack.simulator.script(name, "It is B.")
    stack.simulator.script("j", JUDGED)
    stack.simulator.script("f", "It is B.")
    status, text, outcome = await ask(stack, "panel", streamed=streamed)
    assert (status, text) == (200, "It is B.")
    assert outcome == ("" if streamed else "degraded")

    for name in NAMES:
        stack.simulator.fault(name, Huge(size=2 * MOST))
    status, _, code = await ask(stack, "panel", streamed=streamed)
    assert (status, code) == (502, "answer_too_large")


@both_ways
async def test_workers_vote_where_no_final_model_writes(stack: Stack, streamed: bool) -> None:
    """Of C, B and B it is B, whoever stands first; and the verifier that was to be content is."""
    for name, said in zip("pqr", ("It is C.", "It is B.", "It is B."), strict=True):
        stack.simulator.script(name, said)
    stack.simulator.script("v", '{"verdict": "pass"}')
    stack.simulator.fault("f", Huge(size=2 * MOST))
    status, text, outcome = await ask(stack, "voted", streamed=streamed)
    assert (status, text) == (200, "It is B.")
    assert outcome == ("" if streamed else "fallback")


@both_ways
async def test_a_workflow_fails_closed(stack: Stack, streamed: bool) -> None:
    """Where the operator says so, nothing is published that did not pass, nor what was made with somebody missing."""
    stack.simulator.script("v", '{"verdict": "fail", "reasons": "The sign is wrong."}')
    status, _, code = await ask(stack, "closed", streamed=streamed)
    assert (status, code) == (502, "verification_failed")
    assert asked(stack) == "pqrv"

    stack.simulator.reset()
    stack.simulator.fault("q", Huge(size=2 * MOST))
    status, _, code = await ask(stack, "closed", streamed=streamed)
    assert (status, code) == (502, "answer_too_large")
    assert "v" not in asked(stack)
