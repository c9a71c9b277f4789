"""A transport that forgives nothing: what two writes at once, or one that is cancelled, do to a stream of gRPC."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from extproc.errors import Abandoned
from extproc.exchange.channel import Channel
from extproc.protocol.actions import Action, CloseStream, OpenStream, Respond, StreamData
from extproc.protocol.events import Event


@dataclass(frozen=True)
class Leaving:
    """When a client leaves, or the processor is stopped: so many turns of the loop after a moment.

    What is noticed first is that nobody waits any more, or that nothing can be written.
    """

    at: float
    turns: int
    noticed: Literal["by-cancellation", "by-writing"] = "by-cancellation"


@dataclass
class FragileChannel(Channel):
    """Each write takes `pause` seconds and then some `turns` of the loop. One that is cancelled breaks the stream."""

    events: list[Event]
    pause: float = 0.0
    turns: int = 0
    written: list[Action] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    aborted: int = 0
    has_end: bool = False
    """Whether an end was begun to be written, and did not fail."""
    is_over: bool = False
    _busy: bool = False
    _has_ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self) -> Event | None:
        if self.events:
            return self.events.pop(0)
        await self._has_ended.wait()
        return None

    async def send(self, action: Action) -> None:
        ends = isinstance(action, CloseStream | Respond)
        self.has_end |= ends
        try:
            await self._write()
        except Abandoned:
            self.has_end = False
            raise
        self.written.append(action)
        if ends:
            self._has_ended.set()  # Envoy has all of it, and closes

    async def begin(self) -> None:
        await self._write()

    async def abort(self, why: str) -> None:
        if self.is_over:
            raise Abandoned
        self.aborted += 1
        self._has_ended.set()

    async def _write(self) -> None:
        if self.is_over:
            raise Abandoned
        if self._busy:
            self.faults.append("two writes at once")
            raise Abandoned
        self._busy = True
        try:
            await asyncio.sleep(self.pause)
            await some(self.turns)
        except asyncio.CancelledError:
            if not self.is_over:
                self.faults.append("a write was cancelled")
            raise  # and is busy for ever
        if self.is_over:
            raise Abandoned
        self._busy = False

    @property
    def body(self) -> bytes:
        """What a client reads, if it is a whole answer."""
        match self.written:
            case [Respond(body=body)]:
                return body
            case [OpenStream(), *between, CloseStream(data=last)]:
                return b"".join(_data(between)) + last
            case _:
                raise AssertionError(f"no whole answer: {self.written}")


def _data(between: Sequence[Action]) -> list[bytes]:
    assert all(isinstance(action, StreamData) for action in between), between
    return [action.data for action in between if isinstance(action, StreamData)]


async def some(turns: int) -> None:
    """Let the loop go round so many times."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def left(leaving: Leaving, channel: FragileChannel, cancel: Callable[[], Any]) -> None:
    """Have the client leave."""
    await asyncio.sleep(leaving.at)
    await some(leaving.turns)
    channel.is_over = True
    if leaving.noticed == "by-writing":
        await some(5)
    cancel()
