"""One stream's way in: what its client has sent, until it is read."""

import asyncio
from collections import deque
from collections.abc import Callable

from extproc.serving.calls import Status
from extproc.serving.http2.bounds import Bounds
from extproc.serving.http2.frames import Code, ConnectionFault, StreamFault
from extproc.serving.http2.messages import BadMessage, Messages


class Intake:
    """What one connection's streams have brought, all of them together."""

    __slots__ = ("_bounds", "_grant", "_owed", "future", "unread")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, bounds: Bounds, grant: Callable[[int], None]
    ) -> None:
        self.future = loop.create_future
        self._bounds = bounds
        self._grant = grant
        self._owed = 0
        self.unread = 0

    def count(self, size: int) -> None:
        """Count what came against the connection's window, which is opened again whether or not anybody reads:
        one stream that is slow holds up no other. Raises ConnectionFault if it was too much.
        """
        self._owed += size
        if self._owed > self._bounds.connection_window:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "more data than was granted")
        if 2 * self._owed >= self._bounds.connection_window:
            self._grant(self._owed)
            self._owed = 0

    @property
    def overfull(self) -> bool:
        return self.unread > self._bounds.unread


class Receiver:
    """`grant` has the client send so many bytes more in this stream."""

    __slots__ = (
        "_at_end",
        "_bounds",
        "_grant",
        "_intake",
        "_kept",
        "_left",
        "_messages",
        "_owed",
        "_read",
        "_waiting",
        "ended",
        "heard",
    )

    def __init__(
        self, intake: Intake, bounds: Bounds, length: int | None, grant: Callable[[int], None]
    ) -> None:
        self._intake = intake
        self._bounds = bounds
        self._grant = grant
        self._messages = Messages(bounds.message)
        self._at_end: Callable[[], None] | None = None  # if nothing that comes is looked at
        self._read: deque[bytes] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._owed = 0
        self._kept = 0
        self._left = length  # of what the client said it would send, if it did
        self.ended = False
        self.heard = False
        """Whether a message has come."""

    def feed(self, data: bytes, padding: int) -> None:
        """Take data. Raises BadMessage for what is no message, and StreamFault for more than was granted."""
        size = len(data)
        self._owed += size + padding
        if self._owed > self._bounds.window:
            raise StreamFault(Code.FLOW_CONTROL_ERROR)
        if self._left is not None:
            self._left -= size
        if size and self._at_end is None:
            self._keep(size)
            found = self._messages.feed(data)
            if found:
                self.heard = True
                self._read.extend(found)
                self._wake()
        self._replenish()

    def _keep(self, size: int) -> None:
        self._kept += size
        self._intake.unread += size
        if self._intake.overfull:
            raise BadMessage(Status.RESOURCE_EXHAUSTED, "too much is waiting to be read")

    def end(self) -> None:
        """The client has no more to say. Raises StreamFault or BadMessage if something is missing."""
        self.ended = True
        if self._left:
            raise StreamFault(Code.PROTOCOL_ERROR)
        if self._messages.partial:
            raise BadMessage(Status.INTERNAL, "the stream ends within a message")
        if self._at_end is not None:
            self._at_end()
        self._wake()

    def pass_over(self, at_end: Callable[[], None]) -> None:
        """Look at nothing that comes; at its end, do this."""
        self._at_end = at_end
        if self.ended:
            at_end()

    def drop(self) -> None:
        """The stream is gone: nothing more is read."""
        self.ended = True
        self._read.clear()
        self._intake.unread -= self._kept
        self._kept = 0
        self._wake()

    async def read(self) -> bytes | None:
        """The next message; None when there is no more."""
        while not self._read:
            if self.ended:
                return None
            self._waiting = self._intake.future()
            await self._waiting
        message = self._read.popleft()
        if self._kept:  # not after the stream is gone
            self._release(len(message))
        return message

    def _release(self, size: int) -> None:
        size += 5
        self._kept -= size
        self._intake.unread -= size
        self._replenish()

    def _replenish(self) -> None:
        """Let the client go on once everything that is complete was read: a message that is longer than the window
        must come in, too.
        """
        if not self._read and not self.ended and 2 * self._owed >= self._bounds.window:
            self._grant(self._owed)
            self._owed = 0

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
