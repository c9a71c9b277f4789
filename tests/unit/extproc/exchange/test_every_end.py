"""Every way in which a silence, a word, a round, a deadline and a client that leaves can fall together."""

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from extproc.config import parse_config
from extproc.exchange.exchange import Exchange
from extproc.process.runtime import Runtime, build
from looper.errors import UpstreamFailed
from looper.evaluate import virtual
from looper.run import Run
from looper.wire.chat import ChatRequest, Usage
from looper.wire.events import Delta, Done, Event, Finish, Progress
from looper.wire.sse import DONE, EventReader
from tests.fakes.channel import body, opening
from tests.fakes.fragile import FragileChannel, Leaving, left
from tests.fakes.models import ScriptedClient

CONFIG = """
version: 1
egress: unix:/run/egress.sock
heartbeat: 1s
models: [{name: small, url: "http://small/v1"}, {name: large, url: "http://large/v1"}]
recipes:
  team:
    decisions:
      - name: panel
        algorithm: {type: fusion, analysis_models: [small], judge_model: large}
        progress: reasoning
        keepalive: whitespace
entrypoints: {team: team}
"""
CALL = [
    {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
]
WAYS = ("words", "tool-call", "stages", "round", "failure", "failed-round", "silence")
SECOND = 1.0
"""The heartbeat, and when everything else happens: all together."""


@dataclass(frozen=True)
class Team:
    """A pattern that does something each second, as soon as, or just after, a silence is broken."""

    way: str
    turns: int

    async def run(self, request: ChatRequest, run: Run) -> AsyncGenerator[Event]:
        await self._wait()
        async for event in self._work(run):
            yield event
        if self.way.startswith("fail"):
            raise UpstreamFailed("none")
        yield Finish("tool_calls" if self.way == "tool-call" else "stop")
        yield Done(Usage(1, 1), "ok")

    async def _work(self, run: Run) -> AsyncGenerator[Event]:
        match self.way:
            case "words":
                for word in ("a", "b", "c"):
                    yield Delta("content", word)
                    await self._wait()
            case "tool-call":
                yield Delta("tool_calls", CALL)
            case "stages":
                async with asyncio.TaskGroup() as group:
                    for _ in range(2):
                        group.create_task(_say(run))
            case "round" | "failed-round":
                # What is said in a round is given up together with it, in the middle of a write.
                with suppress(TimeoutError):
                    await asyncio.wait_for(_go_on(run), SECOND)
            case "silence":
                await asyncio.sleep(60)
            case _:
                pass

    async def _wait(self) -> None:
        await asyncio.sleep(SECOND)
        for _ in range(self.turns):
            await asyncio.sleep(0)


async def _say(run: Run) -> None:
    await run.say(Progress("stage"))


async def _go_on(run: Run) -> None:
    while True:
        await _say(run)
        await asyncio.sleep(SECOND / 2)


@cache
def runtime(deadline: float) -> Runtime:
    config = parse_config(CONFIG, "test.yaml")
    recipe = config.recipes["team"]
    (decision,) = recipe.decisions
    budget = decision.budget.model_copy(update={"deadline": timedelta(seconds=deadline)})
    changed = decision.model_copy(update={"budget": budget})
    recipes = {"team": recipe.model_copy(update={"decisions": (changed,)})}
    return build(config.model_copy(update={"recipes": recipes}), ScriptedClient({}))


@dataclass(frozen=True)
class Case:
    """One way in which it can fall together."""

    way: str
    stream: bool
    deadline: float
    pause: float
    turns: int
    leaving: Leaving | None = None
    late: int = 0
    """Turns of the loop by which what the team does comes after the silence."""


@dataclass(frozen=True)
class Told:
    channel: FragileChannel
    events: list[Any]
    took: float


async def played(case: Case) -> Told:
    built = runtime(case.deadline)
    pattern = Team(case.way, case.late)
    built = replace(built, patterns=dict.fromkeys(built.patterns, pattern))
    messages = [{"role": "user", "content": "hi"}]
    asked = {"model": "team", "messages": messages, "stream": case.stream}
    channel = FragileChannel(body(json.dumps(asked).encode()), case.pause, case.turns)
    now = asyncio.get_running_loop().time
    began = now()
    with capture_logs() as events:
        async with asyncio.TaskGroup() as group:
            exchange = group.create_task(Exchange(built, channel, opening()).run())
            client = group.create_task(_client(case.leaving, channel, exchange.cancel))
            await asyncio.wait([exchange])
            client.cancel()
    return Told(channel, events, now() - began)


async def _client(
    leaving: Leaving | None, channel: FragileChannel, cancel: Callable[[], Any]
) -> None:
    if leaving is not None:
        await left(leaving, channel, cancel)


def check(case: Case) -> None:
    told = virtual.run(played(case))
    channel = told.channel
    assert (channel.faults, channel.aborted) == ([], 0)
    # One line, so that nothing of it is a mistake: of ours, or of a client that leaves.
    (finished,) = told.events
    assert finished["event"] == "exchange.finished"
    assert finished["outcome"] in ("ok", "failed", "abandoned")
    if channel.is_over:
        assert (finished["end"] != "abandoned") == channel.has_end
    else:
        assert finished["end"] in ("answered", "refused")
        assert told.took <= case.deadline + 4 * case.pause
        _whole(case, channel.body, finished)


def _whole(case: Case, data: bytes, finished: dict[str, Any]) -> None:
    """Exactly one end, and everything before it, in order."""
    if not case.stream or not data.startswith((b"data", b":")):
        assert isinstance(json.loads(data), dict)
        return
    reader = EventReader()
    said = [event.data for event in reader.feed(data)]
    reader.close()
    assert said.index(DONE) == len(said) - 1
    chunks = [json.loads(each) for each in said[:-1]]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    failed = ["error" in chunk for chunk in chunks]
    assert failed == [False] * (len(chunks) - 1) + [finished["end"] == "refused"]
    text = "".join(
        choice["delta"].get("content") or ""
        for chunk in chunks
        for choice in chunk.get("choices", ())
    )
    assert "abc".startswith(text)
    if finished["end"] == "answered":
        assert text == ("abc" if case.way == "words" else "")


def together() -> Iterator[Case]:
    """All of them, with writes that take nothing, some turns, or until the next silence."""
    for way, stream, deadline, pause, turns, late in itertools.product(
        WAYS, (True, False), (SECOND, 2 * SECOND, 9 * SECOND), (0, SECOND), range(5), range(3)
    ):
        yield Case(way, stream, deadline, pause, turns, None, late)


def leaving() -> Iterator[Case]:
    for way, at, turns, after, noticed in itertools.product(
        WAYS, (SECOND, 2 * SECOND), range(4), range(8), ("by-cancellation", "by-writing")
    ):
        yield Case(way, True, 2 * SECOND, 0, turns, Leaving(at, after, noticed))  # type: ignore[arg-type]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cases", [together, leaving])
def test_every_stream_ends(cases: Any, way: str) -> None:
    """Once, with everything that was said before it; and no write is cancelled, or meets another."""
    for case in cases():
        if case.way == way:
            check(case)


@given(
    st.builds(
        Case,
        way=st.sampled_from(WAYS),
        stream=st.booleans(),
        deadline=st.sampled_from([1.0, 1.5, 2.0, 3.0, 9.0]),
        pause=st.sampled_from([0, 0.25, 0.5, 1.0]),
        turns=st.integers(0, 12),
        late=st.integers(0, 12),
        leaving=st.none()
        | st.builds(
            Leaving,
            at=st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 3.0]),
            turns=st.integers(0, 20),
            noticed=st.sampled_from(["by-cancellation", "by-writing"]),
        ),
    )
)
def test_whatever_falls_together(case: Case) -> None:
    """The same, over times that are not all the same."""
    check(case)
