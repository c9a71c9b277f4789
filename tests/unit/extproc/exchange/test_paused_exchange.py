"""Exchanges that go on with a run and end before their time: the run is in one place after that, and not in two."""

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from extproc.config import parse_config
from extproc.exchange.channel import Channel
from extproc.exchange.exchange import Exchange
from extproc.process.runtime import Runtime, build
from extproc.protocol.actions import Action, CloseStream, Respond, StreamData
from extproc.protocol.events import Event
from tests.fakes.channel import body, exchanged, opening
from tests.fakes.models import ScriptedClient, Step, Stream, chunk, completion, in_turn, last_chunk

CONFIG = """
version: 1
egress: unix:/run/egress.sock
models:
  - {name: small, url: "http://small/v1"}
  - {name: large, url: "http://large/v1"}
recipes:
  team:
    decisions:
      - name: team
        algorithm:
          type: workflows
          steps: [{id: one, models: [small], prompt: "Find out."}]
          final: {model: large}
entrypoints: {team: team}
"""
OURS = re.compile(r"call_[0-9A-Za-z]{32}")
READ = {"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}
QUESTION = {"role": "user", "content": "hi"}
FINISH = b'"finish_reason":"tool_calls"'


def _call(id: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "read", "arguments": "{}"}}


CALLING = completion(finish="tool_calls", tool_calls=[_call("w")])
STREAMED = Stream(
    [chunk(tool_calls=[{"index": 0, **_call("f")}]), chunk(finish="tool_calls"), last_chunk()]
)


def team(*final: Step) -> Runtime:
    """A worker that asks for a tool and then answers, and a final model that does this."""
    script = {"small": in_turn(CALLING, "by small"), "large": in_turn(*final)}
    return build(parse_config(CONFIG, "test.yaml"), ScriptedClient(script))


def asking(*ids: str, stream: bool) -> list[Event]:
    """The question, or the answers of tools that were called with these ids."""
    results = [{"role": "tool", "tool_call_id": id, "content": "x"} for id in ids]
    messages = [QUESTION, *([{"role": "assistant", "content": None}] if ids else []), *results]
    asked = {"model": "team", "messages": messages, "tools": [READ], "stream": stream}
    return body(json.dumps(asked).encode())


async def answered(runtime: Runtime, *ids: str) -> Respond:
    return (await exchanged(runtime, opening(), asking(*ids, stream=False))).respond


def ids_of(data: bytes) -> list[str]:
    return list(dict.fromkeys(OURS.findall(data.decode())))


@dataclass
class Line(Channel):
    """A client that takes a stream, and what happens when it has heard a certain thing."""

    events: list[Event]
    last: bytes
    happens: Callable[[], object]
    heard: bytes = b""

    async def receive(self) -> Event | None:
        return self.events.pop(0) if self.events else None

    async def send(self, action: Action) -> None:
        if isinstance(action, StreamData | CloseStream):
            self.heard += action.data
        if self.last in self.heard:
            self.happens()
            await asyncio.sleep(0)

    async def begin(self) -> None:
        return None

    async def abort(self, why: str) -> None:
        raise AssertionError(why)


async def refused(runtime: Runtime, *ids: str) -> bool:
    """Whether there is nothing to go on with under these ids, and it is free to ask."""
    answer = await answered(runtime, *ids)
    return answer.status == 410 and json.loads(answer.body)["error"]["code"] == "state_expired"


async def test_a_client_that_leaves_with_its_calls_has_no_others() -> None:
    """It hangs up when it knows what to call next: it goes on from there, and not once more from where it came."""
    runtime = team(STREAMED, "the answer")
    before = ids_of((await answered(runtime)).body)
    async with asyncio.TaskGroup() as group:
        line = Line(asking(*before, stream=True), FINISH, lambda: leaving.cancel())
        leaving = group.create_task(Exchange(runtime, line, opening()).run())

    assert len(ids_of(line.heard)) == 1
    assert await refused(runtime, *before)
    assert (await answered(runtime, *ids_of(line.heard))).status == 200


async def test_a_client_that_leaves_before_it_has_calls_has_those_of_before() -> None:
    """What it heard is no turn yet, and the one that it left can be tried again."""
    runtime = team(STREAMED, "the answer")
    before = ids_of((await answered(runtime)).body)
    async with asyncio.TaskGroup() as group:
        line = Line(asking(*before, stream=True), b"call_", lambda: leaving.cancel())
        leaving = group.create_task(Exchange(runtime, line, opening()).run())

    assert await refused(runtime, *ids_of(line.heard))
    assert (await answered(runtime, *before)).status == 200


async def test_a_client_that_is_told_of_an_error_has_its_calls_of_before() -> None:
    """A stream that breaks behind its calls is no turn: these are void, and it can be tried again."""
    runtime = team(STREAMED, "the answer")
    before = ids_of((await answered(runtime)).body)
    outflow, plenty = runtime.outflow, runtime.outflow.limit
    line = Line(asking(*before, stream=True), b"call_", lambda: setattr(outflow, "limit", 0))
    await Exchange(runtime, line, opening()).run()
    outflow.limit = plenty

    assert b'"code":"overloaded"' in line.heard
    assert len(ids_of(line.heard)) == 1
    assert await refused(runtime, *ids_of(line.heard))
    assert (await answered(runtime, *before)).status == 200
