"""Header blocks, each of which may change what the next one means."""

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.serving.http2.bounds import DEFAULT
from extproc.serving.http2.headers import HeaderBlocks

PSEUDO = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/echo")]


class Counted(hpack.Decoder):
    """Counts the blocks that are read."""

    read = 0

    def decode(self, data: bytes, raw: bool = False) -> list[hpack.HeaderTuple]:
        self.read += 1
        return list(super().decode(data, raw))


def literal(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


@pytest.mark.parametrize("more", [b"", literal(b"x", b"y")], ids=["indexed", "with-literals"])
def test_what_is_said_again_is_read_once(more: bytes) -> None:
    """A block that leaves the table as it is, until another one changes it."""
    encoder = hpack.Encoder()
    blocks = HeaderBlocks(DEFAULT)
    counted = Counted()
    counted.header_table = blocks._table
    blocks._decoder = counted
    blocks.request(encoder.encode(PSEUDO))
    again = encoder.encode(PSEUDO) + more
    first = blocks.request(again)
    assert blocks.request(again) is first
    assert counted.read == 2
    blocks.request(encoder.encode([*PSEUDO, (b"new", b"entry")]))
    # The same bytes are now about other entries of the table.
    shifted = encoder.encode(PSEUDO) + more
    assert shifted != again
    assert blocks.request(shifted) == first


FIELDS = st.tuples(st.sampled_from([b"a", b"b"]), st.sampled_from([b"1", b"2", b"3" * 3000]))


@given(
    said=st.lists(st.lists(FIELDS, max_size=3), max_size=30),
    sizes=st.lists(st.sampled_from([0, 100, 4096]), max_size=3),
)
def test_the_same_as_without_remembering(
    said: list[list[tuple[bytes, bytes]]], sizes: list[int]
) -> None:
    """A request is what was sent, whatever was sent before it: entries leave the table, and its size changes."""
    encoder = hpack.Encoder()
    blocks = HeaderBlocks(DEFAULT)
    resized = iter(sizes)
    for number, fields in enumerate(said):
        if number % 7 == 6:
            encoder.header_table_size = next(resized, 4096)
        metadata: dict[str, str] = {}
        for name, value in fields:
            key, text = name.decode(), value.decode()
            metadata[key] = f"{metadata[key]},{text}" if key in metadata else text
        assert blocks.request(encoder.encode([*PSEUDO, *fields])).metadata == metadata
