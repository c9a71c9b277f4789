"""Header blocks: what a client asks for, read and checked (RFC 9113, section 8), and what it is answered."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import hpack
from hpack.table import HeaderTable

from extproc.serving.calls import Status
from extproc.serving.http2.bounds import Bounds
from extproc.serving.http2.frames import Code, ConnectionFault, StreamFault

Fields: TypeAlias = Sequence[tuple[bytes, bytes]]

_NAME = re.compile(rb":?[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_FORBIDDEN = re.compile(rb"[\0\r\n]").search
_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path"))
_OF_CONNECTIONS = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
_ENTRY = 32
"""What RFC 9113 adds to each field's size."""

_REMEMBERED = 64
_RESIZED = 0x20
"""How a block begins that gives the table another size."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a stream begins with. `length` is the content-length, if it has one."""

    method: str
    path: str
    metadata: Mapping[str, str]
    length: int | None
    oversized: bool


class _Table(HeaderTable):  # type: ignore[misc,unused-ignore]
    """The client's table, which counts how often it has changed."""

    changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.changes += 1
        super().add(name, value)


class HeaderBlocks:
    """Reads the header blocks of one connection, each of which may change how the next one is read."""

    __slots__ = ("_decoder", "_known", "_table", "_usual")

    def __init__(self, bounds: Bounds) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=2 * bounds.header_list)
        self._table = self._decoder.header_table = _Table()
        self._usual = bounds.header_list
        # Envoy sends the same few requests over and over: a block that changes nothing of the table is read once, as
        # long as the table stays as it is.
        self._known: dict[bytes, Request] = {}

    def request(self, block: bytes) -> Request:
        """Raises ConnectionFault for a block that cannot be read, and StreamFault for a request that is none."""
        request = self._known.get(block)
        if request is not None:
            return request
        before = self._table.changes
        fields = self._fields(block)
        changed = self._table.changes != before or (bool(block) and block[0] & 0xE0 == _RESIZED)
        if changed or len(self._known) >= _REMEMBERED:
            self._known.clear()
        request = _request(fields, self._usual)
        if not changed:
            self._known[block] = request
        return request

    def trailers(self, block: bytes) -> None:
        """Read what nobody asks for, since it may change how the next block is read."""
        self._known.clear()
        fields = self._fields(block)
        _check(fields)
        if any(name[0] == ord(":") for name, _ in fields):
            raise StreamFault(Code.PROTOCOL_ERROR)

    def passed_over(self, block: bytes) -> None:
        """Read a block of a stream that is not there any more."""
        self._known.clear()
        self._fields(block)

    def _fields(self, block: bytes) -> Fields:
        try:
            return [
                (bytes(name), bytes(value)) for name, value in self._decoder.decode(block, True)
            ]
        except hpack.OversizedHeaderListError:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "a header list is too long") from None
        except hpack.HPACKError:
            raise ConnectionFault(Code.COMPRESSION_ERROR, "no header block") from None


def _request(fields: Fields, usual: int) -> Request:
    _check(fields)
    pseudo, metadata = _split(fields)
    method = pseudo.get(b":method")
    if not method or (method != b"CONNECT" and not _complete(pseudo)):
        raise StreamFault(Code.PROTOCOL_ERROR)
    return Request(
        _text(method),
        _text(pseudo.get(b":path", b"")),
        metadata,
        _content_length(metadata),
        sum(len(name) + len(value) + _ENTRY for name, value in fields) > usual,
    )


def _complete(pseudo: Mapping[bytes, bytes]) -> bool:
    return bool(pseudo.get(b":path")) and b":scheme" in pseudo


def _check(fields: Fields) -> None:
    """Raises StreamFault for what may stand in no message."""
    for name, value in fields:
        if (
            not _NAME(name)
            or _FORBIDDEN(value)
            or name in _OF_CONNECTIONS
            or (name == b"te" and value != b"trailers")
        ):
            raise StreamFault(Code.PROTOCOL_ERROR)


def _split(fields: Fields) -> tuple[dict[bytes, bytes], dict[str, str]]:
    """Pseudo-headers, which come first and once each; and the others, where one that comes twice is one value."""
    pseudo: dict[bytes, bytes] = {}
    others: dict[str, str] = {}
    for name, value in fields:
        if name[0] == ord(":"):
            if others or name in pseudo or name not in _PSEUDO:
                raise StreamFault(Code.PROTOCOL_ERROR)
            pseudo[name] = value
        else:
            key, text = _text(name), _text(value)
            others[key] = f"{others[key]},{text}" if key in others else text
    return pseudo, others


def _content_length(metadata: Mapping[str, str]) -> int | None:
    text = metadata.get("content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise StreamFault(Code.PROTOCOL_ERROR)
    return int(text)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


# What is answered. Nothing of it enters the client's table, so that these are constants.


def encoded(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Fields as a block, each of them literally and without an index."""
    return b"".join(b"\x00" + _string(name) + _string(value) for name, value in fields)


def _string(value: bytes) -> bytes:
    return bytes(hpack.hpack.encode_integer(len(value), 7)) + value


EMPTY_TABLE = b"\x20"
"""What goes before the next block when a client makes its table smaller: ours needs none."""

BEGINNING = encoded(((b":status", b"200"), (b"content-type", b"application/grpc")))
"""What every answer begins with."""

_ENDED_WELL = encoded(((b"grpc-status", b"0"),))
_MESSAGE = 1024


def trailers(status: Status, why: str = "") -> bytes:
    """What every answer ends with. `why` is for people."""
    if status is Status.OK:
        return _ENDED_WELL
    fields = [(b"grpc-status", b"%d" % status)]
    if why:
        fields.append((b"grpc-message", _percent_encoded(why)))
    if status is Status.UNIMPLEMENTED:
        fields.append((b"grpc-accept-encoding", b"identity"))
    return encoded(fields)


def _percent_encoded(text: str) -> bytes:
    raw = text.encode("utf-8", "replace")[:_MESSAGE]
    return b"".join(
        b"%c" % byte if 0x20 <= byte < 0x7F and byte != ord("%") else b"%%%02X" % byte
        for byte in raw
    )


def plain(status: int, length: int) -> bytes:
    """The beginning of an answer to what is not gRPC."""
    return encoded(
        (
            (b":status", b"%d" % status),
            (b"content-type", b"text/plain"),
            (b"content-length", b"%d" % length),
        )
    )
