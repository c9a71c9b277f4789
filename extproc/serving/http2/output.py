"""What goes out on one connection: collected during a turn of the loop, and written at its end in one go."""

import asyncio
from typing import Protocol

from extproc.serving.http2.bounds import Bounds
from extproc.serving.http2.frames import (
    FIRST_WINDOW,
    LARGEST,
    PING,
    RST_STREAM,
    SETTINGS,
    SMALLEST_FRAME,
    WINDOW_UPDATE,
    Code,
    ConnectionFault,
    head,
    number,
)
from extproc.serving.http2.headers import EMPTY_TABLE


class Waiting(Protocol):
    """A stream with something to send."""

    def push(self) -> None:
        """Send what the windows allow."""
        ...


class Output:
    """The windows that the client grants, the streams that wait for one, and the way to the socket."""

    __slots__ = (
        "_bounds",
        "_loop",
        "_pieces",
        "_prelude",
        "_scheduled",
        "_transport",
        "_unsent",
        "_updates",
        "_writable",
        "blocked",
        "closed",
        "first_window",
        "longest",
        "window",
    )

    def __init__(self, transport: asyncio.Transport, bounds: Bounds) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._bounds = bounds
        self._pieces: list[bytes | memoryview] = []
        self._scheduled = False
        self._writable: asyncio.Future[None] | None = None  # where the client reads too slowly
        self._unsent = 0
        self._updates = bounds.updates
        self._prelude = b""
        self.blocked: dict[Waiting, None] = {}
        self.closed = False
        self.window = FIRST_WINDOW
        self.first_window = FIRST_WINDOW
        self.longest = SMALLEST_FRAME

    # Frames.

    def frame(self, kind: int, flags: int, stream: int, payload: bytes | memoryview = b"") -> None:
        self.add(head(len(payload), kind, flags, stream), payload)

    def add(self, *pieces: bytes | memoryview) -> None:
        """Whole frames."""
        self._pieces += pieces
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)

    def block(self, block: bytes) -> bytes:
        """A header block as it is sent next."""
        if self._prelude:
            block, self._prelude = self._prelude + block, b""
        return block

    def reply(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        """Answer a frame that asks for it. Raises ConnectionFault if too many of these are not read."""
        if self._writable is not None:
            self._unsent += 1
            if self._unsent > self._bounds.unsent:
                raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "replies are not read")
        self.frame(kind, flags, stream, payload)

    def acknowledge_settings(self) -> None:
        self.reply(SETTINGS, 1, 0)

    def echo(self, payload: bytes) -> None:
        self.reply(PING, 1, 0, payload)

    def reset(self, stream: int, code: Code) -> None:
        self.reply(RST_STREAM, 0, stream, number(code))

    def grant(self, stream: int, size: int) -> None:
        """Have the client send so many bytes more; in all streams, if `stream` is 0."""
        self.frame(WINDOW_UPDATE, 0, stream, number(size))

    # The socket.

    def flush(self) -> None:
        self._scheduled = False
        if self._pieces and not self.closed:
            self._transport.write(b"".join(self._pieces))
        self._pieces.clear()

    def close(self) -> None:
        """Write what there is; nothing goes out after it."""
        self.flush()
        self.closed = True
        self.blocked.clear()
        self.resume()

    @property
    def paused(self) -> bool:
        """Whether the client reads too slowly for more to be written."""
        return self._writable is not None

    def pause(self) -> None:
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume(self) -> None:
        self._unsent = 0
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    def future(self) -> "asyncio.Future[None]":
        return self._loop.create_future()

    async def writable(self) -> None:
        if self._writable is not None:
            await asyncio.shield(self._writable)

    # What the client says of what it takes.

    def widen(self, size: int) -> None:
        """Raises ConnectionFault if the connection's window becomes wider than there are numbers for."""
        self.window += size
        if self.window > LARGEST:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "a window is too wide")
        self.unblock()

    def count_update(self) -> None:
        """Raises ConnectionFault if there are many more updates of windows than data has been sent for."""
        self._updates = min(self._updates, self._bounds.updates) - 1
        if self._updates < 0:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many updates of windows")

    def allow_updates(self) -> None:
        """For a stream, or a frame of data."""
        self._updates += 10

    def shrink_table(self) -> None:
        self._prelude = EMPTY_TABLE

    def unblock(self) -> None:
        """Have streams go on that wait for the connection's window, in their turn."""
        while self.blocked and self.window > 0:
            sender = next(iter(self.blocked))
            del self.blocked[sender]
            sender.push()
