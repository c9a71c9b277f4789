"""Frames of a client's, right and wrong, and what follows from each: RFC 9113's rules that clients of gRPC meet."""

import asyncio
from collections.abc import Callable

import pytest

from extproc.errors import Abandoned
from extproc.serving.calls import Call, Status
from extproc.serving.http2.bounds import Bounds
from extproc.serving.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    LARGEST,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Code,
)
from tests.fakes.clock import timeless
from tests.fakes.http2 import Client, data, echo, frame, message, reset, set_to, talking, window


def kinds(frames: list[object]) -> list[int]:
    return [each.kind for each in frames]  # type: ignore[attr-defined]


async def hang(_: Call) -> None:
    await asyncio.get_running_loop().create_future()


class Watched:
    """A handler that waits, and whether it is at work."""

    def __init__(self) -> None:
        self.at_work = 0
        self.cancelled = 0

    async def __call__(self, call: Call) -> None:
        self.at_work += 1
        try:
            await call.read()
            await hang(call)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.at_work -= 1


class TestCalls:
    @timeless
    async def test_messages_come_back(self) -> None:
        """However a client cuts them: headers once, each message, and a status at the end."""
        async with talking() as client:
            sent = message(b"one") + message(b"") + message(b"three" * 9)
            client.send(client.opened(1))
            for at in range(len(sent)):
                client.send(data(1, sent[at : at + 1]))
            client.send(data(1, b"", END_STREAM))
            told = await client.heard()
        assert kinds([*told]) == [HEADERS, DATA, DATA, DATA, HEADERS]
        assert b"".join(each.payload for each in told if each.kind == DATA) == sent
        first, last = client.fields(told[0]), client.fields(told[-1])
        assert first == {":status": "200", "content-type": "application/grpc"}
        assert last == {"grpc-status": "0"}
        assert told[-1].flags == END_HEADERS | END_STREAM

    @timeless
    async def test_a_turn_of_the_loop_is_one_write(self) -> None:
        """Whatever many streams are sent in one turn goes out in one go."""
        async with talking() as client:
            before = client.pipe.writes
            client.send(*(client.opened(each) + data(each, message(b"x")) for each in (1, 3, 5, 7)))
            told = await client.heard()
        assert kinds([*told]) == [HEADERS, DATA] * 4
        assert client.pipe.writes == before + 1

    @timeless
    async def test_a_handler_that_ends_first(self) -> None:
        """Whoever could still send something is told that nobody listens, and what is on its way is no fault."""

        async def leave(call: Call) -> None:
            await call.read()

        async with talking({"/echo": leave}) as client:
            client.send(client.opened(1), data(1, message(b"x")))
            told = await client.heard()
            client.send(data(1, message(b"late")), window(1, 5), data(1, b"", END_STREAM))
            later = await client.heard()
            client.send(client.opened(3), data(3, message(b"y"), END_STREAM))
            assert kinds([*await client.heard()]) == [HEADERS]
        assert kinds([*told]) == [HEADERS, RST_STREAM]
        assert told[1].code == Code.NO_ERROR
        assert later == []

    @timeless
    async def test_begins_before_it_answers(self) -> None:
        """The headers go out on their own, and not a second time."""
        begun = asyncio.Event()

        async def begin(call: Call) -> None:
            await call.begin()
            await begun.wait()
            await call.begin()
            await call.write(b"x")

        async with talking({"/echo": begin}) as client:
            client.send(client.opened(1, END_STREAM))
            assert kinds([*await client.heard()]) == [HEADERS]
            begun.set()
            assert kinds([*await client.heard()]) == [DATA, HEADERS]

    @timeless
    async def test_a_mistake_says_nothing_of_itself(self) -> None:
        async def crash(_: Call) -> None:
            raise ValueError("secret")

        async with talking({"/echo": crash}) as client:
            client.send(client.opened(1))
            status, why = await client.status()
        assert status == str(int(Status.INTERNAL))
        assert "secret" not in why

    @pytest.mark.parametrize(
        ("more", "status"),
        [
            pytest.param({"path": "/nowhere"}, Status.UNIMPLEMENTED, id="no-method"),
            pytest.param({"x_long": "x" * 70_000}, Status.RESOURCE_EXHAUSTED, id="metadata"),
        ],
    )
    def test_what_is_not_served(self, more: dict[str, str], status: Status) -> None:
        @timeless
        async def run() -> None:
            async with talking() as client:
                client.send(client.opened(1, **more))
                assert (await client.status())[0] == str(int(status))

        run()

    @pytest.mark.parametrize(
        ("more", "status"),
        [
            pytest.param({"method": "GET"}, "405", id="get"),
            pytest.param({"content_type": "text/html"}, "415", id="html"),
        ],
    )
    def test_what_is_not_grpc(self, more: dict[str, str], status: str) -> None:
        """HTTP is answered in its own words, once all of it is there."""

        @timeless
        async def run() -> None:
            async with talking() as client:
                client.send(client.opened(1, **more), data(1, b"a=b"))
                assert await client.heard() == []
                client.send(data(1, b"", END_STREAM))
                told = await client.heard()
            assert client.fields(told[0])[":status"] == status
            assert told[-1].kind == DATA
            assert told[-1].flags == END_STREAM

        run()

    @pytest.mark.parametrize(
        ("sent", "status"),
        [
            pytest.param(b"\x01\0\0\0\x01x", Status.UNIMPLEMENTED, id="compressed"),
            pytest.param(b"\x02\0\0\0\x01x", Status.INTERNAL, id="no-flag"),
            pytest.param(b"\0\xff\xff\xff\xff", Status.RESOURCE_EXHAUSTED, id="too-long"),
        ],
    )
    def test_what_is_no_message(self, sent: bytes, status: Status) -> None:
        """The call ends with a status, and its handler with it."""

        @timeless
        async def run() -> None:
            watched = Watched()
            async with talking({"/echo": watched}) as client:
                client.send(client.opened(1))
                await client.heard()
                client.send(data(1, sent))
                assert (await client.status())[0] == str(int(status))
                assert watched.cancelled == 1

        run()

    @timeless
    async def test_a_stream_that_ends_within_a_message(self) -> None:
        async with talking() as client:
            client.send(client.opened(1), data(1, message(b"x")[:-1], END_STREAM))
            assert (await client.status())[0] == str(int(Status.INTERNAL))

    @pytest.mark.parametrize("timeout", ["3S", "3000m", "3000000u"])
    def test_a_deadline(self, timeout: str) -> None:
        """The client's deadline ends the call, and its handler."""

        @timeless
        async def run() -> None:
            watched = Watched()
            async with talking({"/echo": watched}) as client:
                client.send(client.opened(1, grpc_timeout=timeout), data(1, message(b"x")))
                await asyncio.sleep(2.9)
                assert client.told() == []
                await asyncio.sleep(0.2)
                assert (await client.status())[0] == str(int(Status.DEADLINE_EXCEEDED))
                assert watched.cancelled == 1

        run()

    @timeless
    async def test_a_reset_cancels_at_once(self) -> None:
        """A handler is cancelled, even one that has not begun; nothing more is sent; others go on."""
        watched = Watched()
        async with talking({"/echo": watched, "/other": echo}) as client:
            client.send(client.opened(1), client.opened(3, path="/other"))
            await client.heard()
            client.send(reset(1), client.opened(5), reset(5))
            assert await client.heard() == []
            assert (watched.at_work, watched.cancelled) == (0, 1)
            client.send(data(3, message(b"x")))
            assert kinds([*await client.heard()]) == [HEADERS, DATA]

    @timeless
    async def test_after_a_reset_nothing_can_be_written(self) -> None:
        """Whoever tidies up is told that nobody hears it."""
        told: list[type[Exception]] = []

        async def tidy(call: Call) -> None:
            try:
                await hang(call)
            finally:
                for say in (call.write(b"x"), call.abort(Status.INTERNAL, "x")):
                    try:
                        await say
                    except Abandoned:
                        told.append(Abandoned)

        async with talking({"/echo": tidy}) as client:
            client.send(client.opened(1))
            await client.heard()
            client.send(reset(1))
            assert await client.heard() == []
        assert told == [Abandoned, Abandoned]

    @timeless
    async def test_a_connection_that_breaks(self) -> None:
        """All of its handlers are cancelled."""
        watched = Watched()
        async with talking({"/echo": watched}) as client:
            client.send(*(client.opened(each) for each in (1, 3, 5)))
            await client.heard()
            assert watched.at_work == 3
        assert watched.cancelled == 3


