"""Addresses at which clients connect, and how all of their connections end."""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

from extproc.serving.calls import Handler, Status, Tls
from extproc.serving.http2.bounds import DEFAULT, Bounds
from extproc.serving.http2.connection import Connection
from extproc.serving.http2.services import Handlers

_BACKLOG = 512


class Server:
    """Serves calls by path, at as many addresses as it is told. As a context, it ends with all that it has begun."""

    def __init__(self, handlers: Mapping[str, Handler], bounds: Bounds = DEFAULT) -> None:
        self._tasks = asyncio.TaskGroup()
        self._handlers = Handlers(handlers, self._tasks)
        self._bounds = bounds
        self._connections: set[Connection] = set()
        self._listeners: list[asyncio.Server] = []
        self._empty = asyncio.Event()
        self._empty.set()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop(0)
        await self._tasks.__aexit__(None, None, None)  # whoever raised `error` is no task of ours

    async def listen(self, address: str, tls: Tls | None = None) -> None:
        """Take connections at `unix:/path` or `host:port`. Raises OSError if that cannot be."""
        loop = asyncio.get_running_loop()
        made: set[Connection] = set()  # those of this address
        protocol = partial(self._protocol, made)
        if address.startswith("unix:"):
            path = address.removeprefix("unix:")
            listener = await loop.create_unix_server(protocol, path, backlog=_BACKLOG)
        else:
            host, _, port = address.rpartition(":")
            listener = await loop.create_server(
                protocol,
                **_place(host.strip("[]"), int(port)),
                backlog=_BACKLOG,
                ssl=_context(tls) if tls else None,
                ssl_handshake_timeout=self._bounds.greeting if tls else None,
                ssl_shutdown_timeout=self._bounds.linger if tls else None,
            )
        self._listeners.append(listener)

    def _protocol(self, made: set[Connection]) -> Connection:
        def begun(connection: Connection) -> bool:
            if len(made) >= self._bounds.connections:
                return False
            for each in (made, self._connections):
                each.add(connection)
            self._empty.clear()
            return True

        def lost(connection: Connection) -> None:
            for each in (made, self._connections):
                each.discard(connection)
            if not self._connections:
                self._empty.set()

        return Connection(self._handlers, self._bounds, begun, lost)

    async def stop(self, grace: float) -> None:
        """Take no more connections, give open calls `grace` seconds, and break off what is left then."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        if grace > 0:
            for connection in self._connections:
                connection.leave()
            await self._emptied(grace)
        for connection in list(self._connections):
            connection.break_off(Status.UNAVAILABLE, "the server stops")
        await self._emptied(2 * self._bounds.linger)

    async def _emptied(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), seconds)


def _place(host: str, port: int) -> dict[str, Any]:
    """What asyncio is told of an address. `::` is both kinds of addresses, as people expect of it."""
    if host == "::" and socket.has_dualstack_ipv6():
        family = socket.AF_INET6
        return {"sock": socket.create_server((host, port), family=family, dualstack_ipv6=True)}
    return {"host": host, "port": port}


def _context(tls: Tls) -> ssl.SSLContext:
    """TLS as gRPC has it. With `clients`, only those get in that have a certificate from one of these CAs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(tls.certificate, tls.key)
    if tls.clients is not None:
        context.load_verify_locations(tls.clients)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
