"""A chain whose answers an AutoMix verifier grades, which is called by way of Envoy as models are."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from extproc.config import load_config
from looper.simulate.server import SimulatedModel, Simulator, Status
from looper.wire.sse import DONE, EventReader
from tests.envoy.test_runs import run_of
from tests.fakes.stack import Stack, run_stack
from tests.fakes.verifier import Verifier, run_verifier

pytestmark = pytest.mark.asyncio(loop_scope="session")

TIMEOUT = 3.0
CREDENTIAL = "Bearer of-the-client"


@dataclass(frozen=True)
class Rig:
    stack: Stack
    verifier: Verifier
    upstream: str


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def rigs() -> AsyncIterator[Rig]:
    async with AsyncExitStack() as exits:
        verifier = await exits.enter_async_context(run_verifier())
        algorithm = {
            "type": "confidence",
            "stages": ["small", "large"],
            "confidence_method": "automix_entailment",
            "automix_verifier": {
                "url": f"{verifier.url}/v2/check",
                "timeout": f"{int(TIMEOUT * 1000)}ms",
            },
            "threshold": 0.6,
        }
        budgets = {"usual": {"deadline": "60s"}, "short": {"deadline": "60s", "calls": 3}}
        recipes = {
            name: {"decisions": [{"name": name, "algorithm": algorithm, "budget": budget}]}
            for name, budget in budgets.items()
        }
        change = {
            "models": [{"name": name, "url": ""} for name in ("small", "large")],
            "recipes": recipes,
            "entrypoints": {name: name for name in recipes},
            "debug": True,
        }
        simulator = Simulator([SimulatedModel(name=name) for name in ("small", "large")])
        stack = await exits.enter_async_context(run_stack(simulator, change))
        upstreams = load_config(stack.processor.config).upstreams()
        yield Rig(stack, verifier, upstreams[-1].name)


@pytest.fixture
def rig(rigs: Rig) -> Rig:
    rigs.stack.simulator.reset()
    rigs.verifier.reset()
    return rigs


@dataclass(frozen=True)
class Said:
    """An answer, and the record of its run."""

    text: str
    run: dict[str, Any]

    @property
    def calls(self) -> list[tuple[str, str, str]]:
        calls = self.run["calls"]
        return [(call["role"], call["state"], call.get("verdict", "")) for call in calls]


async def ask(rig: Rig, small: str = "first", large: str = "second", model: str = "usual") -> Said:
    rig.stack.simulator.script("small", small)
    rig.stack.simulator.script("large", large)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Which?"},
    ]
    async with rig.stack.session.post(
        f"{rig.stack.base_url}/chat/completions",
        json={"model": model, "messages": messages, "max_tokens": 50},
        headers={"looper-debug": "1", "authorization": CREDENTIAL},
    ) as response:
        assert response.status == 200, await response.text()
        run = response.headers["x-looper-run"]
        text = (await response.json())["choices"][0]["message"]["content"]
    return Said(text, await run_of(rig.stack, run))


async def test_it_decides_whether_the_next_stage_is_asked(rig: Rig) -> None:
    """An answer that it believes is published at once, one that it doubts is asked on; its calls are in the trace."""
    rig.verifier.reset(first={"confidence": 0.9}, second={"verified_count": 4, "total_samples": 5})
    said = await ask(rig)
    assert said.text == "first"
    assert said.calls == [("candidate", "ok", "accepted at 0.6"), ("verifier", "ok", "")]

    rig.stack.simulator.reset()
    rig.verifier.reset(first={"confidence": 0.3}, second={"verified_count": 4, "total_samples": 5})
    said = await ask(rig)
    assert (said.text, said.run["outcome"]) == ("second", "ok")
    assert said.calls == [
        ("candidate", "ok", "below 0.6"), ("verifier", "ok", ""),
        ("candidate", "ok", "accepted at 0.6"), ("verifier", "ok", ""),
    ]  # fmt: skip
    body = {"question": "Which?", "context": "system: Be brief."}
    assert rig.verifier.asked == [
        ("/v2/check", {**body, "answer": "first"}),
        ("/v2/check", {**body, "answer": "second"}),
    ]


async def test_it_is_called_as_models_are(rig: Rig) -> None:
    """By way of Envoy, which knows it by a name, gives it its deadline, and keeps the client's credentials from it."""
    rig.verifier.reset(first={"confidence": 0.9})
    began = time.monotonic()
    said = await ask(rig)
    took = time.monotonic() - began

    (headers,) = rig.verifier.headers
    assert rig.verifier.url == f"http://{headers['host']}"
    assert 0 < int(headers["x-envoy-expected-rq-timeout-ms"]) <= TIMEOUT * 1000
    assert "traceparent" not in headers or len(headers["traceparent"]) == 55
    assert CREDENTIAL not in headers.values()
    assert not any(name.startswith("x-looper") for name in headers)
    call = said.run["calls"][-1]
    assert call["model"] == rig.upstream
    assert 0 <= call["seconds"] <= took

    name = "envoy_looper_egress_calls_total"

    def counted(series: dict[str, float]) -> bool:
        ours = (key for key in series if key.startswith(name) and rig.upstream in key)
        return any('role="verifier"' in key and 'code="200"' in key for key in ours)

    await rig.stack.until_series(counted)


