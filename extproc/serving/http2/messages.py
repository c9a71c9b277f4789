"""gRPC's messages as bytes: a length before each (the "Length-Prefixed-Message" of gRPC over HTTP/2)."""

from collections.abc import Sequence
from struct import Struct

from extproc.serving.calls import Status

_PREFIX = Struct(">BL")
PREFIX = _PREFIX.size


class BadMessage(Exception):
    """What cannot be read as messages, and the status with which a call that sent it ends."""

    def __init__(self, status: Status, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


def prefix(length: int) -> bytes:
    return _PREFIX.pack(0, length)


class Messages:
    """Cuts what a client sends in one stream into messages."""

    __slots__ = ("_longest", "_needed", "_partial")

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._partial = bytearray()
        self._needed = 0

    @property
    def partial(self) -> bool:
        """Whether a message is there in part."""
        return bool(self._partial)

    def feed(self, data: bytes) -> Sequence[bytes]:
        """The messages that are complete with `data`. Raises BadMessage."""
        if not self._partial:
            if len(data) >= PREFIX and self._length(data) == len(data):
                return (data[PREFIX:],)
            self._needed = 0
        self._partial += data
        if len(self._partial) < self._needed:
            return ()
        return self._cut()

    def _cut(self) -> list[bytes]:
        found = []
        partial = self._partial
        at = 0
        self._needed = PREFIX
        with memoryview(partial) as view:  # a message of megabytes is copied once
            while len(partial) - at >= PREFIX:
                needed = self._length(partial, at)
                if len(partial) - at < needed:
                    self._needed = needed
                    break
                found.append(bytes(view[at + PREFIX : at + needed]))
                at += needed
        del partial[:at]
        return found

    def _length(self, data: bytes | bytearray, at: int = 0) -> int:
        """Of the message that begins there, with what goes before it."""
        compressed, length = _PREFIX.unpack_from(data, at)
        if compressed == 1:
            raise BadMessage(Status.UNIMPLEMENTED, "messages must not be compressed")
        if compressed:
            raise BadMessage(Status.INTERNAL, "not a message")
        if length > self._longest:
            raise BadMessage(
                Status.RESOURCE_EXHAUSTED, f"a message is longer than {self._longest} bytes"
            )
        return PREFIX + int(length)
