"""One stream's way out: messages and trailers in their order, as far as the client's windows allow."""

import asyncio
from collections import deque
from collections.abc import Callable

from extproc.serving.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    LARGEST,
    Code,
    StreamFault,
    head,
)
from extproc.serving.http2.headers import BEGINNING
from extproc.serving.http2.messages import PREFIX, prefix
from extproc.serving.http2.output import Output


class Sender:
    """`ended` is called once, when the stream's end is on its way."""

    __slots__ = (
        "_emptied",
        "_ended",
        "_last",
        "_output",
        "_queue",
        "_stream",
        "_window",
        "begun",
        "finished",
    )

    def __init__(self, output: Output, stream: int, ended: Callable[[], None]) -> None:
        self._output = output
        self._stream = stream
        self._ended = ended
        self._window = output.first_window
        self._queue: deque[memoryview] | None = None  # what waits for a window
        self._last: bytes | None = None  # trailers that wait for that
        self._emptied: asyncio.Future[None] | None = None
        self.begun = False
        self.finished = False

    def begin(self, block: bytes = BEGINNING) -> None:
        """Send the headers. Whoever has them takes the call for answered, at least in part."""
        if not self.begun and not self.finished:
            self.begun = True
            block = self._output.block(block)
            self._output.add(head(len(block), HEADERS, END_HEADERS, self._stream), block)

    def put(self, message: bytes) -> None:
        """Send a message, or have it wait for a window. Nothing happens if the stream has ended."""
        if self.finished:
            return
        self.begin()
        output = self._output
        size = len(message) + PREFIX
        if self._queue is None and size <= min(self._window, output.window, output.longest):
            self._window -= size
            output.window -= size
            output.add(head(size, DATA, 0, self._stream), prefix(size - PREFIX), message)
            output.allow_updates()
            return
        self.put_bytes(prefix(size - PREFIX) + message)

    def put_bytes(self, data: bytes) -> None:
        """Send bytes that are no message."""
        if self._queue is None:
            self._queue = deque()
        self._queue.append(memoryview(data))
        self.push()

    def finish(self, trailers: bytes) -> None:
        """End the stream with these, or just so if they are empty, after all that waits."""
        if self.finished:
            return
        self.finished = True
        self._last = trailers
        if self._queue is None:
            self._end()

    def cut_off(self) -> bool:
        """Forget what waits. False if nothing did, so that trailers may follow."""
        waited = self._queue is not None
        self._queue = None
        self._last = None
        self._output.blocked.pop(self, None)
        self._tell()
        return waited

    def drop(self) -> None:
        """The stream is gone: send nothing more."""
        self.finished = True
        self.cut_off()

    async def emptied(self) -> None:
        """Return when all that was put is on its way, or never will be."""
        while self._queue is not None:
            if self._emptied is None:
                self._emptied = self._output.future()
            await asyncio.shield(self._emptied)
        await self._output.writable()

    @property
    def over(self) -> bool:
        """Whether nothing can be sent any more, nor taken back."""
        return self.finished and self._queue is None

    @property
    def waits(self) -> bool:
        """Whether what was put is held up by a window, or by the connection."""
        return self._queue is not None or self._output.paused

    def resize(self, change: int) -> None:
        """Raises StreamFault if the window becomes wider than there are numbers for."""
        self._window += change
        if self._window > LARGEST:
            raise StreamFault(Code.FLOW_CONTROL_ERROR)

    def widen(self, size: int) -> None:
        """Raises StreamFault if the window becomes wider than there are numbers for."""
        self.resize(size)
        self.push()

    def push(self) -> None:
        """Send what the windows allow."""
        output, queue = self._output, self._queue
        if queue is None:
            return
        while queue:
            room = min(self._window, output.window, output.longest)
            if room <= 0:
                if (
                    output.window <= 0
                ):  # else this stream alone is held up, which its own window will end
                    output.blocked[self] = None
                return
            piece = queue[0][:room]
            if len(piece) < len(queue[0]):
                queue[0] = queue[0][room:]
            else:
                queue.popleft()
            self._window -= len(piece)
            output.window -= len(piece)
            output.frame(DATA, 0, self._stream, piece)
            output.allow_updates()
        self._queue = None
        self._tell()
        if self._last is not None:
            self._end()

    def _tell(self) -> None:
        if self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)
        self._emptied = None

    def _end(self) -> None:
        trailers, self._last = self._last, None
        if not trailers:
            self._output.frame(DATA, END_STREAM, self._stream)
            self._ended()
            return
        if not self.begun:
            self.begun = True
            trailers = BEGINNING + trailers
        block = self._output.block(trailers)
        self._output.add(head(len(block), HEADERS, END_HEADERS | END_STREAM, self._stream), block)
        self._ended()
