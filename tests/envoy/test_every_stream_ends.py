"""Answers whose heartbeats, rounds and deadlines fall together, through a real Envoy: each of them ends."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from extproc.config import parse_config
from extproc.process.runtime import build
from extproc.serving.calls import Transport
from extproc.serving.grpcio import GrpcioServer
from extproc.serving.http2.server import Server
from extproc.serving.server import serving
from looper.run import Run
from looper.simulate.faults import Hang, Reset, Status, Torn
from looper.simulate.models import SimulatedModel
from looper.simulate.server import Simulator
from looper.wire.chat import ChatRequest
from looper.wire.events import Delta, Event
from looper.wire.sse import DONE
from tests.fakes.models import ScriptedClient
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

ANSWERS = 500
AT_ONCE = 100
LEAVING = 90
PATIENCE = 15.0
"""Seconds after which an answer that should have taken one or two is lost: its client would wait for minutes."""

PANEL = {"type": "fusion", "analysis_models": ["stuck"], "judge_model": "quick"}
MODELS = ("quick", "slow", "stuck", "mute", "torn", "refused")
WAYS: dict[str, dict[str, Any]] = {
    "round": {"algorithm": {**PANEL, "round_timeout": "1s"}, "budget": {"deadline": "9s"}},
    "patient": {
        "algorithm": {**PANEL, "round_timeout": "1s"},
        "budget": {"deadline": "9s"},
        "keepalive": "whitespace",
    },
    "deadline": {
        "algorithm": {"type": "single", "model": "stuck", "fallbacks": ["mute"]},
        "budget": {"deadline": "2s"},
    },
    "delta": {
        "algorithm": {"type": "single", "model": "slow", "fallbacks": ["quick"]},
        "budget": {"deadline": "3s"},
    },
    "both": {
        "algorithm": {
            **PANEL,
            "analysis_models": ["quick", "stuck"],
            "judge_model": "stuck",
            "round_timeout": "1s",
        },
        "budget": {"deadline": "2s"},
        "progress": "reasoning",
    },
}
"""Slow teams, each with two things or more that happen at the very moment of a heartbeat."""

BROKEN = {"algorithm": {"type": "single", "model": "torn", "fallbacks": ["refused"]}}
MORE: dict[str, dict[str, Any]] = {"broken": BROKEN, "patient-broken": BROKEN}


def change() -> dict[str, Any]:
    return {
        "models": [{"name": name, "url": ""} for name in MODELS],
        "recipes": {
            name: {"decisions": [{"name": "team", **decision}]}
            for name, decision in {**WAYS, **MORE}.items()
        },
        "entrypoints": {name: name for name in (*WAYS, *MORE)},
        "heartbeat": "1s",
    }


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack() -> AsyncIterator[Stack]:
    simulator = Simulator(
        SimulatedModel(name=name, token_latency=1.0 if name == "slow" else 0.0) for name in MODELS
    )
    for name in ("stuck", "mute"):
        simulator.fault(name, Hang())
    simulator.fault("refused", Status(status=500))
    simulator.script("slow", *["one two three four five six"] * ANSWERS)
    async with run_stack(simulator, change()) as stack:
        yield stack


async def how_it_ends(stack: Stack, way: str) -> str:
    asked = {
        "model": way,
        "messages": [{"role": "user", "content": "hi"}],
        "stream": not way.startswith("patient"),
    }
    try:
        async with (
            asyncio.timeout(PATIENCE),
            stack.session.post(f"{stack.base_url}/chat/completions", json=asked) as response,
        ):
            data = await response.read()
    except TimeoutError:
        return "never"
    except aiohttp.ClientError:
        return "torn"
    if response.status == 500 and not data:
        return "torn"
    if response.content_type == "application/json":
        return "whole" if json.loads(data) else "torn"
    return "whole" if data.rstrip().endswith(DONE) else "torn"


@pytest.mark.timeout(120)
async def test_all_of_them_end(stack: Stack) -> None:
    """Nobody waits for ever, whatever falls together, and nothing is a mistake of ours."""
    ends: Counter[tuple[str, str]] = Counter()
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        way = list(WAYS)[number % len(WAYS)]
        async with turns:
            ends[way, await how_it_ends(stack, way)] += 1

    async with asyncio.TaskGroup() as group:
        for number in range(ANSWERS):
            group.create_task(one(number))

    assert ends == {(way, "whole"): ANSWERS // len(WAYS) for way in WAYS}
    assert "exchange.crashed" not in stack.processor.log.read_text()


@pytest.mark.parametrize(
    ("way", "fault"),
    [
        pytest.param("broken", Reset(after_chunks=2), id="a-stream-that-is-reset"),
        pytest.param("patient-broken", Torn(), id="a-body-that-is-torn"),
    ],
)
async def test_a_backend_that_breaks_off_is_seen_at_once(
    stack: Stack, way: str, fault: Reset | Torn
) -> None:
    """What it had said has come by then, and the client's answer ends with an error in the same moment."""
    stack.simulator.fault("torn", fault)
    took = []
    for _ in range(3):  # a machine may stand still for once
        began = time.monotonic()
        assert await how_it_ends(stack, way) == "whole"
        took.append(time.monotonic() - began)

    assert min(took) < 0.5


