import re
import time
import tracemalloc
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from looper.wire.sse import (
    DONE,
    EventReader,
    EventTooLarge,
    IncompleteEvent,
    ServerSentEvent,
    encode_comment,
    encode_event,
)

BOM = b"\xef\xbb\xbf"
LINE_ENDS = (b"\n", b"\r", b"\r\n")

# No deadline: how long one example takes on a shared machine says nothing.
thorough = settings(deadline=None, max_examples=300)

# Streams of what the format gives a meaning to: most examples hit several rules at once.
tokens = st.sampled_from(
    [
        b"data", b"data:", b"data: ", b"event", b"event: ", b"id", b"id: ", b"retry: 5", b":", b" ",
        b"\n", b"\n", b"\n\n", b"\r", b"\r\r", b"\r\n", b"\r\n\r\n", b"x", b"\0", b"\t",
        b"{}", b"dat", BOM, BOM[:1], BOM[1:], "é→😀".encode(), b"\xff",
    ]
)  # fmt: skip
streams = st.lists(tokens, max_size=40).map(b"".join) | st.binary(max_size=60)
cuts = st.lists(st.integers(min_value=0, max_value=400), max_size=30)
datas = st.lists(tokens, max_size=12).map(b"".join) | st.binary(max_size=60)
# What UTF-8 cannot carry (lone surrogates) is no name.
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=12)


def pieces(raw: bytes, at: Iterable[int]) -> list[bytes]:
    bounds = [0, *sorted(min(cut, len(raw)) for cut in at), len(raw)]
    return [raw[a:b] for a, b in pairwise(bounds)]


def read(parts: Iterable[bytes], reader: EventReader | None = None) -> list[ServerSentEvent]:
    reader = reader or EventReader()
    return [event for part in parts for event in reader.feed(part)]


def is_complete(reader: EventReader) -> bool:
    try:
        reader.close()
    except IncompleteEvent:
        return False
    return True


def outcome(parts: Iterable[bytes], max_event: int = 1000) -> tuple[list[ServerSentEvent], str]:
    reader, events = EventReader(max_event), []
    try:
        for part in parts:
            events += reader.feed(part)
    except EventTooLarge:
        return [], "too large"
    return events, "complete" if is_complete(reader) else "incomplete"


def reference(raw: bytes) -> tuple[list[ServerSentEvent], str]:
    """The standard's algorithm on the whole input, one line after the other."""
    *lines, rest = re.split(rb"\r\n|\r|\n", raw.removeprefix(BOM))
    events: list[ServerSentEvent] = []
    block: list[bytes] = []
    last_id = ""
    for line in lines:
        if line:
            block.append(line)
            continue
        data, event, last_id = reference_block(block, last_id)
        if data:
            events.append(ServerSentEvent(b"\n".join(data), event, last_id))
        block = []
    unfinished = any(line.strip() and line[:1] != b":" for line in [*block, rest])
    return events, "incomplete" if unfinished else "complete"


def reference_block(block: list[bytes], last_id: str) -> tuple[list[bytes], str, str]:
    data, event = [], ""
    for line in block:
        name, value = line.split(b":", 1) if b":" in line else (line, b"")
        value = value[1:] if value[:1] == b" " else value
        if name == b"data":
            data.append(value)
        if name == b"event":
            event = value.decode("utf-8", "replace")
        if name == b"id" and b"\0" not in value:
            last_id = value.decode("utf-8", "replace")
    return data, event, last_id


