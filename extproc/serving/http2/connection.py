"""One connection: every frame of a client's, and what follows from it (RFC 9113, sections 5 to 7)."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog

from extproc.serving.calls import Status
from extproc.serving.http2.allowance import Allowance
from extproc.serving.http2.bounds import Bounds
from extproc.serving.http2.call import Call
from extproc.serving.http2.frames import (
    ACK,
    CONTINUATION,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    FIRST_WINDOW,
    GOAWAY,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    LARGEST,
    LARGEST_FRAME,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    PADDED,
    PING,
    PRIORITIZED,
    RST_STREAM,
    SETTINGS,
    SMALLEST_FRAME,
    Code,
    ConnectionFault,
    Frames,
    StreamFault,
    depends_on,
    number,
    read_number,
    read_settings,
    settings,
    unpadded,
)
from extproc.serving.http2.headers import HeaderBlocks, Request
from extproc.serving.http2.messages import BadMessage
from extproc.serving.http2.output import Output
from extproc.serving.http2.receiver import Intake, Receiver
from extproc.serving.http2.sender import Sender

_log = structlog.get_logger()

_ARE_YOU_THERE = b"silence?"
_FAREWELL = b"farewell"
_USUAL_TABLE = 4096
_REMEMBERED = 256
"""Streams of late that we ended before their clients did: what still comes of them is nobody's fault."""


class Services(Protocol):
    """What calls are made of."""

    def serve(self, call: Call, done: Callable[[], None]) -> None:
        """Have somebody answer a call; `done` is called when nobody is at work for it any more."""
        ...


@dataclass(slots=True)
class _Block:
    """A header block of which more is to come."""

    stream: int
    flags: int
    pieces: list[bytes]
    size: int