TRANSPORTS: dict[str, Transport] = {"native": Server, "grpcio": GrpcioServer}


class Stuck:
    """A pattern that says something and then never lets itself be cancelled, until it is let go and goes on."""

    def __init__(self) -> None:
        self.free = asyncio.Event()

    async def run(self, request: ChatRequest, run: Run) -> AsyncGenerator[Event]:
        yield Delta("content", "hi")
        while not self.free.is_set():
            with suppress(asyncio.CancelledError):
                await self.free.wait()
        yield Delta("content", "too late")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_has_no_end_when_it_is_due_is_broken_off(stack: Stack, transport: str) -> None:
    """Two seconds after its deadline the client sees a broken answer. It is counted; the log says where it stood."""
    await stack.processor.stop()
    stuck = Stuck()
    built = build(parse_config(stack.processor.config.read_text(), "test.yaml"), ScriptedClient({}))
    built = replace(built, patterns=dict.fromkeys(built.patterns, stuck))
    address = f"unix:{stack.processor.socket}"
    with capture_logs() as events:
        async with serving(
            lambda _: nullcontext(built), [address], None, 0.2, TRANSPORTS[transport]
        ):
            await stack.until_ready()
            began = time.monotonic()
            try:
                ended = await how_it_ends(stack, "deadline")
            finally:
                stuck.free.set()
            took = time.monotonic() - began
    await stack.processor.start()

    assert ended == "torn"
    assert 4.0 <= took < 10  # Envoy closes the client's connection a second later
    (aborted,) = [event for event in events if event["event"] == "exchange.aborted"]
    assert [line for line in aborted["at"] if __name__.rpartition(".")[2] in line]
    assert [event["end"] for event in events if event["event"] == "exchange.finished"][
        -1
    ] == "aborted"
    assert built.process.tally.aborted == 1


async def test_clients_that_leave_near_a_silence_are_no_mistake(stack: Stack) -> None:
    """Whatever is being written then: each of them left, and nothing crashed or failed."""
    before = len(stack.processor.log.read_text())
    asked = {"model": "deadline", "messages": [{"role": "user", "content": "hi"}], "stream": True}

    async def leave(number: int) -> None:
        with suppress(TimeoutError):
            async with (
                asyncio.timeout(0.99 + 0.0005 * (number % 60)),
                stack.session.post(f"{stack.base_url}/chat/completions", json=asked) as response,
            ):
                await response.read()

    async with asyncio.TaskGroup() as group:
        for number in range(LEAVING):
            group.create_task(leave(number))

    ends: Counter[tuple[str, str, str]] = Counter()
    abandoned = ("exchange.finished", "abandoned", "abandoned")
    async with asyncio.timeout(PATIENCE):
        while ends[abandoned] < LEAVING:
            await asyncio.sleep(0.05)
            lines = stack.processor.log.read_text()[before:].splitlines()
            ends = Counter(_end(json.loads(line)) for line in lines)
    # The first exchange of all also tells which generation Envoy's routes are of.
    assert {event for event, *_ in ends} - {"config.envoy"} == {"exchange.finished"}


def _end(line: dict[str, Any]) -> tuple[str, str, str]:
    return line["event"], line.get("end", ""), line.get("outcome", "")