class TestWindows:
    @timeless
    async def test_nothing_beyond_a_window(self) -> None:
        """Data waits for the stream's window and for the connection's, trailers for all data."""
        async with talking() as client:
            client.send(set_to({INITIAL_WINDOW_SIZE: 10}), client.opened(1))
            client.send(data(1, message(b"x" * 20), END_STREAM))
            told = await client.heard()
            assert [len(each.payload) for each in told if each.kind == DATA] == [10]
            client.send(window(1, 4))
            assert [len(each.payload) for each in await client.heard()] == [4]
            client.send(set_to({INITIAL_WINDOW_SIZE: 20}))
            told = await client.heard()
            assert kinds([*told]) == [SETTINGS, DATA]
            client.send(window(1, 100))
            assert kinds([*await client.heard()]) == [DATA, HEADERS]

    @timeless
    async def test_the_connections_window_goes_round(self) -> None:
        """Those who wait for it come in their turn, and one that waits for its own window holds up nobody."""
        async with talking() as client:
            big = message(b"x" * 65_530)
            client.send(client.opened(1), data(1, big))  # which is all of the connection's window
            await client.heard()
            client.send(set_to({INITIAL_WINDOW_SIZE: 100}))
            for stream in (3, 5):
                client.send(client.opened(stream), data(stream, message(b"y" * 200)))
            assert DATA not in kinds([*await client.heard()])
            client.send(window(0, 1000))
            told = [each for each in await client.heard() if each.kind == DATA]
            assert [(each.stream, len(each.payload)) for each in told] == [(3, 100), (5, 100)]

    @timeless
    async def test_who_writes_waits_for_a_window(self) -> None:
        """A handler holds one message that is not on its way, whoever does not read."""
        written = 0

        async def pour(call: Call) -> None:
            nonlocal written
            while True:
                await call.write(b"x" * 1000)
                written += 1

        async with talking({"/echo": pour}) as client:
            client.send(set_to({INITIAL_WINDOW_SIZE: 5_000}), client.opened(1))
            await client.heard()
            assert written == 4
            client.send(window(1, 2_000))
            await client.heard()
            assert written == 6

    @timeless
    async def test_who_writes_waits_for_the_socket(self) -> None:
        written = 0

        async def pour(call: Call) -> None:
            nonlocal written
            for _ in range(100):
                await call.write(b"x")
                written += 1

        async with talking({"/echo": pour}) as client:
            client.pipe.stuck = True
            client.send(set_to({}), client.opened(1))
            await client.heard()
            assert written == 0
            client.pipe.flow()
            await client.heard()
            assert written == 100

    @timeless
    async def test_what_was_written_survives_a_cancellation(self) -> None:
        """A message that waits for a window is sent whole, and in its place, whoever was cancelled meanwhile."""

        async def impatient(call: Call) -> None:
            try:
                async with asyncio.timeout(1):
                    await call.write(b"x" * 100)
            except TimeoutError:
                await call.write(b"end")

        async with talking({"/echo": impatient}) as client:
            client.send(set_to({INITIAL_WINDOW_SIZE: 10}), client.opened(1))
            await asyncio.sleep(2)
            client.send(window(1, 1000))
            told = [each.payload for each in await client.heard() if each.kind == DATA]
        assert b"".join(told) == message(b"x" * 100) + message(b"end")

    @timeless
    async def test_an_abort_does_not_wait_for_a_window(self) -> None:
        async def stuck(call: Call) -> None:
            try:
                async with asyncio.timeout(1):
                    await call.write(b"x" * 100)
            except TimeoutError:
                await call.abort(Status.INTERNAL, "enough")

        async with talking({"/echo": stuck}) as client:
            client.send(set_to({INITIAL_WINDOW_SIZE: 10}), client.opened(1))
            await client.heard()
            await asyncio.sleep(2)
            (told,) = await client.heard()
        assert (told.kind, told.code) == (RST_STREAM, Code.CANCEL)

    @timeless
    async def test_what_is_read_is_granted_again(self) -> None:
        """A stream may send on as its handler reads, and no more than that; the connection's window opens anyway."""
        bounds = Bounds(window=10_000, connection_window=65_536)
        go = asyncio.Event()

        async def late(call: Call) -> None:
            await go.wait()
            await echo(call)

        async with talking({"/echo": late}, bounds) as client:
            client.send(client.opened(1), data(1, message(b"x" * 4_995) * 2))
            assert await client.heard() == []
            for stream in (3, 5, 7, 9):
                client.send(client.opened(stream), data(stream, message(b"x" * 9_995)))
            (granted,) = await client.heard()
            assert (granted.kind, granted.stream) == (WINDOW_UPDATE, 0)
            go.set()
            granted_to = {each.stream for each in await client.heard() if each.kind == 8}
            assert granted_to == {1, 3, 5, 7, 9}

    @timeless
    async def test_a_message_longer_than_the_window_comes_in(self) -> None:
        bounds = Bounds(window=100, message=1000)
        async with talking(None, bounds) as client:
            client.send(client.opened(1))
            sent = message(b"x" * 900)
            granted = 100
            while sent:
                piece, sent = sent[:granted], sent[granted:]
                client.send(data(1, piece))
                granted = 0
                for each in await client.heard():
                    if each.kind == WINDOW_UPDATE and each.stream == 1:
                        granted += int.from_bytes(each.payload)
                assert granted or not sent
            client.send(data(1, b"", END_STREAM))

    @timeless
    async def test_a_smaller_table_is_acknowledged(self) -> None:
        """Our encoder needs none, and says so before the next block, as RFC 7541 wants."""
        async with talking() as client:
            client.send(set_to({HEADER_TABLE_SIZE: 0}), client.opened(1, END_STREAM))
            *_, last = await client.heard()
        assert last.payload.startswith(b"\x20")
        client.decoder.max_allowed_table_size = 0
        assert client.fields(last)["grpc-status"] == "0"


