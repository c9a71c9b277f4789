"""What one client may have the process hold and do: every bound is reached from below, and then passed."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from extproc.serving.calls import Call, Status
from extproc.serving.http2.bounds import DEFAULT, Bounds, with_room_for
from extproc.serving.http2.frames import (
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    Code,
)
from tests.fakes.clock import timeless
from tests.fakes.http2 import GRPC, Client, data, frame, message, reset, set_to, talking, window

PINGS = frame(PING, 0, 0, b"x" * 8)


async def hang(_: Call) -> None:
    await asyncio.get_running_loop().create_future()


async def unread(call: Call) -> None:
    await call.read()
    await hang(call)


def rapid_reset(client: Client) -> Iterable[bytes]:
    for stream in range(1, 1 << 20, 2):
        yield client.opened(stream) + reset(stream)


def refused(client: Client) -> Iterable[bytes]:
    for stream in range(1, 1 << 20, 2):
        yield client.opened(stream)


def again(sent: bytes, before: Callable[[Client], bytes] = lambda _: b"") -> Any:
    def flood(client: Client) -> Iterable[bytes]:
        yield before(client)
        while True:
            yield sent

    return flood


def opened(client: Client) -> bytes:
    return client.opened(1)


def closed(client: Client) -> bytes:
    return client.opened(1) + reset(1)


FLOODS = {
    "ping": again(PINGS),
    "ping-ack": again(frame(PING, 1, 0, b"x" * 8)),
    "settings": again(set_to({4: 65_535})),
    "settings-ack": again(frame(SETTINGS, 1, 0)),
    "many-settings": again(set_to(dict.fromkeys(range(100, 140), 1))),
    "priority": again(frame(PRIORITY, 0, 1, b"\0\0\0\0x")),
    "unknown-frames": again(frame(99, 0, 0, b"x")),
    "goaway": again(frame(GOAWAY, 0, 0, b"\0" * 8)),
    "empty-data": again(data(1, b""), opened),
    "padding": again(frame(0, 8, 1, b"\x03\0\0\0"), opened),
    "data-of-closed-streams": again(data(1, b"x"), closed),
    "resets-of-closed-streams": again(reset(1), closed),
    "windows": again(window(0, 1)),
    "windows-of-a-stream": again(window(1, 1), opened),
    "rapid-reset": rapid_reset,
    "refused-streams": refused,
}


class TestFloods:
    @pytest.mark.parametrize("flood", FLOODS)
    def test_end_the_connection(self, flood: str) -> None:
        """Whatever brings nothing may come so often, and a little more each second; then the client is told to calm."""

        @timeless
        async def run() -> None:
            bounds = Bounds(idle_frames=500, idle_frames_per_second=1, updates=500, streams=50)
            async with talking({"/echo": hang}, bounds) as client:
                sent = 0
                for each in FLOODS[flood](client):
                    client.send(each)
                    if client.is_closed:
                        break
                    sent += 1
                    await asyncio.sleep(0)
                *_, last = await client.heard()
                assert (last.kind, last.code) == (GOAWAY, Code.ENHANCE_YOUR_CALM)
                assert 10 <= sent <= 600

        run()

    @timeless
    async def test_a_little_each_second_is_nobodys_flood(self) -> None:
        bounds = Bounds(idle_frames=100, idle_frames_per_second=1000, silence=1e9)
        async with talking(None, bounds) as client:
            for _ in range(200):
                client.send(PINGS * 10)
                await asyncio.sleep(0.02)
            assert not client.is_closed

    @timeless
    async def test_updates_of_windows_follow_data(self) -> None:
        """A client that grants what it is sent, piece by piece, may do so for ever."""
        async with talking(None, Bounds(updates=20)) as client:
            client.send(client.opened(1))
            for _ in range(500):
                client.send(data(1, message(b"x")))
                await client.heard()
                client.send(window(1, 6), window(0, 6))
            assert not client.is_closed

    @timeless
    async def test_streams_that_were_answered_are_no_flood(self) -> None:
        """Envoy resets every stream when it has what it needs."""
        async with talking(None, Bounds(idle_frames=20, idle_frames_per_second=0)) as client:
            for stream in range(1, 1000, 2):
                client.send(client.opened(stream), data(stream, message(b"x")))
                await client.heard()
                client.send(reset(stream))
            assert not client.is_closed

    @timeless
    async def test_replies_that_are_not_read(self) -> None:
        """A client that asks and does not read is cut off, whatever time it takes."""
        async with talking(None, Bounds(unsent=100)) as client:
            client.pipe.stuck = True
            client.send(PINGS)
            sent = 0
            while not client.is_closed:
                client.send(PINGS)
                await asyncio.sleep(1)
                sent += 1
            assert 90 < sent < 110


class TestHeaders:
    @pytest.mark.parametrize(
        ("pieces", "ends"),
        [
            pytest.param([1000] * 10, False, id="below"),
            pytest.param([1000] * 11, True, id="too-long"),
            pytest.param([10_300], True, id="too-long-in-one"),
            pytest.param([1] * 20, False, id="many"),
            pytest.param([1] * 40, True, id="too-many"),
            pytest.param([0] * 40, True, id="too-many-empty"),
        ],
    )
    def test_blocks(self, pieces: list[int], ends: bool) -> None:
        """A header block is bounded in its size, and in the number of its frames."""

        @timeless
        async def run() -> None:
            bounds = Bounds(header_block=10_240, header_list=100_000, continuations=20)
            async with talking({"/echo": hang}, bounds) as client:
                block = client.block(path="/nowhere")
                size = len(block)
                # Literals whose value has the length that is missing.
                filler = b"".join(b"\0\1x\1y" for _ in range(3000))
                block += filler[: (max(sum(pieces) - size, 0)) // 5 * 5]
                at, frames = pieces[0], []
                frames.append(frame(HEADERS, 0, 1, block[:at]))
                for each in pieces[1:]:
                    frames.append(frame(CONTINUATION, 0, 1, block[at : at + each]))
                    at += each
                client.send(*frames)
                assert client.is_closed == ends
                if ends:
                    *_, last = await client.heard()
                    assert last.code == Code.ENHANCE_YOUR_CALM

        run()

    @pytest.mark.parametrize(("size", "end"), [(900, "ok"), (1100, "refused"), (2100, "closed")])
    def test_lists(self, size: int, end: str) -> None:
        """Too long a list of headers is one stream's own business, up to twice the bound."""

        @timeless
        async def run() -> None:
            async with talking({"/echo": unread}, Bounds(header_list=1000)) as client:
                used = sum(len(name) + len(value) + 32 for name, value in GRPC)
                client.encoder.header_table_size = 0
                client.send(client.opened(1), client.opened(3, x="y" * (size - used - 33)))
                told = [each for each in await client.heard() if each.kind in (HEADERS, GOAWAY)]
                match end:
                    case "ok":
                        assert told == []
                    case "refused":
                        (last,) = told
                        status = client.fields(last)["grpc-status"]
                        assert status == str(int(Status.RESOURCE_EXHAUSTED))
                    case _:
                        assert told[-1].code == Code.ENHANCE_YOUR_CALM

        run()

    @timeless
    async def test_a_bomb(self) -> None:
        """A few bytes that stand for many, over and over, are not unfolded beyond the bound."""
        async with talking() as client:
            client.send(client.opened(1, x_bomb="x" * 4000))
            (index,) = client.encoder.encode([("x-bomb", "x" * 4000)])
            client.send(frame(HEADERS, END_HEADERS, 3, bytes([index]) * 100_000))
            *_, last = await client.heard()
            assert last.code == Code.ENHANCE_YOUR_CALM


