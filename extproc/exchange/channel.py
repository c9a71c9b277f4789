"""Envoy as one exchange sees it, and what is done where there is nothing to do."""

from typing import Protocol

from extproc.protocol.actions import (
    Action,
    PassResponseBody,
    PassResponseHeaders,
    PassResponseTrailers,
)
from extproc.protocol.events import Event, ResponseBody, ResponseTrailers


class Channel(Protocol):
    """Envoy, as one exchange sees it."""

    async def receive(self) -> Event | None:
        """The next event; None when Envoy has no more to say."""
        ...

    async def send(self, action: Action) -> None:
        """Hand an action to the transport, whole. One at a time, and cancelled only with its stream.

        Raises Abandoned if the stream is over.
        """
        ...

    async def begin(self) -> None:
        """Have Envoy never replay this exchange, whatever happens to us: from here on it costs money."""
        ...

    async def abort(self, why: str) -> None:
        """Break the stream off, so that the client's answer breaks off as well. `why` is for Envoy's log.

        May come at any time, also when a `send` was given up. Raises Abandoned if the stream is over.
        """
        ...


async def wave_through(channel: Channel) -> None:
    """Let an answer pass that Envoy gave before the request came to us, such as that its body is too large."""
    await channel.send(PassResponseHeaders())
    while (event := await channel.receive()) is not None:
        match event:
            case ResponseBody():
                await channel.send(PassResponseBody())
            case ResponseTrailers():
                await channel.send(PassResponseTrailers())
            case _:
                pass
