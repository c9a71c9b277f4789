"""One call of a client's, as the handler has it that serves it."""

import asyncio
import re
from collections.abc import Callable, Mapping
from functools import partial

from extproc.errors import Abandoned
from extproc.serving.calls import Status
from extproc.serving.http2.headers import Request, plain, trailers
from extproc.serving.http2.receiver import Receiver
from extproc.serving.http2.sender import Sender

_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])").fullmatch
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


class Call:
    """Messages both ways, and one end.

    What is written is in the transport's hands at once: a handler that is cancelled while it waits for the client to
    take it has lost nothing, and whatever it writes next comes after it.
    """

    __slots__ = ("_reset", "_task", "_timer", "opened", "receiver", "request", "sender")

    def __init__(
        self,
        request: Request,
        receiver: Receiver,
        sender: Sender,
        opened: float,
        reset: Callable[[], None],
    ) -> None:
        self.request = request
        self.receiver = receiver
        self.sender = sender
        self._reset = reset
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.opened = opened

    # What handlers do.

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.request.metadata

    async def read(self) -> bytes | None:
        """The client's next message; None when it has no more to say."""
        return await self.receiver.read()

    async def write(self, message: bytes) -> None:
        """Send a message, and wait while the client takes no more."""
        if self.sender.finished:
            raise Abandoned
        self.sender.put(message)
        if self.sender.waits:
            await self.sender.emptied()

    async def begin(self) -> None:
        """Send the headers now, before any message."""
        self.sender.begin()

    async def abort(self, status: Status, why: str) -> None:
        """End the call at once, whatever waits to be sent: with a status if nothing does, else by a reset."""
        if self.sender.over:
            raise Abandoned
        self.end(status, why)

    # What ends it.

    def end(self, status: Status, why: str = "") -> None:
        if self.sender.cut_off():
            self._reset()
        self.finish(status, why)

    def finish(self, status: Status, why: str = "") -> None:
        """End the call after all that was written. Only the first end counts."""
        if not self.sender.finished:
            self.sender.finish(trailers(status, why))

    def refuse(self, status: int, why: str) -> None:
        """Answer what is not gRPC in HTTP's words, once it is complete."""
        self.receiver.pass_over(partial(self._refuse, status, why.encode()))

    def _refuse(self, status: int, text: bytes) -> None:
        self.sender.begin(plain(status, len(text)))
        self.sender.put_bytes(text)
        self.sender.finish(b"")

    # Its handler.

    def serve(self, task: "asyncio.Task[None]") -> None:
        """This task is at work for the call, until it or the call ends."""
        self._task = task
        if (seconds := _seconds(self.request.metadata.get("grpc-timeout"))) is not None:
            self._timer = task.get_loop().call_later(seconds, self._expire)

    def _expire(self) -> None:
        self.break_off(Status.DEADLINE_EXCEEDED, "the deadline has passed")

    def break_off(self, status: Status, why: str) -> None:
        """End the call whatever its handler does, and the handler with it."""
        self.end(status, why)
        self.cancel()

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def served(self) -> None:
        """The handler has returned, or was cancelled."""
        self._task = None
        if self._timer is not None:
            self._timer.cancel()


def _seconds(text: str | None) -> float | None:
    """A deadline in gRPC's words. One that cannot be read is none."""
    found = _TIMEOUT(text) if text is not None else None
    return None if found is None else int(found[1]) * _UNITS[found[2]]