class TestStreams:
    @timeless
    async def test_others_are_refused(self) -> None:
        """Beyond the bound a stream is refused as one of which nothing was done; those that are open go on."""
        async with talking(None, Bounds(streams=2)) as client:
            client.send(client.opened(1), client.opened(3), client.opened(5))
            (told,) = await client.heard()
            assert (told.kind, told.stream, told.code) == (RST_STREAM, 5, Code.REFUSED_STREAM)
            client.send(data(1, message(b"x"), END_STREAM))
            await client.heard()
            client.send(client.opened(7), data(7, message(b"x")))
            assert [each.stream for each in await client.heard()] == [7, 7]

    @timeless
    async def test_handlers_count_until_they_have_ended(self) -> None:
        """Streams that are reset at once have no more handlers at work than others."""
        at_work = 0
        most = 0

        async def slow_to_go(call: Call) -> None:
            nonlocal at_work, most
            at_work += 1
            most = max(most, at_work)
            try:
                await hang(call)
            finally:
                await asyncio.sleep(1)
                at_work -= 1

        async with talking({"/echo": slow_to_go}, Bounds(streams=5)) as client:
            for stream in range(1, 101, 2):
                client.send(client.opened(stream))
                await asyncio.sleep(0)
                client.send(reset(stream))
            assert most == 5

    @timeless
    async def test_of_which_no_message_comes(self) -> None:
        """A stream without a first message ends with a status, one in which something was said does not."""
        async with talking({"/echo": unread}) as client:
            client.send(client.opened(1), client.opened(3), data(3, message(b"x")))
            client.send(client.opened(5), data(5, message(b"x" * 99)[:50]))
            await asyncio.sleep(DEFAULT.first_message - DEFAULT.tick)
            assert [each for each in client.told() if each.stream] == []
            await asyncio.sleep(2 * DEFAULT.tick)
            ended = {each.stream: each for each in client.told() if each.kind == HEADERS}
            assert ended.keys() == {1, 5}
            status = client.fields(ended[1])["grpc-status"]
            assert status == str(int(Status.DEADLINE_EXCEEDED))


