"""Envoy's side of one exchange as a list of events, and what it is told as a list of actions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from extproc.exchange.channel import Channel
from extproc.exchange.exchange import Exchange
from extproc.process.runtime import Runtime
from extproc.protocol.actions import (
    Action,
    CloseStream,
    OpenStream,
    Respond,
    Rewrite,
    StreamData,
)
from extproc.protocol.events import BodyMode, Event, RequestBody, RequestHeaders, RequestTrailers

A = TypeVar("A")
CHAT = "/v1/chat/completions"

BEGIN: Literal["begin"] = "begin"
ABORT: Literal["abort"] = "abort"
"""What stands in the journal for `begin()` and `abort()`."""


@dataclass
class ScriptedChannel(Channel):
    """Hands out the events, and remembers what was done in answer, all in one journal."""

    events: list[Event]
    journal: list[object] = field(default_factory=list)
    received: int = 0

    async def receive(self) -> Event | None:
        if self.received == len(self.events):
            return None
        self.received += 1
        return self.events[self.received - 1]

    async def send(self, action: Action) -> None:
        self.journal.append(action)

    async def begin(self) -> None:
        self.journal.append(BEGIN)

    async def abort(self, why: str) -> None:
        self.journal.append(ABORT)

    @property
    def sent(self) -> list[Action]:
        return [entry for entry in self.journal if isinstance(entry, Action)]

    @property
    def began(self) -> bool:
        return BEGIN in self.journal

    def only(self, kind: type[A]) -> A:
        """The one action that was sent, which must be of this kind."""
        (action,) = self.sent
        assert isinstance(action, kind), action
        return action

    @property
    def respond(self) -> Respond:
        """The one immediate response among what was sent."""
        (action,) = (action for action in self.sent if isinstance(action, Respond))
        return action

    @property
    def rewrite(self) -> Rewrite:
        """The one rewrite among what was sent."""
        (action,) = (action for action in self.sent if isinstance(action, Rewrite))
        return action

    @property
    def streamed(self) -> bytes:
        """The body of the one streamed reply, which must have been opened first and closed last."""
        opened, *between, closed = self.sent
        assert isinstance(opened, OpenStream), opened
        assert isinstance(closed, CloseStream), closed
        data = []
        for action in between:
            assert isinstance(action, StreamData), action
            data.append(action.data)
        return b"".join(data) + closed.data


def opening(
    path: str = CHAT,
    *,
    method: str = "POST",
    mode: BodyMode = BodyMode.FULL_DUPLEX,
    end_of_stream: bool = False,
    headers: Mapping[str, str] | None = None,
) -> RequestHeaders:
    """The first event of an exchange."""
    pseudo = {":method": method, ":path": path, ":authority": "test"}
    return RequestHeaders({**pseudo, **(headers or {})}, end_of_stream, mode)


def body(data: bytes, *, trailers: bool = False) -> list[Event]:
    """A whole body in one piece; with trailers, these end the request instead."""
    piece: Event = RequestBody(data, not trailers)
    return [piece, RequestTrailers()] if trailers else [piece]


def exchange_of(
    runtime: Runtime,
    first: RequestHeaders,
    rest: Iterable[Event] = (),
    *,
    recipe: str | None = None,
    journal: list[object] | None = None,
) -> tuple[Exchange, ScriptedChannel]:
    """An exchange that has not begun to run, and its channel."""
    channel = ScriptedChannel(list(rest), [] if journal is None else journal)
    return Exchange(runtime, channel, first, recipe), channel


async def exchanged(
    runtime: Runtime,
    first: RequestHeaders,
    rest: Iterable[Event] = (),
    *,
    recipe: str | None = None,
    journal: list[object] | None = None,
) -> ScriptedChannel:
    """The channel after the whole exchange."""
    exchange, channel = exchange_of(runtime, first, rest, recipe=recipe, journal=journal)
    await exchange.run()
    return channel