def garbled(client: Client) -> bytes:
    return frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff\xff")


FAULTS: list[object] = [
    pytest.param(lambda c: garbled(c), Code.COMPRESSION_ERROR, id="no-block"),
    pytest.param(lambda c: c.opened(2), Code.PROTOCOL_ERROR, id="even-stream"),
    pytest.param(lambda c: c.opened(0), Code.PROTOCOL_ERROR, id="stream-0"),
    pytest.param(lambda c: data(1, b"x"), Code.PROTOCOL_ERROR, id="data-of-no-stream"),
    pytest.param(lambda c: data(0, b"x"), Code.PROTOCOL_ERROR, id="data-of-stream-0"),
    pytest.param(lambda c: reset(1), Code.PROTOCOL_ERROR, id="reset-of-no-stream"),
    pytest.param(lambda c: window(1, 1), Code.PROTOCOL_ERROR, id="window-of-no-stream"),
    pytest.param(lambda c: window(0, 0), Code.PROTOCOL_ERROR, id="window-by-nothing"),
    pytest.param(lambda c: window(0, LARGEST), Code.FLOW_CONTROL_ERROR, id="window-too-wide"),
    pytest.param(lambda c: frame(8, 0, 0, b"x"), Code.FRAME_SIZE_ERROR, id="window-cut-off"),
    pytest.param(lambda c: frame(PING, 0, 0, b"x"), Code.FRAME_SIZE_ERROR, id="ping-cut-off"),
    pytest.param(lambda c: frame(PING, 0, 1, b"x" * 8), Code.PROTOCOL_ERROR, id="ping-of-stream"),
    pytest.param(lambda c: frame(SETTINGS, 0, 0, b"x"), Code.FRAME_SIZE_ERROR, id="settings-cut"),
    pytest.param(lambda c: frame(SETTINGS, 0, 1), Code.PROTOCOL_ERROR, id="settings-of-stream"),
    pytest.param(lambda c: frame(SETTINGS, ACK, 0, b"x" * 6), Code.FRAME_SIZE_ERROR, id="ack"),
    pytest.param(lambda c: set_to({2: 2}), Code.PROTOCOL_ERROR, id="push-2"),
    pytest.param(lambda c: set_to({4: LARGEST + 1}), Code.FLOW_CONTROL_ERROR, id="window-2^31"),
    pytest.param(lambda c: set_to({5: 1}), Code.PROTOCOL_ERROR, id="frame-of-1"),
    pytest.param(lambda c: frame(5, 4, 1, b"\0\0\0\2"), Code.PROTOCOL_ERROR, id="push-promise"),
    pytest.param(lambda c: frame(GOAWAY, 0, 0, b"x"), Code.FRAME_SIZE_ERROR, id="goaway-cut-off"),
    pytest.param(lambda c: frame(CONTINUATION, 4, 1), Code.PROTOCOL_ERROR, id="nothing-continued"),
    pytest.param(
        lambda c: frame(HEADERS, 0, 1, b"\x82") + frame(PING, 0, 0, b"x" * 8),
        Code.PROTOCOL_ERROR,
        id="block-broken-off",
    ),
    pytest.param(
        lambda c: frame(HEADERS, 0, 1, b"\x82") + frame(CONTINUATION, 4, 3),
        Code.PROTOCOL_ERROR,
        id="block-of-another",
    ),
    pytest.param(
        lambda c: c.opened(1) + frame(DATA, PADDED, 1, b"\x09x"),
        Code.PROTOCOL_ERROR,
        id="padding",
    ),
    pytest.param(lambda c: c.opened(3) + c.opened(1), Code.STREAM_CLOSED, id="stream-backwards"),
    pytest.param(
        lambda c: frame(PRIORITY, 0, 1, b"\0\0\0\1x"), Code.PROTOCOL_ERROR, id="priority-of-itself"
    ),
    pytest.param(lambda c: b"\xff" * 9, Code.FRAME_SIZE_ERROR, id="frame-too-long"),
]


