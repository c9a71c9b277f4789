"""Clients of gRPC against both transports: certificates, deadlines, compression, and many connections."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from extproc.serving.calls import Call, Handler, Server, Status, Tls, Transport
from extproc.serving.grpcio import GrpcioServer
from extproc.serving.http2.bounds import Bounds
from extproc.serving.http2.server import Server as NativeServer
from tests.fakes.certificates import certify
from tests.fakes.envoy import free_port
from tests.fakes.http2 import echo

SECONDS = 5.0


async def hang(_: Call) -> None:
    await asyncio.get_running_loop().create_future()


async def refuse(call: Call) -> None:
    await call.abort(Status.NOT_FOUND, "ñö\n100%")


async def crash(_: Call) -> None:
    raise ValueError("what nobody else is to read")


async def count(call: Call) -> None:
    """How long what was sent is, one number for each message."""
    while (message := await call.read()) is not None:
        await call.write(b"%d" % len(message))


async def said(call: Call) -> None:
    """What the metadata says of `x-said`."""
    await call.write(call.metadata.get("x-said", "").encode())


HANDLERS: Mapping[str, Handler] = {
    "/t/echo": echo,
    "/t/hang": hang,
    "/t/refuse": refuse,
    "/t/crash": crash,
    "/t/count": count,
    "/t/said": said,
}


@pytest.fixture(params=[NativeServer, GrpcioServer], ids=["native", "grpcio"])
def transport(request: pytest.FixtureRequest) -> Transport:
    made: Transport = request.param
    return made


@asynccontextmanager
async def listening(
    transport: Transport, address: str, tls: Tls | None = None
) -> AsyncIterator[Server]:
    async with transport(HANDLERS) as server:
        await server.listen(address, tls)
        yield server


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"unix:{tmp_path}/s" if request.param == "unix" else f"127.0.0.1:{free_port()}"


async def test_every_kind_of_call(transport: Transport, address: str) -> None:
    """One message or a stream of them, either way; small and large."""
    async with listening(transport, address), grpc.aio.insecure_channel(address) as channel:
        assert await channel.unary_unary("/t/echo")(b"x", timeout=SECONDS) == b"x"
        assert await channel.stream_unary("/t/echo")(iter([b"x"]), timeout=SECONDS) == b"x"
        answers = channel.unary_stream("/t/count")(b"x" * 3_000_000, timeout=SECONDS)
        assert [each async for each in answers] == [b"3000000"]
        call = channel.stream_stream("/t/echo")(timeout=SECONDS)
        for size in (0, 1, 100_000, 2_000_000):
            await call.write(b"y" * size)
            assert len(await call.read()) == size
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() == grpc.StatusCode.OK


FAILURES = [
    pytest.param("/t/refuse", {}, "NOT_FOUND", "ñö\n100%", id="status"),
    pytest.param("/t/crash", {}, "INTERNAL", "A mistake of the server's.", id="crash"),
    pytest.param("/t/nobody", {}, "UNIMPLEMENTED", None, id="no-method"),
    pytest.param("/t/hang", {"timeout": 0.05}, "DEADLINE_EXCEEDED", None, id="deadline"),
]


@pytest.mark.parametrize(("path", "options", "code", "details"), FAILURES)
async def test_how_calls_fail(
    transport: Transport,
    address: str,
    path: str,
    options: dict[str, float],
    code: str,
    details: str | None,
) -> None:
    async with listening(transport, address), grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(path)(b"x", **options)
    assert caught.value.code().name == code
    assert details is None or caught.value.details() == details


async def test_metadata(transport: Transport, address: str) -> None:
    """Comes to the handler, also when it changes from call to call as one connection's table does."""
    async with listening(transport, address), grpc.aio.insecure_channel(address) as channel:
        for said in ("one", "two", "one", "x" * 5000, "two"):
            ask = channel.unary_unary("/t/said")
            told = await ask(b"", metadata=(("x-said", said),), timeout=SECONDS)
            assert told == said.encode()


async def test_many_calls(transport: Transport, address: str) -> None:
    """Side by side on one connection, each has its own answer. Of 2,000 at once, grpcio cancels some."""
    many = 200 if transport is GrpcioServer else 2000
    async with listening(transport, address), grpc.aio.insecure_channel(address) as channel:
        ask = channel.unary_unary("/t/echo")

        async def one(number: int) -> None:
            data = b"%d" % number * (number % 500 + 1)
            assert await ask(data, timeout=30) == data

        async with asyncio.TaskGroup() as group:
            for number in range(many):
                group.create_task(one(number))


async def test_more_calls_than_streams(tmp_path: Path) -> None:
    """A client waits for its turn where a connection takes no more streams."""
    address = f"unix:{tmp_path}/s"
    async with NativeServer(HANDLERS, Bounds(streams=3)) as server:
        await server.listen(address)
        async with grpc.aio.insecure_channel(address) as channel:
            ask = channel.unary_unary("/t/echo")
            answers = await asyncio.gather(*(ask(b"%d" % each, timeout=30) for each in range(50)))
    assert answers == [b"%d" % each for each in range(50)]