class Connection(asyncio.Protocol):
    """`made` and `lost` are told of the connection's beginning and end."""

    def __init__(
        self,
        services: Services,
        bounds: Bounds,
        made: Callable[["Connection"], bool],
        lost: Callable[["Connection"], None],
    ) -> None:
        self._services = services
        self._bounds = bounds
        self._made = made
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._frames = Frames(bounds.frame)
        self._blocks = HeaderBlocks(bounds)
        self._allowance = Allowance(
            bounds.idle_frames, bounds.idle_frames_per_second, self._loop.time
        )
        self._calls: dict[int, Call] = {}
        self._at_work = 0
        self._given_up: deque[int] = deque(maxlen=_REMEMBERED)
        self._block: _Block | None = None
        self._last = 0
        self._introduced = False  # by SETTINGS
        self._leaving = False
        self._refusing = False
        self._over = False
        self._heard = self._since = self._loop.time()
        self._asked = False
        self._by_kind: tuple[Callable[[int, int, bytes], None], ...] = (
            self._data,
            self._headers,
            self._priority,
            self._reset_by_client,
            self._settings,
            self._push_promise,
            self._ping,
            self._goaway,
            self._window_update,
            self._continuation,
        )

    # What asyncio tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # Not before: of a handshake that fails nothing is told, not even the end.
        self._timer = self._loop.call_later(self._bounds.tick, self._tick)
        self._output = Output(transport, self._bounds)
        self._intake = Intake(self._loop, self._bounds, partial(self._output.grant, 0))
        if not self._made(self):
            transport.abort()
            return
        bounds = self._bounds
        offered = {
            MAX_CONCURRENT_STREAMS: bounds.streams,
            INITIAL_WINDOW_SIZE: bounds.window,
            MAX_FRAME_SIZE: bounds.frame,
            MAX_HEADER_LIST_SIZE: bounds.header_list,
        }
        self._output.frame(SETTINGS, 0, 0, settings(offered))
        self._output.grant(0, bounds.connection_window - FIRST_WINDOW)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        self._heard = self._loop.time()
        self._asked = False
        try:
            for kind, flags, stream, payload in self._frames.feed(data):
                self._take(kind, flags, stream, payload)
        except ConnectionFault as fault:
            self._fail(fault)
            return
        self._output.flush()

    def pause_writing(self) -> None:
        self._output.pause()

    def resume_writing(self) -> None:
        self._output.resume()

    def connection_lost(self, error: Exception | None) -> None:
        self._over = True
        self._timer.cancel()
        self._output.close()
        self._drop_all()
        self._lost(self)

    # Frames.

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block is not None and (kind != CONTINUATION or stream != self._block.stream):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a header block is broken off")
        if not self._introduced:
            if kind != SETTINGS or flags & ACK:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self._introduced = True
        try:
            if kind < len(self._by_kind):
                self._by_kind[kind](flags, stream, payload)
            else:
                self._allowance.spend()
        except StreamFault as fault:
            self._reset(stream, fault.code)
        except BadMessage as bad:
            self._calls[stream].break_off(bad.status, bad.why)

    def _data(self, flags: int, stream: int, payload: bytes) -> None:
        size = len(payload)
        if size:
            self._intake.count(size)
        if flags & PADDED:
            payload = unpadded(payload, flags)
        if not payload and not flags & END_STREAM:
            self._allowance.spend()
        call = self._calls.get(stream)
        if call is None:
            self._check_known(stream)
            self._late(stream)
            return
        if call.receiver.ended:
            raise StreamFault(Code.STREAM_CLOSED)
        call.receiver.feed(payload, size - len(payload))
        if flags & END_STREAM:
            call.receiver.end()

    def _headers(self, flags: int, stream: int, payload: bytes) -> None:
        if not stream % 2:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "not a stream that a client may open")
        block = unpadded(payload, flags)
        if flags & PRIORITIZED:
            if len(block) < 5:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a priority is cut off")
            if depends_on(block) == stream:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "a stream depends on itself")
            block = block[5:]
        self._check_size(len(block))
        if flags & END_HEADERS:
            self._begin(flags, stream, block)
        else:
            self._block = _Block(stream, flags, [block], len(block))

    def _continuation(self, flags: int, stream: int, payload: bytes) -> None:
        block = self._block
        if block is None:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "nothing is continued")
        block.pieces.append(payload)
        block.size += len(payload)
        if len(block.pieces) > self._bounds.continuations:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "a header block has too many frames")
        self._check_size(block.size)
        if flags & END_HEADERS:
            self._block = None
            self._begin(block.flags, stream, b"".join(block.pieces))

    def _check_size(self, size: int) -> None:
        if size > self._bounds.header_block:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "a header block is too long")

    def _begin(self, flags: int, stream: int, block: bytes) -> None:
        """A header block is complete, which opens a stream, or closes it from its client's side."""
        call = self._calls.get(stream)
        if call is not None:
            self._trailers(flags, stream, call, block)
        elif stream <= self._last:
            self._blocks.passed_over(block)
            if not self._late(stream):
                raise ConnectionFault(Code.STREAM_CLOSED, "a stream is opened that was closed")
        else:
            self._last = stream
            request = self._blocks.request(block)
            if self._refusing or max(len(self._calls), self._at_work) >= self._bounds.streams:
                self._allowance.spend()
                raise StreamFault(Code.REFUSED_STREAM)  # which says that nothing was done
            self._open(flags, stream, request)

    def _trailers(self, flags: int, stream: int, call: Call, block: bytes) -> None:
        if call.receiver.ended:
            self._blocks.passed_over(block)
            raise StreamFault(Code.STREAM_CLOSED)
        self._blocks.trailers(block)
        if not flags & END_STREAM:
            raise StreamFault(Code.PROTOCOL_ERROR)
        call.receiver.end()

    def _open(self, flags: int, stream: int, request: Request) -> None:
        output, bounds = self._output, self._bounds
        receiver = Receiver(self._intake, bounds, request.length, partial(output.grant, stream))
        sender = Sender(output, stream, partial(self._ended_by_us, stream))
        reset = partial(self._reset, stream, Code.CANCEL)
        call = Call(request, receiver, sender, self._heard, reset)
        self._calls[stream] = call
        output.allow_updates()
        if flags & END_STREAM:
            receiver.end()
        self._at_work += 1
        self._services.serve(call, self._done)

    def _done(self) -> None:
        self._at_work -= 1

    def _priority(self, flags: int, stream: int, payload: bytes) -> None:
        self._allowance.spend()
        if not stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a priority of no stream")
        if len(payload) != 5:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a priority is cut off")
        if depends_on(payload) == stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a stream depends on itself")

    def _reset_by_client(self, flags: int, stream: int, payload: bytes) -> None:
        read_number(payload)
        self._check_known(stream)
        call = self._calls.pop(stream, None)
        if call is None:
            self._allowance.spend()
            return
        self._drop(call)
        if not call.sender.begun:
            self._allowance.spend()
        self._leave()

    def _settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "settings of a stream")
        if flags & ACK:
            if payload:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "an acknowledgement says more")
            self._allowance.spend()
            return
        self._allowance.spend(1 + len(payload) // 6 + len(self._calls) // 32)
        for key, value in read_settings(payload):
            self._set(key, value)
        self._output.acknowledge_settings()
        for call in list(self._calls.values()):
            call.sender.push()

    def _set(self, key: int, value: int) -> None:
        if key == HEADER_TABLE_SIZE and value < _USUAL_TABLE:
            self._output.shrink_table()
        elif key == ENABLE_PUSH and value > 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        elif key == INITIAL_WINDOW_SIZE:
            self._resize_windows(value)
        elif key == MAX_FRAME_SIZE:
            if not SMALLEST_FRAME <= value <= LARGEST_FRAME:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "no size of frames")
            self._output.longest = value

    def _resize_windows(self, size: int) -> None:
        if size > LARGEST:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "a window is too wide")
        change = size - self._output.first_window
        if not change:
            return
        self._output.first_window = size
        try:
            for call in list(self._calls.values()):
                call.sender.resize(change)
        except StreamFault as fault:
            raise ConnectionFault(fault.code, "a window is too wide") from None

    def _push_promise(self, flags: int, stream: int, payload: bytes) -> None:
        raise ConnectionFault(Code.PROTOCOL_ERROR, "a client promises nothing")

    def _ping(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a PING of a stream")
        if len(payload) != 8:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a PING is not eight bytes")
        self._allowance.spend()
        if not flags & ACK:
            self._output.echo(payload)
        elif payload == _FAREWELL and self._leaving:
            self._refuse_more()

    def _goaway(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "GOAWAY of a stream")
        if len(payload) < 8:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "GOAWAY is cut off")
        self._allowance.spend()

    def _window_update(self, flags: int, stream: int, payload: bytes) -> None:
        size = read_number(payload) & LARGEST
        self._output.count_update()
        if not stream:
            if not size:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "a window becomes no wider")
            self._output.widen(size)
            return
        self._check_known(stream)
        if (call := self._calls.get(stream)) is None:
            return
        if not size:
            raise StreamFault(Code.PROTOCOL_ERROR)
        call.sender.widen(size)

    def _check_known(self, stream: int) -> None:
        """Raises ConnectionFault for a stream that was never opened."""
        if stream > self._last or not stream % 2:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a stream that was never opened")

    def _late(self, stream: int) -> bool:
        """Something comes of a stream that is gone: no wonder if it was we who ended it."""
        self._allowance.spend()
        if stream in self._given_up:
            return True
        self._output.reset(stream, Code.STREAM_CLOSED)
        return False

    # How streams end.

    def _ended_by_us(self, stream: int) -> None:
        """Trailers are on their way. A client that could still say something is told that nobody listens."""
        call = self._calls[stream]
        if not call.receiver.ended:
            self._output.frame(RST_STREAM, 0, stream, number(Code.NO_ERROR))
            self._given_up.append(stream)
        self._forget(stream)

    def _forget(self, stream: int) -> None:
        call = self._calls.pop(stream, None)
        if call is not None:
            call.receiver.drop()
            self._leave()

    def _reset(self, stream: int, code: Code) -> None:
        """End a stream at once, from our side."""
        self._output.frame(RST_STREAM, 0, stream, number(code))
        self._given_up.append(stream)
        if (call := self._calls.pop(stream, None)) is not None:
            self._drop(call)
            self._leave()

    @staticmethod
    def _drop(call: Call) -> None:
        call.sender.drop()
        call.receiver.drop()
        call.cancel()

    def _drop_all(self) -> None:
        calls, self._calls = self._calls, {}
        for call in calls.values():
            self._drop(call)

    # How the connection ends.

    def leave(self) -> None:
        """End gracefully: what is open is finished, and what is on its way here is still taken."""
        if self._leaving or self._over:
            return
        self._leaving = True
        self._output.frame(GOAWAY, 0, 0, number(LARGEST) + number(Code.NO_ERROR))
        self._output.frame(PING, 0, 0, _FAREWELL)
        self._loop.call_later(self._bounds.farewell, self._refuse_more)

    def _refuse_more(self) -> None:
        """Whatever the client sent before it heard of the end has come by now."""
        if not self._refusing and not self._over:
            self._refusing = True
            self._output.frame(GOAWAY, 0, 0, number(self._last) + number(Code.NO_ERROR))
            self._leave()

    def _leave(self) -> None:
        if self._refusing and not self._calls:
            self._hang_up()

    def break_off(self, status: Status, why: str) -> None:
        """End whatever is open, with this status, and the connection."""
        self._refusing = True
        for call in list(self._calls.values()):
            call.break_off(status, why)
        self._hang_up()

    def abort(self) -> None:
        self._transport.abort()

    def _fail(self, fault: ConnectionFault) -> None:
        _log.warning("connection.failed", code=fault.code.name, why=fault.why)
        why = fault.why.encode()
        self._output.frame(GOAWAY, 0, 0, number(self._last) + number(fault.code) + why)
        self._drop_all()
        self._hang_up()

    def _hang_up(self) -> None:
        """Say no more, and give the client a moment to read it: closing at once would take it away again."""
        if self._over:
            return
        self._over = True
        self._output.close()
        if self._transport.can_write_eof():
            with suppress(OSError):  # the client was faster
                self._transport.write_eof()
        else:
            self._transport.close()
        self._timer.cancel()
        self._timer = self._loop.call_later(self._bounds.linger, self._transport.abort)

    # What takes too long.

    def _tick(self) -> None:
        now, bounds = self._loop.time(), self._bounds
        self._timer = self._loop.call_later(bounds.tick, self._tick)
        quiet = now - self._heard
        late = not self._introduced and now - self._since >= bounds.greeting
        if late or (self._asked and quiet >= bounds.silence + bounds.echo):
            self._transport.abort()
        elif quiet >= bounds.silence and not self._asked:
            self._asked = True
            self._output.frame(PING, 0, 0, _ARE_YOU_THERE)
        for call in list(self._calls.values()):
            if not call.receiver.heard and now - call.opened >= bounds.first_message:
                call.break_off(Status.DEADLINE_EXCEEDED, "no message has come")
