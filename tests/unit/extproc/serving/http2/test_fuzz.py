"""Frames that nobody would send, in any order and cut anyhow: a connection ends, or goes on to answer."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from extproc.serving.calls import Call, Handler, Status
from extproc.serving.http2.bounds import Bounds
from extproc.serving.http2.frames import (
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
)
from looper.evaluate import virtual
from tests.fakes.http2 import Client, data, echo, frame, message, set_to, talking

STREAMS = st.sampled_from([0, 1, 1, 1, 2, 3, 3, 5, 7, 9, 2**31 - 1])
BOUNDS = Bounds(
    frame=1 << 14,
    streams=3,
    window=300,
    connection_window=66_000,
    message=200,
    unread=500,
    header_block=2_000,
    header_list=500,
    continuations=3,
    idle_frames=30,
    updates=20,
)


async def pour(call: Call) -> None:
    for _ in range(20):
        await call.write(b"x" * 50)


async def give_up(call: Call) -> None:
    await call.read()
    await call.abort(Status.INVALID_ARGUMENT, "ünused % text\n")


async def crash(call: Call) -> None:
    await call.read()
    raise ValueError("on purpose")


async def ignore(_: Call) -> None:
    await asyncio.get_running_loop().create_future()


HANDLERS: dict[str, Handler] = {
    "/echo": echo,
    "/pour": pour,
    "/give-up": give_up,
    "/crash": crash,
    "/ignore": ignore,
}

BLOCKS = st.one_of(
    st.fixed_dictionaries(
        {"path": st.sampled_from([*HANDLERS, "/nowhere", ""])},
        optional={
            "method": st.sampled_from(["GET", "CONNECT"]),
            "content_type": st.just("text/html"),
            "content_length": st.sampled_from(["6", "x"]),
            "grpc_timeout": st.sampled_from(["1n", "9H", "x"]),
            "te": st.just("gzip"),
            "x_long": st.sampled_from(["y" * 400, "y" * 1000]),
        },
    ),
    st.binary(max_size=40),
)
PAYLOADS = st.one_of(
    st.binary(max_size=60),
    st.lists(st.binary(max_size=40).map(message), max_size=4).map(b"".join),
    st.sampled_from([message(b"x" * 90), message(b"x" * 300), b"\0" * 4, b"\0\0\0\1", b"\xff" * 4]),
)
FRAMES = st.tuples(
    st.one_of(st.integers(0, 10), st.sampled_from([DATA, HEADERS, 8])),
    st.sampled_from([0, 0, 1, 4, 4, 5, 8, 9, 0x20, 0x2D, 0xFF]),
    STREAMS,
    PAYLOADS,
)
OPENINGS = st.tuples(st.just("open"), st.sampled_from([0, 1]), STREAMS, BLOCKS)
RAW = st.tuples(st.just("raw"), st.just(0), st.just(0), st.binary(max_size=30))
CHANGES = st.tuples(
    st.just("set"),
    st.just(0),
    st.just(0),
    st.dictionaries(st.integers(0, 7), st.sampled_from([0, 1, 50, 16_384, 2**31 - 1, 2**32 - 1])),
)
TURNS = st.tuples(st.just("turn"), st.integers(0, 3), st.just(0), st.just(b""))
STEPS = st.lists(st.one_of(OPENINGS, OPENINGS, FRAMES, FRAMES, FRAMES, CHANGES, TURNS, RAW))


def as_bytes(client: Client, step: tuple[Any, ...]) -> bytes:
    match step:
        case ("open", flags, stream, bytes() as block):
            return frame(HEADERS, 4 | flags, stream, block)
        case ("open", flags, stream, fields):
            return client.opened(stream, flags, **fields)
        case ("set", _, _, values):
            return set_to(values)
        case ("raw", _, _, sent):
            return bytes(sent)
        case (kind, flags, stream, payload):
            return frame(kind, flags, stream, payload)
        case _:
            raise AssertionError(step)


class Judge:
    """What a client may be sent, whatever it has sent itself."""

    def __init__(self) -> None:
        self.begun: set[int] = set()
        self.ended: set[int] = set()
        self.sizes: defaultdict[int, int] = defaultdict(int)

    def see(self, client: Client) -> None:
        for each in client.told():
            match each.kind:
                case 1:
                    assert each.stream not in self.ended
                    self.begun.add(each.stream)
                    client.fields(each)
                case 0:
                    assert each.stream in self.begun - self.ended
                    self.sizes[each.stream] += len(each.payload)
                    self.sizes[0] += len(each.payload)
                case 3:
                    self.ended.add(each.stream)
                case _:
                    assert each.kind in (SETTINGS, PING, GOAWAY, 8)
                    continue
            if each.flags & END_STREAM and each.kind in (DATA, HEADERS):
                self.ended.add(each.stream)


async def survives(steps: Sequence[tuple[Any, ...]], sizes: Sequence[int]) -> None:
    loop = asyncio.get_running_loop()
    mistakes: list[Any] = []
    loop.set_exception_handler(lambda _, context: mistakes.append(context))
    judge = Judge()
    async with talking(HANDLERS, BOUNDS) as client:
        client.decoder.max_allowed_table_size = 4096
        sent = b""
        cut = iter(sizes)
        for step in steps:
            if step[0] == "turn":
                client.pipe.stuck = step[1] == 3
                if not client.pipe.stuck and not client.is_closed:
                    client.pipe.flow()
                await asyncio.sleep(step[1])
                continue
            sent += as_bytes(client, step)
            size = next(cut, len(sent))
            client.send(sent[:size])
            sent = sent[size:]
            judge.see(client)
        client.send(sent)
        client.pipe.stuck = False
        if not client.is_closed:
            client.pipe.flow()
        await asyncio.sleep(0)
        judge.see(client)
        assert client.is_closed or await answers(client, judge)
    connection = client.connection
    assert not connection._calls
    assert connection._at_work == 0
    assert connection._intake.unread == 0
    assert not connection._output.blocked
    assert mistakes == []


async def answers(client: Client, judge: Judge) -> bool:
    """Whether a PING is echoed, once a frame that is not complete has swallowed as much as it needs."""
    while (missing := client.connection._frames.missing) and not client.is_closed:
        client.send(b"\0" * missing)
    judge.see(client)
    for _ in range(3):
        client.send(frame(PING, 0, 0, b"anybody?"))
        if client.is_closed or any(each.kind == PING for each in client.told()):
            return True
    return False


@given(steps=STEPS, sizes=st.lists(st.integers(0, 200), max_size=20))
@settings(deadline=None)
def test_anything(steps: list[tuple[Any, ...]], sizes: list[int]) -> None:
    """Never a hang, a traceback, a task or a byte that stays behind, nor a frame that no client could take."""
    with capture_logs():
        virtual.run(survives(steps, sizes))


@given(sent=st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes(sent: bytes) -> None:
    """What is not HTTP/2 at all ends the connection."""

    async def run() -> None:
        async with talking(HANDLERS, BOUNDS, greet=False) as client:
            with capture_logs():
                client.send(sent)
            matches = sent[: len(PREFACE)] == PREFACE[: len(sent)]
            assert client.is_closed != matches or len(sent) > len(PREFACE)

    virtual.run(run())


@given(st.lists(st.binary(max_size=300)), st.lists(st.integers(1, 50)))
@settings(deadline=None)
def test_messages_come_through_any_cuts(sent: list[bytes], sizes: list[int]) -> None:
    """Whatever is sent comes back, however frames and reads are cut."""

    async def run() -> None:
        async with talking(None, Bounds(window=1 << 20)) as client:
            whole = b"".join(map(message, sent))
            frames = [client.opened(1)]
            at = 0
            for size in sizes:
                frames.append(data(1, whole[at : at + size]))
                at += size
            frames.append(data(1, whole[at:], END_STREAM))
            stream = b"".join(frames)
            for start in range(0, len(stream), 17):
                client.send(stream[start : start + 17])
            told = [each for each in await client.heard() if each.stream == 1]
            back = b"".join(each.payload for each in told if each.kind == DATA)
            assert back == whole
            assert told[-1].kind == HEADERS
            assert RST_STREAM not in [each.kind for each in told]

    virtual.run(run())