def lf(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


@thorough
@given(streams, cuts)
def test_agrees_with_the_reference(raw: bytes, at: list[int]) -> None:
    """However a stream is cut, its events and its completeness are those of the naive parser."""
    assert outcome(pieces(raw, at)) == reference(raw)


@thorough
@given(streams)
def test_byte_by_byte_is_the_same_as_whole(raw: bytes) -> None:
    """Single bytes give the events that the whole gives, also inside UTF-8, CRLF and the BOM."""
    assert outcome(pieces(raw, range(len(raw)))) == outcome([raw])


@thorough
@given(streams, cuts, st.integers(min_value=0, max_value=30))
def test_the_limit_does_not_depend_on_the_cuts(raw: bytes, at: list[int], limit: int) -> None:
    """Whether an event is too large depends on the stream and not on how it is cut."""
    assert outcome(pieces(raw, at), limit) == outcome([raw], limit)


@thorough
@given(st.lists(st.tuples(datas, names), max_size=6), st.text(max_size=10), cuts)
def test_reads_what_was_written(
    written: list[tuple[bytes, str]], comment: str, at: list[int]
) -> None:
    """Events survive writing and reading, with comments between; CR and CRLF in data become LF."""
    raw = b"".join(encode_comment(comment) + encode_event(*each) for each in written)
    reader = EventReader()
    events = read(pieces(raw, at), reader)
    reader.close()
    assert events == [ServerSentEvent(lf(data), event) for data, event in written]


@thorough
@given(st.text())
def test_a_comment_stays_a_comment(text: str) -> None:
    """No text, whatever its line ends, breaks out of its comment."""
    *lines, blank, rest = encode_comment(text).split(b"\n")
    assert b"\r" not in b"".join(lines)
    assert all(line.startswith(b": ") for line in lines)
    assert (blank, rest) == (b"", b"")


@thorough
@given(st.lists(st.tuples(st.sampled_from([b"data: a", b": c", b"x: y", b"data", b""]),
                          st.sampled_from(LINE_ENDS)), max_size=20), cuts)  # fmt: skip
def test_line_ends_may_be_mixed(lines: list[tuple[bytes, bytes]], at: list[int]) -> None:
    """LF, CR and CRLF mean the same, also mixed within one stream."""
    # A CR, an empty line and its LF are a CRLF to everybody; a comment keeps the two apart.
    raw = b"".join(line + end + (b": \n" if end == b"\r" else b"") for line, end in lines)
    plain = b"".join(line + b"\n" for line, _ in lines)
    assert read(pieces(raw, at)) == read([plain])


@pytest.mark.parametrize(
    ("raw", "events"),
    [
        pytest.param(
            b"data: one\ndata: two\ndata: three\n\n",
            [ServerSentEvent(b"one\ntwo\nthree")],
            id="lines-of-data-are-joined",
        ),
        pytest.param(
            b"event: add\ndata: 73\n\nevent: remove\ndata: 21\n\ndata: 5\n\n",
            [
                ServerSentEvent(b"73", "add"),
                ServerSentEvent(b"21", "remove"),
                ServerSentEvent(b"5"),
            ],
            id="a-name-holds-for-one-event",
        ),
        pytest.param(
            b": hello\n\ndata: first\nid: 1\n\ndata:second\nid\n\ndata:  third\n\n",
            [
                ServerSentEvent(b"first", id="1"),
                ServerSentEvent(b"second"),
                ServerSentEvent(b" third"),
            ],
            id="comment-then-id-then-id-reset-then-two-spaces",
        ),
        pytest.param(
            b"data\n\ndata\ndata\n\ndata:",
            [ServerSentEvent(b""), ServerSentEvent(b"\n")],
            id="empty-data-is-an-event-and-the-unfinished-one-is-not",
        ),
        pytest.param(
            b"data:test\n\ndata: test\n\n",
            [ServerSentEvent(b"test"), ServerSentEvent(b"test")],
            id="the-space-after-the-colon-is-optional",
        ),
        pytest.param(
            b"id: 7\ndata: a\n\ndata: b\n\nid: 8\0\ndata: c\n\n",
            [ServerSentEvent(b, id="7") for b in (b"a", b"b", b"c")],
            id="an-id-holds-on-and-one-with-nul-is-ignored",
        ),
        pytest.param(
            b"event: x\nid: 9\n\ndata: a\n\n",
            [ServerSentEvent(b"a", id="9")],
            id="without-data-no-event-and-no-name-left-over",
        ),
        pytest.param(
            b"retry: 10\nfoo: bar\nDATA: no\n data: no\ndatab: no\ndata: yes\n\n",
            [ServerSentEvent(b"yes")],
            id="other-fields-are-ignored",
        ),
        pytest.param(b"\n\n\n: c\n\r\n\r\r", [], id="blank-lines-and-comments-only"),
        pytest.param(BOM + b"data: a\n\n", [ServerSentEvent(b"a")], id="bom-at-the-start"),
        pytest.param(BOM + BOM + b"data: a\n\n", [], id="only-one-bom-is-ignored"),
        pytest.param(
            b"data: a\n\n" + BOM + b"data: b\n\n", [ServerSentEvent(b"a")], id="no-bom-later"
        ),
        pytest.param(
            b"data: a\n: c\ndata: b\n\n", [ServerSentEvent(b"a\nb")], id="comment-inside-an-event"
        ),
        pytest.param(
            b"data: a:b: c\n\n", [ServerSentEvent(b"a:b: c")], id="only-the-first-colon-counts"
        ),
        pytest.param(
            "data: a\u2028b\x85\x0bc\n\n".encode(),
            [ServerSentEvent("a\u2028b\x85\x0bc".encode())],
            id="other-line-separators-are-text",
        ),
        pytest.param(
            b"event: \xff\ndata: \xff\n\n",
            [ServerSentEvent(b"\xff", "\ufffd")],
            id="data-is-raw-and-names-are-repaired",
        ),
        pytest.param(b"data: [DONE]\n\n", [ServerSentEvent(DONE)], id="done"),
    ],
)
def test_the_standard(raw: bytes, events: list[ServerSentEvent]) -> None:
    """A stream gives the events that the standard says, whole and byte by byte."""
    assert read([raw]) == events
    assert read(pieces(raw, range(len(raw)))) == events


@pytest.mark.parametrize("end", LINE_ENDS, ids=["lf", "cr", "crlf"])
def test_an_event_does_not_wait_for_the_next_piece(end: bytes) -> None:
    """An event is returned with the first byte of the blank line that ends it."""
    reader = EventReader()
    assert reader.feed(b"data: a" + end) == []
    assert reader.feed(end[:1]) == [ServerSentEvent(b"a")]
    assert reader.feed(end[1:]) == []
    reader.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"d",
        b"data",
        b"data: a",
        b"data: a\n",
        b"data: a\r",
        b"data: a\r\n",
        b"data: a\n\ndata: b",
        b"data: a\n: comment\n",
        b"event: a\n",
        b"id: 1\n",
        b'{"error": "not an event stream"}',
        b"<html>\n",
        BOM[:2],
    ],
    ids=repr,
)
def test_a_stream_that_ends_inside_an_event_is_incomplete(raw: bytes) -> None:
    """A stream that stops before the blank line of an event is told from one that ended well."""
    reader = EventReader()
    reader.feed(raw)
    with pytest.raises(IncompleteEvent):
        reader.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        BOM,
        b"\n\n",
        b"data: a\n\n",
        b"data: a\r\r",
        b"data: a\r\n\r",
        b"data: a\n\n \t",
        b"data: a\n\n  \n",
        b"data: a\n\n: cut off in a comm",
        b"data: a\n\n: comment\n",
    ],
    ids=repr,
)
def test_a_stream_that_ends_between_events_is_complete(raw: bytes) -> None:
    """What may trail the last event without making a stream incomplete is blanks and comments."""
    reader = EventReader()
    reader.feed(raw)
    reader.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"data: " + b"x" * 100,
        b"data: " + b"x" * 100 + b"\n\n",
        b"data: xxxx\n" * 20,
        b"data\n" * 200,
        b"x" * 101,
        b"event: " + b"x" * 100 + b"\n",
    ],
    ids=["partial", "complete", "in-lines", "in-empty-lines", "no-field", "name"],
)
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_an_event_over_the_limit_fails(raw: bytes, step: int) -> None:
    """An event over the limit fails in whatever form it comes, and nothing is read after it."""
    reader = EventReader(max_event=100)
    with pytest.raises(EventTooLarge):
        read(pieces(raw, range(0, len(raw), step)), reader)
    with pytest.raises(EventTooLarge):
        reader.feed(b"\n\ndata: a\n\n")
    with pytest.raises(IncompleteEvent):
        reader.close()