class TestSilence:
    @timeless
    async def test_a_client_that_is_there(self) -> None:
        async with talking() as client:
            for _ in range(5):
                await asyncio.sleep(DEFAULT.silence + DEFAULT.tick)
                (ping,) = client.told()
                assert (ping.kind, ping.flags) == (PING, 0)
                client.send(frame(PING, 1, 0, ping.payload))
            assert not client.is_closed

    @timeless
    async def test_a_client_that_is_gone(self) -> None:
        """What no longer answers is cut off, with all that is open."""
        async with talking({"/echo": unread}) as client:
            client.send(client.opened(1), data(1, message(b"x")))
            await asyncio.sleep(DEFAULT.silence + DEFAULT.echo - DEFAULT.tick)
            assert not client.is_closed
            await asyncio.sleep(3 * DEFAULT.tick)
            assert client.pipe.gone

    @timeless
    async def test_a_client_that_never_begins(self) -> None:
        """Not even if it sends a byte now and then."""
        async with talking(greet=False) as client:
            client.send(b"PRI")
            await asyncio.sleep(DEFAULT.greeting / 2)
            client.send(b" * ")
            await asyncio.sleep(DEFAULT.greeting / 2 + DEFAULT.tick)
            assert client.pipe.gone


class TestMemory:
    @pytest.mark.parametrize(("body", "message"), [(1, 64 << 20), (100 << 20, 200 << 20)])
    def test_a_message_may_hold_a_whole_body(self, body: int, message: int) -> None:
        bounds = with_room_for(body)
        assert (bounds.message, bounds.unread) == (message, 4 * message)

    @timeless
    async def test_a_stream_may_send_what_was_granted(self) -> None:
        async with talking({"/echo": hang}, Bounds(window=1000)) as client:
            client.send(client.opened(1), data(1, message(b"x" * 995)))
            assert await client.heard() == []
            client.send(data(1, b"x"))
            (told,) = await client.heard()
        assert (told.kind, told.code) == (RST_STREAM, Code.FLOW_CONTROL_ERROR)

    @timeless
    async def test_a_connection_may_send_what_was_granted(self) -> None:
        bounds = Bounds(connection_window=1 << 20)
        async with talking({"/echo": hang}, bounds) as client:
            client.connection._intake._grant = lambda _: None  # a client that does not wait
            client.connection._intake._owed = 0
            client.send(client.opened(1), client.opened(3))
            client.connection._intake._owed = (1 << 20) - 5
            client.send(data(1, b"x" * 6))
            *_, last = await client.heard()
            assert last.code == Code.FLOW_CONTROL_ERROR

    @timeless
    async def test_what_nobody_reads_is_bounded(self) -> None:
        """The stream that brings too much ends, and what it held is let go of: others go on."""
        bounds = Bounds(window=1000, unread=3_500)
        async with talking({"/echo": hang}, bounds) as client:
            for stream in (1, 3, 5, 7):
                client.send(client.opened(stream), data(stream, message(b"x" * 985)))
            told = await client.heard()
            assert {each.stream for each in told} == {7}
            status = client.fields(next(each for each in told if each.kind == HEADERS))
            assert status["grpc-status"] == str(int(Status.RESOURCE_EXHAUSTED))
            client.send(reset(1), client.opened(9), data(9, message(b"x" * 985)))
            assert await client.heard() == []
            client.send(reset(3), reset(5), reset(9))
            assert client.connection._intake.unread == 0

    @timeless
    async def test_a_frame_that_trickles_is_not_copied_over_and_over(self) -> None:
        """A megabyte in pieces of ten bytes is a matter of a moment."""
        loop = asyncio.get_running_loop()
        async with talking({"/echo": unread}) as client:
            client.send(client.opened(1))
            sent = data(1, message(b"x" * 1_000_000))
            copied = 0
            for at in range(0, len(sent), 10):
                client.connection.data_received(sent[at : at + 10])
                copied += 1
            assert loop.time() < 1
            assert copied > 100_000