async def test_more_connections_than_are_allowed(tmp_path: Path) -> None:
    """One too many is closed at once, and those that are there go on."""
    path = f"{tmp_path}/s"
    async with NativeServer(HANDLERS, Bounds(connections=2)) as server:
        await server.listen(f"unix:{path}")
        pairs = [await asyncio.open_unix_connection(path) for _ in range(3)]
        greetings = [await asyncio.wait_for(reader.read(9), SECONDS) for reader, _ in pairs[:2]]
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await asyncio.wait_for(pairs[2][0].readexactly(1), SECONDS)
        assert all(greetings)
        for _, writer in pairs:
            writer.close()


async def test_compression_is_refused(transport: Transport, address: str) -> None:
    """Our own transport knows none, and says so; grpcio unpacks."""
    async with listening(transport, address), grpc.aio.insecure_channel(address) as channel:
        ask = channel.unary_unary("/t/count")
        call = ask(b"x" * 10_000, compression=grpc.Compression.Gzip, timeout=SECONDS)
        if transport is GrpcioServer:
            assert await call == b"10000"
            return
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


# ---- TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA with a server and a client, and another CA with a client of its own."""
    folder = tmp_path_factory.mktemp("tls")
    other = folder / "other"
    other.mkdir()
    certify(folder, "server", "DNS:localhost,IP:127.0.0.1")
    certify(folder, "client", "DNS:envoy")
    certify(other, "client", "DNS:envoy")
    return folder


def credentials(folder: Path, client: Path | None) -> grpc.ChannelCredentials:
    pair: tuple[bytes | None, bytes | None] = (None, None)
    if client is not None:
        pair = ((client / "client.key").read_bytes(), (client / "client.pem").read_bytes())
    return grpc.ssl_channel_credentials((folder / "ca.pem").read_bytes(), *pair)


@pytest.mark.parametrize(
    ("asked", "shown", "let_in"),
    [
        pytest.param(False, None, True, id="of-anybody"),
        pytest.param(True, "ours", True, id="with-our-certificate"),
        pytest.param(True, None, False, id="without-one"),
        pytest.param(True, "theirs", False, id="with-a-strangers"),
    ],
)
async def test_tls(
    transport: Transport, certificates: Path, asked: bool, shown: str | None, let_in: bool
) -> None:
    """Clients get in with a certificate of ours, if they are asked for one."""
    address = f"127.0.0.1:{free_port()}"
    clients = certificates / "ca.pem" if asked else None
    tls = Tls(certificates / "server.pem", certificates / "server.key", clients)
    folder = {None: None, "ours": certificates, "theirs": certificates / "other"}[shown]
    async with (
        listening(transport, address, tls),
        grpc.aio.secure_channel(address, credentials(certificates, folder)) as channel,
    ):
        ask = channel.unary_unary("/t/echo")
        if let_in:
            assert await ask(b"x" * 100_000, timeout=SECONDS) == b"x" * 100_000
            return
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(b"x", timeout=SECONDS)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_without_tls_nobody_gets_in(transport: Transport, certificates: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    tls = Tls(certificates / "server.pem", certificates / "server.key")
    async with (
        listening(transport, address, tls),
        grpc.aio.insecure_channel(address) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/t/echo")(b"x", timeout=SECONDS)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_tls_is_refused(transport: Transport, certificates: Path) -> None:
    port = free_port()
    tls = Tls(certificates / "server.pem", certificates / "server.key")
    context = ssl.create_default_context(cafile=certificates / "ca.pem")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with listening(transport, f"127.0.0.1:{port}", tls):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("localhost", port, ssl=context)


async def test_a_handshake_that_never_comes(certificates: Path) -> None:
    """Who connects and says nothing is cut off, and leaves nothing behind: no timer, no mistake."""
    mistakes: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: mistakes.append(context))
    port = free_port()
    tls = Tls(certificates / "server.pem", certificates / "server.key")
    async with NativeServer(HANDLERS, Bounds(greeting=0.1, tick=0.02)) as server:
        await server.listen(f"127.0.0.1:{port}", tls)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(SECONDS):
            assert await reader.read() == b""
        writer.close()
        await asyncio.sleep(0.1)
    assert [each for each in mistakes if "SSL" not in str(each)] == []


# ---- Stopping


async def test_stops_with_all_that_is_open(transport: Transport, address: str) -> None:
    """What is still open after `grace` ends as UNAVAILABLE, and new connections are refused."""
    async with transport(HANDLERS) as server, grpc.aio.insecure_channel(address) as channel:
        await server.listen(address)
        call = channel.stream_stream("/t/hang")()
        assert await channel.unary_unary("/t/echo")(b"x", timeout=SECONDS) == b"x"
        async with asyncio.timeout(SECONDS):
            await server.stop(0.1)
            assert await call.code() in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.CANCELLED,  # by grpcio, now and then
            )
        with pytest.raises(OSError):  # noqa: PT011  # of whatever kind
            await connect(address)


async def connect(address: str) -> None:
    if address.startswith("unix:"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(address.removeprefix("unix:"))
    else:
        await asyncio.open_connection(*address.split(":"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::]", "0.0.0.0"])
async def test_hosts(host: str, transport: Transport) -> None:
    """`[::]` takes clients of IPv4 as well, as people expect of it."""
    port = free_port()
    async with (
        listening(transport, f"{host}:{port}"),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        assert await channel.unary_unary("/t/echo")(b"x", timeout=SECONDS) == b"x"