def test_an_event_of_exactly_the_limit_is_read() -> None:
    """The limit counts the data that is held and the current line, and is itself allowed."""
    line = b"data: " + b"x" * 94
    assert (
        read([line, b"\n\n", line, b"\n\n"], EventReader(max_event=100))
        == [ServerSentEvent(b"x" * 94)] * 2
    )


def test_comments_do_not_count_towards_the_limit() -> None:
    """A comment may be longer than any event, whether it comes whole or in pieces."""
    comment = b":" + b"x" * 500 + b"\n"
    reader = EventReader(max_event=20)
    assert read([comment, *pieces(comment, range(500)), b"data: a\n\n"], reader) == [
        ServerSentEvent(b"a")
    ]


def test_a_million_comments_cost_nothing() -> None:
    """A million comment lines take well under 1.5 s of processor time."""
    piece, reader = b": keep-alive\n" * 1000, EventReader()
    begun = time.process_time()
    for _ in range(1000):
        assert reader.feed(piece) == []
    assert time.process_time() - begun < 1.5
    reader.close()


@pytest.mark.parametrize(
    ("piece", "held"),
    [(b": keep-alive\n" * 5000, 8), (b":" + b"x" * 65_000, 8), (b"data\n" * 4_000, 500)],
    ids=["comments", "one-comment", "empty-lines-of-data"],
)
def test_memory_is_bounded(piece: bytes, held: int) -> None:
    """Between two pieces a reader holds nothing of comments and no more than the data otherwise."""
    reader = EventReader()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(100):
            reader.feed(piece)
        assert (tracemalloc.get_traced_memory()[0] - before) / 1024 < held
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("whole", "step"),
    [(encode_event(b"x" * 4_000_000), 32), (encode_event(b"\n" * 500_000), 64)],
    ids=["one-line", "many-lines"],
)
def test_a_huge_event_in_small_pieces_takes_linear_time(whole: bytes, step: int) -> None:
    """An event of megabytes in tiny pieces takes moments, where quadratic work takes minutes."""
    begun = time.process_time()
    (event,) = read(whole[at : at + step] for at in range(0, len(whole), step))
    assert time.process_time() - begun < 4
    assert encode_event(event.data) == whole


