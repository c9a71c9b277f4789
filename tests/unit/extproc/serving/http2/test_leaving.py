"""How connections end that nobody is at fault for: nothing that a client has sent is lost."""

import asyncio

from extproc.serving.calls import Call, Status
from extproc.serving.http2.bounds import DEFAULT
from extproc.serving.http2.frames import (
    ACK,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    LARGEST,
    PING,
    RST_STREAM,
    Code,
)
from tests.fakes.clock import timeless
from tests.fakes.http2 import Client, Frame, data, frame, message, talking


def last_stream(goaway: Frame) -> int:
    assert (goaway.kind, goaway.code) == (GOAWAY, Code.NO_ERROR)
    return int.from_bytes(goaway.payload[:4])


async def leaving(client: Client) -> Frame:
    """Have the server leave; its PING."""
    client.connection.leave()
    goaway, ping = await client.heard()
    assert last_stream(goaway) == LARGEST
    assert (ping.kind, ping.flags) == (PING, 0)
    return ping


@timeless
async def test_in_two_steps() -> None:
    """What was on its way when the end was announced is served; what comes later can safely go elsewhere."""
    async with talking() as client:
        client.send(client.opened(1))
        ping = await leaving(client)
        client.send(client.opened(3), data(3, message(b"x")))
        assert [each.kind for each in await client.heard()] == [HEADERS, DATA]
        client.send(frame(PING, ACK, 0, ping.payload))
        (goaway,) = await client.heard()
        assert last_stream(goaway) == 3
        client.send(client.opened(5))
        (refused,) = await client.heard()
        assert (refused.kind, refused.code) == (RST_STREAM, Code.REFUSED_STREAM)
        client.send(data(1, message(b"x"), END_STREAM))
        assert [each.kind for each in await client.heard()] == [HEADERS, DATA, HEADERS]
        assert not client.is_closed
        client.send(data(3, b"", END_STREAM))
        await client.heard()
        assert client.pipe.ended


@timeless
async def test_a_client_that_does_not_answer() -> None:
    """The second step comes even if a client echoes nothing, and once."""
    async with talking() as client:
        client.send(client.opened(1))
        ping = await leaving(client)
        await asyncio.sleep(DEFAULT.farewell + 0.1)
        (goaway,) = await client.heard()
        assert last_stream(goaway) == 1
        client.send(frame(PING, ACK, 0, ping.payload))
        client.connection.leave()
        assert await client.heard() == []


@timeless
async def test_nothing_is_open() -> None:
    """A connection without a stream is closed at the second step, and cut off if its client does not close it."""
    async with talking() as client:
        ping = await leaving(client)
        assert not client.is_closed
        client.send(frame(PING, ACK, 0, ping.payload))
        assert client.pipe.ended
        await asyncio.sleep(DEFAULT.linger + 0.1)
        assert client.pipe.gone


@timeless
async def test_what_is_left_is_broken_off() -> None:
    """With a status, which says that it may be tried elsewhere; and the handler is cancelled."""
    cancelled = False

    async def hang(call: Call) -> None:
        nonlocal cancelled
        try:
            await call.begin()
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled = True

    async with talking({"/echo": hang}) as client:
        client.send(client.opened(1))
        await client.heard()
        client.connection.break_off(Status.UNAVAILABLE, "the server stops")
        told = client.told()
        assert [each.kind for each in told] == [HEADERS, RST_STREAM]
        assert client.fields(told[0])["grpc-status"] == str(int(Status.UNAVAILABLE))
        assert client.pipe.ended
        await client.heard()
        assert cancelled
