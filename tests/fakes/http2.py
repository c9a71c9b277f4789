"""An HTTP/2 client in memory: it sends what it is told to, right or wrong, and takes apart what it is sent."""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import hpack

from extproc.serving.calls import Call, Handler
from extproc.serving.http2.bounds import DEFAULT, Bounds
from extproc.serving.http2.connection import Connection
from extproc.serving.http2.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Code,
    head,
    number,
    settings,
)
from extproc.serving.http2.services import Handlers

GRPC: tuple[tuple[str, str], ...] = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/echo"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
)


@dataclass(frozen=True)
class Frame:
    """One frame of the server's."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> Code:
        """Of RST_STREAM or GOAWAY."""
        place = 4 if self.kind == GOAWAY else 0
        return Code(struct.unpack_from(">L", self.payload, place)[0])


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return head(len(payload), kind, flags, stream) + payload


def message(data: bytes) -> bytes:
    """As gRPC frames it."""
    return struct.pack(">BL", 0, len(data)) + data


def cut(data: bytes) -> Iterator[Frame]:
    """Frames, which must be whole."""
    at = 0
    while at < len(data):
        high, low, kind, flags, stream = struct.unpack_from(">BHBBL", data, at)
        stop = at + 9 + (high << 16 | low)
        assert stop <= len(data)
        yield Frame(kind, flags, stream, data[at + 9 : stop])
        at = stop


class Pipe(asyncio.Transport):
    """A transport of asyncio's whose other end is this test. While it is `stuck`, nobody reads there."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self.written = bytearray()
        self.writes = 0
        self.stuck = False
        self.ended = False
        self.gone = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ended
        self.written += data
        self.writes += 1
        if self.stuck:
            self._protocol.pause_writing()

    def flow(self) -> None:
        """Somebody reads again."""
        self.stuck = False
        self._protocol.resume_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.gone

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self.gone:
            self.gone = True
            self._loop.call_soon(self._protocol.connection_lost, None)


@dataclass
class Client:
    """One connection to handlers, which are called by path."""

    connection: Connection
    pipe: Pipe
    encoder: hpack.Encoder = field(default_factory=hpack.Encoder)
    decoder: hpack.Decoder = field(default_factory=hpack.Decoder)
    read: int = 0

    def send(self, *frames: bytes) -> None:
        """At once, as one read of the server's."""
        if not self.pipe.gone:
            self.connection.data_received(b"".join(frames))

    def block(self, fields: Iterable[tuple[str, str]] = GRPC, /, **more: str) -> bytes:
        """A header block; `path="/x"` takes the place of a pseudo-header, any other word adds a header."""
        named = dict(fields)
        for name, value in more.items():
            named[f":{name}" if f":{name}" in named else name.replace("_", "-")] = value
        return bytes(self.encoder.encode(list(named.items())))

    def opened(self, stream: int, flags: int = 0, /, **more: str) -> bytes:
        """HEADERS of a gRPC request."""
        return frame(HEADERS, END_HEADERS | flags, stream, self.block(GRPC, **more))

    def told(self) -> list[Frame]:
        """What has been sent since the last look."""
        found = list(cut(bytes(self.pipe.written[self.read :])))
        self.read = len(self.pipe.written)
        return found

    async def heard(self) -> list[Frame]:
        """What is sent once everybody has had their turn."""
        for _ in range(12):
            await asyncio.sleep(0)
        return self.told()

    def fields(self, frame: Frame) -> dict[str, str]:
        return {str(name): str(value) for name, value in self.decoder.decode(frame.payload)}

    async def status(self, stream: int = 1) -> tuple[str, str]:
        """The gRPC status and message with which a stream has ended."""
        told = [each for each in await self.heard() if each.stream == stream]
        (last,) = (each for each in told if each.kind == HEADERS and each.flags & END_STREAM)
        fields = self.fields(last)
        return fields["grpc-status"], fields.get("grpc-message", "")

    @property
    def is_closed(self) -> bool:
        """Whether the server says nothing more."""
        return self.pipe.ended or self.pipe.gone


def data(stream: int, payload: bytes, flags: int = 0) -> bytes:
    return frame(DATA, flags, stream, payload)


def window(stream: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, number(size))


def reset(stream: int, code: Code = Code.CANCEL) -> bytes:
    return frame(RST_STREAM, 0, stream, number(code))


def set_to(values: Mapping[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, settings(dict(values)))


async def echo(call: Call) -> None:
    """Sends back what it is sent."""
    while (each := await call.read()) is not None:
        await call.write(each)


@asynccontextmanager
async def talking(
    handlers: Mapping[str, Handler] | None = None, bounds: Bounds = DEFAULT, *, greet: bool = True
) -> AsyncIterator[Client]:
    """A connection, by default to an echo, greeted unless it is not to be."""
    async with asyncio.TaskGroup() as tasks:
        served = Handlers(handlers or {"/echo": echo}, tasks)
        connection = Connection(served, bounds, lambda _: True, lambda _: None)
        pipe = Pipe(connection)
        connection.connection_made(pipe)
        client = Client(connection, pipe)
        if greet:
            client.send(PREFACE, set_to({}), frame(SETTINGS, ACK, 0))
            client.told()
        try:
            yield client
        finally:
            pipe.abort()
            await asyncio.sleep(0)
