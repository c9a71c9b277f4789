"""The gRPC server that Envoy talks to: sockets and health."""

import asyncio
import secrets
import socket
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse

from extproc import headers as names
from extproc.errors import Abandoned, Overtaken, ProtocolError
from extproc.exchange.channel import wave_through
from extproc.exchange.exchange import Exchange
from extproc.protocol.actions import Action
from extproc.protocol.codec import METHOD, decode, decode_first, encode
from extproc.protocol.events import BodyMode, Event
from extproc.serving.versions import Begin

_log = structlog.get_logger()

_OPTIONS = (
    # A message in body mode BUFFERED holds a whole body; limits.max_body is what bounds it.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 64 << 10),
    ("grpc.so_reuseport", 0),
)
_TIDYING = 2.0
"""Seconds that exchanges have which were cut off, such as to let go of what others may go on with."""

SERVICES = ("", "liveness", "readiness")
"""What the health service answers for; `liveness` stays up while the process drains."""


class GrpcChannel:
    """Envoy's end of one stream."""

    def __init__(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        self._context = context
        self._spoke = False
        self.mode = BodyMode.FULL_DUPLEX

    async def receive(self) -> Event | None:
        try:
            message: Any = await self._context.read()
        except grpc.aio.BaseError:
            raise Abandoned from None
        return None if message is grpc.aio.EOF else decode(message)

    async def send(self, action: Action) -> None:
        self._spoke = True
        try:
            for message in encode(action, self.mode):
                await self._context.write(message)
        except grpc.aio.BaseError:
            raise Abandoned from None

    async def begin(self) -> None:
        # What Envoy does not replay is a stream whose initial metadata it has; a first message brings it as well.
        if self._spoke:
            return
        try:
            await self._context.send_initial_metadata(())
        except grpc.aio.BaseError:
            raise Abandoned from None

    async def abort(self, why: str) -> None:
        try:
            await self._context.abort(grpc.StatusCode.INTERNAL, why)
        except grpc.aio.AbortError:
            return
        except grpc.aio.BaseError:
            raise Abandoned from None


class Processor:
    """Serves Envoy's streams, each with the runtime that it begins with."""

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def idle(self) -> None:
        """Return when no exchange is open."""
        await self._idle.wait()

    def handler(self) -> grpc.GenericRpcHandler:
        # Without (de)serializers the handler gets bytes, and the codec alone knows protobuf.
        service, _, method = METHOD.strip("/").rpartition("/")
        process = grpc.stream_stream_rpc_method_handler(self.process)
        return grpc.method_handlers_generic_handler(service, {method: process})

    async def process(
        self, _: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> None:
        """One exchange. No text of an exception reaches Envoy, which would show it to clients."""
        channel = GrpcChannel(context)
        self._open += 1
        self._idle.clear()
        try:
            await self._exchange(channel, context)
        except Abandoned:
            pass  # before it said what it wants
        except Overtaken:
            await wave_through(channel)
        except ProtocolError as error:
            _log.error("protocol", problem=str(error))
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()

    async def _exchange(
        self, channel: GrpcChannel, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> None:
        first: Any = await context.read()
        if first is grpc.aio.EOF:
            return
        opening = decode_first(first)
        channel.mode = opening.mode
        said = _said(context)
        with self._begin(said.get(names.GENERATION)) as runtime:
            await Exchange(runtime, channel, opening, said.get(names.RECIPE)).run()


def _said(context: grpc.aio.ServicerContext[bytes, bytes]) -> dict[str, str]:
    """What Envoy's configuration says of the stream, in its initial metadata."""
    return {
        name: str(value)
        for name, value in context.invocation_metadata() or ()
        if value and name in (names.RECIPE, names.GENERATION)
    }


class Health:
    """grpc.health.v1, which Envoy and the kubelet ask."""

    def __init__(self) -> None:
        self._servicer = health.aio.HealthServicer()

    def add_to(self, server: grpc.aio.Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def set_serving(self, serving: bool) -> None:
        status = HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
        for service in SERVICES:
            if service != "liveness" or serving:
                await self._servicer.set(service, status)


@asynccontextmanager
async def serving(
    begin: Begin, listen: Sequence[str], health_address: str | None, grace: float
) -> AsyncIterator[Health]:
    """Listen at every address while the context is open; on leaving, give open exchanges `grace` seconds.

    Health is answered to the very end. Raises OSError for an address that cannot be listened on.
    """
    health_service, processor = Health(), Processor(begin)
    async with AsyncExitStack() as stack:
        if health_address is not None:
            server = grpc.aio.server(options=_OPTIONS)
            health_service.add_to(server)
            await _start(server, health_address, stack)
        servers = []
        for address in listen:
            server = grpc.aio.server(options=_OPTIONS)
            server.add_generic_rpc_handlers((processor.handler(),))
            health_service.add_to(server)
            await _start(server, address, stack)
            servers.append(server)
        await health_service.set_serving(True)
        try:
            yield health_service
        finally:
            await health_service.set_serving(False)
            # All at once: one that waited for its turn would go on taking exchanges.
            await asyncio.shield(asyncio.gather(*(server.stop(grace) for server in servers)))
            with suppress(TimeoutError):  # gRPC cancels what is open then, and does not wait for it
                await asyncio.wait_for(processor.idle(), _TIDYING)


async def _start(server: grpc.aio.Server, address: str, stack: AsyncExitStack) -> None:
    bound = stack.enter_context(_bindable(address))
    try:
        server.add_insecure_port(bound)
    except RuntimeError:
        raise OSError(f"cannot listen on {address}") from None
    await server.start()
    stack.push_async_callback(server.stop, 0)
    if bound.startswith("unix:"):
        _publish(Path(address.removeprefix("unix:")), Path(bound.removeprefix("unix:")))


@contextmanager
def _bindable(address: str) -> Iterator[str]:
    """Where to bind so that `address` can be taken over from a predecessor that is still at work.

    gRPC unlinks a socket's path when it stops, whoever holds it by then, and a second bind takes a live path away
    without a word. So each process binds a path of its own, and `address` is a link that points to the newest.
    """
    if not address.startswith("unix:"):
        yield address
        return
    path = Path(address.removeprefix("unix:"))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise OSError(f"{path} exists and is not a socket")
    # Not the process's id: two containers that share the folder may have the same.
    own = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        yield f"unix:{own}"
    finally:
        if path.is_symlink() and path.readlink() == Path(own.name):
            path.unlink()
        own.unlink(missing_ok=True)


def _publish(path: Path, own: Path) -> None:
    own.chmod(0o660)
    before = path.readlink() if path.is_symlink() else None
    link = own.with_name(f"{own.name}.link")
    link.symlink_to(own.name)
    link.replace(path)
    if before is not None and not _answers(path.with_name(before.name)):
        path.with_name(before.name).unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    """Whether somebody listens at a socket; one that a killed process left behind refuses."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