@pytest.mark.parametrize(
    ("data", "event", "raw"),
    [
        (b"", "", b"data: \n\n"),
        (DONE, "", b"data: [DONE]\n\n"),
        (b"{}", "error", b"event: error\ndata: {}\n\n"),
        (b"a\nb\r\nc\rd\n", "", b"data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"),
        ("é".encode(), "ü", "event: ü\ndata: é\n\n".encode()),
    ],
    ids=["empty", "done", "named", "line-ends", "utf-8"],
)
def test_the_bytes_of_an_event(data: bytes, event: str, raw: bytes) -> None:
    """An event is written as its name, if it has one, a line for each line of data, and a blank."""
    assert encode_event(data, event) == raw


@pytest.mark.parametrize("event", ["a\nb", "a\rb", "\r\n", "a\n"])
def test_a_name_with_a_line_end_is_refused(event: str) -> None:
    """A name cannot smuggle in a field or an event."""
    with pytest.raises(ValueError, match="line end"):
        encode_event(b"x", event)


def test_the_bytes_of_a_comment() -> None:
    """A comment is a colon, its text and a blank line; further lines of text are comments too."""
    assert encode_comment() == b": \n\n"
    assert encode_comment("working") == b": working\n\n"
    assert encode_comment("a\r\nb\rc\nd") == b": a\n: b\n: c\n: d\n\n"
    assert encode_comment("\ud800") == b": ?\n\n"
