"""Server-sent events as bytes: an incremental reader and a writer, without any I/O."""

from typing import Final

from msgspec import Struct

DONE: Final = b"[DONE]"

_BOM: Final = b"\xef\xbb\xbf"
_DATA: Final = b"data: "
_COMMENT: Final = b":"
_MAX_EVENT: Final = 32 * 1024 * 1024
_PIECE: Final = 64 * 1024


class IncompleteEvent(ValueError):
    """The stream ended inside an event."""


class EventTooLarge(ValueError):
    """One event is larger than the reader accepts."""


class ServerSentEvent(Struct, frozen=True, gc=False):
    """One event; the data stays bytes because what reads it next is a JSON decoder."""

    data: bytes
    event: str = ""
    # As the standard has it, an id holds for all later events until another one comes.
    id: str = ""


class EventReader:
    """Cuts a stream, arriving in pieces of any size, into events.

    What is kept between two pieces is one unfinished event, never more than about `max_event` bytes
    of data and one line. Comments count for nothing.
    """

    __slots__ = (
        "_after_cr",
        "_event",
        "_failed",
        "_first",
        "_head",
        "_id",
        "_max_event",
        "_more",
        "_open",
        "_partial",
        "_room",
    )

    def __init__(self, max_event: int = _MAX_EVENT) -> None:
        self._max_event = max_event
        self._failed = False
        # What may still become a byte order mark; None once that is settled.
        self._head: bytes | None = b""
        self._after_cr = False
        self._partial = bytearray()  # the unfinished line, in which there is no line end to find
        self._id = ""
        self._open = False  # whether a stream that ends here is cut off
        self._event = ""
        self._first: bytes | None = None
        self._more = bytearray()
        self._room = max_event

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """The events that this piece completed.

        After EventTooLarge the reader stays failed: what follows belongs to an event that was lost.
        """
        if self._failed:
            self._fail()
        if self._head is not None:
            data = self._without_bom(self._head + data)
        events: list[ServerSentEvent] = []
        # Split in slices, because a list of very short lines is many times larger than its text.
        for start in range(0, len(data), _PIECE):
            self._take(data[start : start + _PIECE], events)
        return events

    def close(self) -> None:
        """Says that the stream has ended; raises IncompleteEvent if it ended inside an event."""
        line = self._partial
        in_line = bool(line) and not line.isspace() and not line.startswith(_COMMENT)
        if self._head or self._open or in_line or self._failed:
            raise IncompleteEvent("the event stream ended inside an event")

    def rest(self) -> ServerSentEvent | None:
        """What the stream's last event says, if no blank line has ended it. For the end of the stream only."""
        line = bytes(self._partial)
        self._partial.clear()
        events: list[ServerSentEvent] = []
        if not self._failed:
            if line and not line.startswith(_COMMENT):
                self._field(line)
            self._dispatch(events)
        return events[0] if events else None

    def _without_bom(self, head: bytes) -> bytes:
        if len(head) < len(_BOM) and _BOM.startswith(head):
            self._head = head
            return b""
        self._head = None
        return head.removeprefix(_BOM)

    def _take(self, piece: bytes, events: list[ServerSentEvent]) -> None:
        lines = self._only_lf(piece).split(b"\n")
        rest = lines.pop()
        if lines and self._partial:
            lines[0] = b"".join((self._partial, lines[0]))
            self._partial.clear()
        for line in lines:
            if not line:
                self._dispatch(events)
            elif not line.startswith(_COMMENT):
                self._field(line)
        if rest:
            self._hold(rest)

    def _only_lf(self, piece: bytes) -> bytes:
        # A CR ends its line at once, so that no event waits for the next piece; an LF that then
        # turns out to belong to it is dropped.
        if self._after_cr:
            piece = piece.removeprefix(b"\n")
        self._after_cr = piece.endswith(b"\r")
        return _with_lf(piece)

    def _hold(self, rest: bytes) -> None:
        self._partial += rest
        if self._partial.startswith(_COMMENT):
            del self._partial[1:]
        elif len(self._partial) > self._room:
            self._fail()

    def _field(self, line: bytes) -> None:
        if len(line) > self._room:
            self._fail()
        if line.startswith(_DATA):  # nearly every line there is
            self._add(line[len(_DATA) :])
            return
        self._open = self._open or not line.isspace()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._add(value)
        elif name == b"event":
            self._event = value.decode(errors="replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode(errors="replace")

    def _add(self, value: bytes) -> None:
        # One line of data, the usual case, is not copied again; further ones share one buffer,
        # because a list of short lines would outgrow `max_event`.
        if self._first is None:
            self._open = True
            self._first = value
        else:
            self._more += b"\n"
            self._more += value
        self._room -= len(value) + 1

    def _dispatch(self, events: list[ServerSentEvent]) -> None:
        if self._first is not None:
            data = b"".join((self._first, self._more)) if self._more else self._first
            events.append(ServerSentEvent(data, self._event, self._id))
        if self._open:
            self._begin()

    def _begin(self) -> None:
        self._open = False
        self._event = ""
        self._first = None
        if self._more:
            self._more = bytearray()
        self._room = self._max_event

    def _fail(self) -> None:
        self._partial.clear()
        self._begin()
        self._failed = True
        raise EventTooLarge(f"an event of the stream is larger than {self._max_event} bytes")


def encode_event(data: bytes, event: str = "") -> bytes:
    """One event as bytes; a CR or CRLF in the data reaches the reader as LF."""
    if "\n" in event or "\r" in event:
        raise ValueError("the name of an event cannot contain a line end")
    name = b"event: %b\n" % event.encode() if event else b""
    return b"%bdata: %b\n\n" % (name, _with_lf(data).replace(b"\n", b"\ndata: "))


def encode_comment(text: str = "") -> bytes:
    """A comment as bytes, which keeps a connection alive and which every reader skips."""
    lines = _with_lf(text.encode(errors="replace"))
    return b": %b\n\n" % lines.replace(b"\n", b"\n: ")


def _with_lf(data: bytes) -> bytes:
    if b"\r" in data:
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return data