class TestFaults:
    @pytest.mark.parametrize(("sent", "code"), FAULTS)
    def test_of_connections(self, sent: Callable[[Client], bytes], code: Code) -> None:
        """Say in GOAWAY what was wrong, and hang up."""

        @timeless
        async def run() -> None:
            async with talking() as client:
                client.send(sent(client))
                *_, last = await client.heard()
                assert (last.kind, last.code) == (GOAWAY, code)
                assert client.pipe.ended

        run()

    @timeless
    async def test_end_everything(self) -> None:
        """All handlers are cancelled, nothing more is said, and who does not close is cut off."""
        watched = Watched()
        async with talking({"/echo": watched}) as client:
            client.send(client.opened(1), client.opened(3))
            await client.heard()
            client.send(frame(PING, 0, 1, b"x" * 8))
            assert kinds([*await client.heard()]) == [GOAWAY]
            assert watched.cancelled == 2
            client.send(frame(PING, 0, 0, b"x" * 8), client.opened(5))
            assert await client.heard() == []
            await asyncio.sleep(1.1)
            assert client.pipe.gone

    @pytest.mark.parametrize(
        "fields",
        [
            pytest.param([(":method", "POST")], id="no-path"),
            pytest.param([(":method", "POST"), (":path", ""), (":scheme", "x")], id="empty-path"),
            pytest.param([("x", "y"), (":method", "POST")], id="pseudo-last"),
            pytest.param([(":method", "POST"), (":method", "POST")], id="twice"),
            pytest.param([(":status", "200")], id="of-answers"),
            pytest.param([("connection", "close")], id="connection"),
            pytest.param([("te", "gzip")], id="te"),
            pytest.param([("X", "y")], id="upper-case"),
            pytest.param([("x", "a\nb")], id="line-feed"),
            pytest.param([("x", "a\0b")], id="nul"),
            pytest.param([("content-length", "-1")], id="length"),
        ],
    )
    def test_of_requests(self, fields: list[tuple[str, str]]) -> None:
        """A request that is none is reset, without a handler; other streams do not notice."""

        @timeless
        async def run() -> None:
            async with talking() as client:
                good = [(":method", "POST"), (":scheme", "http"), (":path", "/echo")]
                all_of_them = fields if fields[0][0].startswith(":") else [*good, *fields]
                client.send(client.opened(1))
                block = bytes(client.encoder.encode(all_of_them))
                client.send(frame(HEADERS, END_HEADERS, 3, block))
                (told,) = await client.heard()
                assert (told.kind, told.stream, told.code) == (RST_STREAM, 3, Code.PROTOCOL_ERROR)
                client.send(data(1, message(b"x")))
                assert kinds([*await client.heard()]) == [HEADERS, DATA]

        run()

    @pytest.mark.parametrize(
        ("sent", "code"),
        [
            pytest.param(lambda c: data(1, b"", END_STREAM) + data(1, b"x"), Code.STREAM_CLOSED),
            pytest.param(lambda c: window(1, 0), Code.PROTOCOL_ERROR),
            pytest.param(lambda c: window(1, LARGEST), Code.FLOW_CONTROL_ERROR),
            pytest.param(lambda c: c.opened(1), Code.PROTOCOL_ERROR),
            pytest.param(
                lambda c: frame(HEADERS, 5, 1, bytes(c.encoder.encode([(":path", "x")]))),
                Code.PROTOCOL_ERROR,
            ),
        ],
        ids=["closed", "window-by-nothing", "window-too-wide", "no-trailers", "pseudo-trailers"],
    )
    def test_of_streams(self, sent: Callable[[Client], bytes], code: Code) -> None:
        """A stream is reset and its handler cancelled."""

        @timeless
        async def run() -> None:
            watched = Watched()
            async with talking({"/echo": watched}) as client:
                client.send(client.opened(1))
                await client.heard()
                client.send(sent(client))
                (told,) = await client.heard()
                assert (told.kind, told.stream, told.code) == (RST_STREAM, 1, code)
                assert watched.cancelled == 1
                assert not client.is_closed

        run()

    @timeless
    async def test_a_length_that_is_not_kept(self) -> None:
        async with talking() as client:
            client.send(client.opened(1, content_length="7"), data(1, message(b"x"), END_STREAM))
            told = await client.heard()
        assert (told[-1].kind, told[-1].code) == (RST_STREAM, Code.PROTOCOL_ERROR)

    @pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n", b"PRI * HTTP/1", b"\0"])
    def test_another_protocol(self, sent: bytes) -> None:
        @timeless
        async def run() -> None:
            async with talking(greet=False) as client:
                client.send(sent)
                *_, last = await client.heard()
                assert (last.kind, last.code) == (GOAWAY, Code.PROTOCOL_ERROR)

        run()

    @timeless
    async def test_a_preface_in_pieces(self) -> None:
        async with talking(greet=False) as client:
            for byte in PREFACE + set_to({}):
                client.send(bytes([byte]))
            told = await client.heard()
        assert kinds([*told]) == [SETTINGS, WINDOW_UPDATE, SETTINGS]

    @timeless
    async def test_settings_come_first(self) -> None:
        async with talking(greet=False) as client:
            client.send(PREFACE, frame(PING, 0, 0, b"x" * 8))
            *_, last = await client.heard()
        assert (last.kind, last.code) == (GOAWAY, Code.PROTOCOL_ERROR)
