"""HTTP/2's frames as bytes (RFC 9113, sections 4 and 6): their numbers, and how they are cut out of what comes."""

from collections.abc import Iterator
from enum import IntEnum
from struct import Struct
from typing import TypeAlias

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA = 0
HEADERS = 1
PRIORITY = 2
RST_STREAM = 3
SETTINGS = 4
PUSH_PROMISE = 5
PING = 6
GOAWAY = 7
WINDOW_UPDATE = 8
CONTINUATION = 9

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITIZED = 0x20

HEADER_TABLE_SIZE = 1
ENABLE_PUSH = 2
MAX_CONCURRENT_STREAMS = 3
INITIAL_WINDOW_SIZE = 4
MAX_FRAME_SIZE = 5
MAX_HEADER_LIST_SIZE = 6

FIRST_WINDOW = 65_535
SMALLEST_FRAME = 1 << 14
LARGEST_FRAME = (1 << 24) - 1
LARGEST = (1 << 31) - 1
"""The largest window, and the highest id of a stream."""

Frame: TypeAlias = tuple[int, int, int, bytes]
"""Type, flags, stream, payload."""

_HEAD = Struct(">BHBBL")
_U32 = Struct(">L")
_SETTING = Struct(">HL")


class Code(IntEnum):
    """Why a stream or a connection ends before its time."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class ConnectionFault(Exception):
    """What makes a whole connection useless."""

    def __init__(self, code: Code, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.why = why


class StreamFault(Exception):
    """What ends one stream, and leaves the others alone."""

    def __init__(self, code: Code) -> None:
        super().__init__(code.name)
        self.code = code


class Frames:
    """Cuts what a client sends into frames; what is not complete yet waits for the rest."""

    __slots__ = ("_longest", "_needed", "_rest", "greeted")

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._rest = bytearray()
        self._needed = 0
        self.greeted = False

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete with `data`. Raises ConnectionFault for what is none."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
            self._rest.clear()
        at = 0 if self.greeted else self._greet(data)
        size = len(data) if self.greeted else 0
        self._needed = 9
        while size - at >= 9:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
            length = high << 16 | low
            if length > self._longest:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a frame is too long")
            stop = at + 9 + length
            if stop > size:
                self._needed = 9 + length
                break
            yield kind, flags, stream & LARGEST, data[at + 9 : stop]
            at = stop
        if at < len(data):
            self._rest += data[at:]

    @property
    def missing(self) -> int:
        """Bytes of a frame that is there in part, its head at least."""
        return max(self._needed - len(self._rest), 0) if self._rest else 0

    def _greet(self, data: bytes) -> int:
        """Where frames begin: after the preface, as much of which as is there must be right."""
        size = min(len(data), len(PREFACE))
        if data[:size] != PREFACE[:size]:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "this is not HTTP/2")
        self.greeted = size == len(PREFACE)
        return size if self.greeted else 0


def head(length: int, kind: int, flags: int, stream: int) -> bytes:
    """What goes before a payload of that length."""
    return _HEAD.pack(length >> 16, length & 0xFFFF, kind, flags, stream)


def number(value: int) -> bytes:
    return _U32.pack(value)


def read_number(payload: bytes) -> int:
    """Raises ConnectionFault if it is not one number of 32 bits."""
    if len(payload) != 4:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "not four bytes")
    value: int = _U32.unpack(payload)[0]
    return value


def settings(values: dict[int, int]) -> bytes:
    return b"".join(_SETTING.pack(key, value) for key, value in values.items())


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """Raises ConnectionFault if they are cut off."""
    if len(payload) % 6:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "settings that are cut off")
    return _SETTING.iter_unpack(payload)


def unpadded(payload: bytes, flags: int) -> bytes:
    """The payload without its padding. Raises ConnectionFault if that is longer than there is."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(Code.PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - payload[0]]


def depends_on(payload: bytes) -> int:
    """The stream that a priority, whose bytes these are, names. No attention is paid to priorities but for that."""
    value: int = _U32.unpack_from(payload)[0]
    return value & LARGEST
