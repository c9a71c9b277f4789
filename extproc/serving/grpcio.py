"""gRPC by `grpcio`, which takes several times the time of the transport of our own."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import grpc
import structlog

from extproc.errors import Abandoned
from extproc.serving.calls import CRASHED, Handler, Status, Tls

_log = structlog.get_logger()

_OPTIONS = (
    # A message in body mode BUFFERED holds a whole body; limits.max_body is what bounds it.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 64 << 10),
    ("grpc.so_reuseport", 0),
)
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcioCall:
    """One call, as grpcio has it."""

    def __init__(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        self._context = context
        self._begun = False

    @property
    def metadata(self) -> Mapping[str, str]:
        said = self._context.invocation_metadata() or ()
        return {name: value for name, value in said if isinstance(value, str)}

    async def read(self) -> bytes | None:
        try:
            message: Any = await self._context.read()
        except grpc.aio.BaseError:
            raise Abandoned from None
        return None if message is grpc.aio.EOF else message

    async def write(self, message: bytes) -> None:
        self._begun = True
        try:
            await self._context.write(message)
        except grpc.aio.BaseError:
            raise Abandoned from None

    async def begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        try:
            await self._context.send_initial_metadata(())
        except grpc.aio.BaseError:
            raise Abandoned from None

    async def abort(self, status: Status, why: str) -> None:
        try:
            await self._context.abort(_CODES[status], why)
        except grpc.aio.AbortError:
            return
        except grpc.aio.BaseError:
            raise Abandoned from None


class GrpcioServer:
    """As a context, it ends with all that it has begun."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = tuple(_generic(path, handler) for path, handler in handlers.items())
        self._servers: list[grpc.aio.Server] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop(0)

    async def listen(self, address: str, tls: Tls | None = None) -> None:
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers(self._handlers)
        try:
            if tls is None:
                server.add_insecure_port(address)
            else:
                server.add_secure_port(address, _credentials(tls))
        except RuntimeError:
            raise OSError(f"cannot listen on {address}") from None
        await server.start()
        self._servers.append(server)

    async def stop(self, grace: float) -> None:
        # All at once: one that waited for its turn would go on taking calls.
        await asyncio.gather(*(server.stop(grace) for server in self._servers))


def _generic(path: str, handler: Handler) -> grpc.GenericRpcHandler:
    service, _, method = path.strip("/").rpartition("/")
    # Without (de)serializers a handler gets bytes; one message, or none, is a stream of them as well.
    serve = grpc.stream_stream_rpc_method_handler(_serving(handler))
    return grpc.method_handlers_generic_handler(service, {method: serve})


def _serving(handler: Handler) -> Any:
    async def serve(_: Any, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        with suppress(Abandoned):
            await _served(handler, GrpcioCall(context))

    return serve


async def _served(handler: Handler, call: GrpcioCall) -> None:
    """Left to itself, grpcio sends the text of an exception to the client."""
    try:
        await handler(call)
    except Abandoned:
        raise
    except Exception:
        _log.exception("call.crashed")
        await call.abort(Status.INTERNAL, CRASHED)


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    clients = None if tls.clients is None else tls.clients.read_bytes()
    pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
    return grpc.ssl_server_credentials(
        [pair], root_certificates=clients, require_client_auth=clients is not None
    )
