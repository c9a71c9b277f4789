"""Answers that are far too large, made of one block that is sent again and again: they need little memory."""

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from looper.simulate.shapes import Delivery

MARK = "~size~"
"""A reply of this one token says where the text of a swollen answer goes."""

_GZIP_HEADER = b"\x1f\x8b\x08" + bytes(6) + b"\xff"


@dataclass(frozen=True, slots=True)
class Swollen:
    head: bytes
    block: bytes
    count: int
    tail: bytes

    @property
    def pieces(self) -> tuple[bytes, ...]:
        return (self.head, *(self.block,) * self.count, self.tail)


def swollen(delivery: Delivery, size: int, unit: int) -> Swollen:
    """An answer with `size` characters in place of the mark, `unit` of them in each block or chunk."""
    mark, filler = MARK.encode(), b"x" * min(unit, size)
    marked = (at for at, piece in enumerate(delivery.pieces) if mark in piece)
    at = next(marked, None)
    if at is None:  # it is no chat completion
        return Swollen(b"".join(delivery.pieces), b"", 0, b"")
    front, _, back = delivery.pieces[at].partition(mark)
    count, rest = divmod(size, unit)
    before, after = b"".join(delivery.pieces[:at]), b"".join(delivery.pieces[at + 1 :])
    if delivery.streamed:
        return Swollen(before, front + filler + back, count, front + filler[:rest] + back + after)
    return Swollen(before + front, filler, count, filler[:rest] + back + after)


def gzipped(answer: Swollen) -> tuple[bytes, ...]:
    """A swollen answer as gzip, for which its block is compressed only once."""
    block = _deflated(answer.block, zlib.Z_FULL_FLUSH)
    size = len(answer.head) + len(answer.block) * answer.count + len(answer.tail)
    checksum = zlib.crc32(answer.tail, _repeated_crc32(answer))
    return (
        _GZIP_HEADER + _deflated(answer.head, zlib.Z_FULL_FLUSH),
        *(block,) * answer.count,
        _deflated(answer.tail, zlib.Z_FINISH) + struct.pack("<II", checksum, size % 2**32),
    )


def _deflated(data: bytes, flush: int) -> bytes:
    # After a full flush nothing refers back, so that what is compressed may come many times.
    compressor = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush(flush)


def _repeated_crc32(answer: Swollen) -> int:
    """The checksum up to the tail, without going through every block."""
    # What a block does to a checksum is linear but for a constant, so 32 tries tell everything.
    constant = zlib.crc32(answer.block)
    effects = [zlib.crc32(answer.block, 1 << bit) ^ constant for bit in range(32)]
    checksum = zlib.crc32(answer.head)
    for _ in range(answer.count):
        checksum = constant ^ _sum(e for bit, e in enumerate(effects) if checksum >> bit & 1)
    return checksum


def _sum(vectors: Iterable[int]) -> int:
    total = 0
    for vector in vectors:
        total ^= vector
    return total