async def test_its_calls_count_in_the_budget(rig: Rig) -> None:
    """Of three calls the third is the large model's: none is left to verify it, and what it said is still eligible."""
    rig.verifier.reset(first={"confidence": 0.1}, second={"confidence": 0.9})
    said = await ask(rig, model="short")
    assert [call[:2] for call in said.calls] == [
        ("candidate", "ok"), ("verifier", "ok"), ("candidate", "ok"), ("verifier", "not_started"),
    ]  # fmt: skip
    assert said.run["outcome"] == "degraded"
    assert said.text == "second"  # what was asked for since the first would not do
    assert len(rig.verifier.asked) == 1


@pytest.mark.parametrize(
    "verdict",
    [
        pytest.param({"confidence": 95}, id="out-of-range"),
        pytest.param(b"<html>", id="no-json"),
        pytest.param(b'{"confidence": 0.9, "x": "' + b"y" * 200_000 + b'"}', id="oversized"),
        pytest.param({}, id="empty"),
    ],
)
async def test_a_verdict_that_cannot_be_used_is_unknown(rig: Rig, verdict: Any) -> None:
    """The next stage is asked, and when nothing is known of anybody the last answer is published all the same."""
    rig.verifier.reset(first=verdict, second=verdict)
    said = await ask(rig)
    assert (said.text, said.run["outcome"]) == ("second", "degraded")
    assert [call[2] for call in said.calls if call[0] == "candidate"] == ["unknown", "unknown"]


async def test_an_answer_of_which_nothing_is_known_is_still_one(rig: Rig) -> None:
    """Where the next stage is down, it is what the client gets."""
    rig.stack.simulator.fault("large", Status(status=500))
    said = await ask(rig)
    assert (said.text, said.run["outcome"]) == ("first", "degraded")


async def test_a_verifier_with_errors_is_unknown(rig: Rig) -> None:
    """What it says beside its status counts for nothing."""
    rig.verifier.reset(first={"confidence": 0.9})
    rig.verifier.status = 500
    said = await ask(rig)
    assert said.text == "second"
    assert said.calls[1][:2] == ("verifier", "failed")


async def test_a_slow_verifier_is_left_in_time(rig: Rig) -> None:
    """After its timeout, long before the run's deadline, its connection is closed and the chain goes on."""
    rig.verifier.reset(first={"confidence": 0.9}, second={"confidence": 0.9})
    rig.verifier.delay = 30
    began = time.monotonic()
    said = await ask(rig)
    took = time.monotonic() - began
    assert said.text == "second"
    assert said.calls[1][:2] == ("verifier", "timed_out")
    assert 2 * TIMEOUT <= took < 2 * TIMEOUT + 10
    async with asyncio.timeout(10):
        while rig.verifier.left < 2:
            await asyncio.sleep(0.01)


async def test_a_client_that_leaves_ends_its_call(rig: Rig) -> None:
    """The verifier's connection is closed while it still thinks, and nobody else is asked."""
    rig.verifier.reset(first={"confidence": 0.9})
    rig.verifier.delay = 30
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(ask(rig))
        async with asyncio.timeout(20):
            while not rig.verifier.asked:
                await asyncio.sleep(0.01)
        asking.cancel()
    async with asyncio.timeout(10):
        while not rig.verifier.left:
            await asyncio.sleep(0.01)
    assert rig.stack.simulator.count("large") == 0


async def test_what_is_unsolvable_is_not_escalated(rig: Rig) -> None:
    """The cheap answer is published, as no dear one would be better, and both outcome and trace say so."""
    rig.verifier.reset(first={"confidence": 0.1, "verdict": "unsolvable"})
    said = await ask(rig)
    assert (said.text, said.run["outcome"]) == ("first", "degraded")
    assert said.calls == [("candidate", "ok", "unsolvable"), ("verifier", "ok", "")]
    assert any("unsolvable" in note for note in said.run["notes"])
    assert rig.stack.simulator.count("large") == 0


async def test_streamed_it_is_the_same(rig: Rig) -> None:
    """What is unsolvable is streamed from what was said already; nobody writes it anew."""
    rig.verifier.reset(first={"verdict": "unsolvable"})
    rig.stack.simulator.script("small", "first")
    body = {
        "model": "usual",
        "messages": [{"role": "user", "content": "Which?"}],
        "stream": True,
    }
    async with rig.stack.session.post(
        f"{rig.stack.base_url}/chat/completions", json=body
    ) as response:
        events = EventReader().feed(await response.read())
    chunks = [json.loads(event.data) for event in events if event.data != DONE]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "first"
    assert rig.stack.simulator.count("large") == 0
