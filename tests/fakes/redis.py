"""A real redis-server for tests, on a socket or a port of its own, and gone when the test is over."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.certificates import certify
from tests.fakes.envoy import free_port
from tests.fakes.needs import command

READY_SECONDS = 10


@dataclass(slots=True)
class RedisServer:
    """Where it listens, and the process, which a test may stop and start again."""

    url: str
    arguments: list[str]
    log: Path
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                binary(), *self.arguments, stdout=output, stderr=output
            )
        async with asyncio.timeout(READY_SECONDS):
            while "ready to accept connections" not in self.log.read_text().lower():
                assert self.process.returncode is None, self.log.read_text()
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        self.log.write_text("")


def binary() -> str:
    return command("redis-server", "redis-server")


@asynccontextmanager
async def run_redis(folder: Path, *, password: str | None = None) -> AsyncIterator[RedisServer]:
    """Redis on a Unix socket in `folder`, whose path must be short."""
    socket = folder / "redis.sock"
    arguments = ["--port", "0", "--unixsocket", str(socket), *_common(folder)]
    if password is not None:
        arguments += ["--requirepass", password]
    async with _running(RedisServer(f"unix://{socket}", arguments, folder / "redis.log")) as server:
        yield server


@asynccontextmanager
async def run_redis_tls(folder: Path, *, password: str) -> AsyncIterator[RedisServer]:
    """Redis over TLS alone, with a certificate of a CA of its own: `ca.pem` in `folder`."""
    certify(folder, "server", "DNS:localhost")
    port = free_port()
    arguments = [
        *("--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1"),
        *("--tls-cert-file", str(folder / "server.pem")),
        *("--tls-key-file", str(folder / "server.key")),
        *("--tls-ca-cert-file", str(folder / "ca.pem"), "--tls-auth-clients", "no"),
        *("--requirepass", password),
        *_common(folder),
    ]
    url = f"rediss://localhost:{port}/0"
    async with _running(RedisServer(url, arguments, folder / "redis.log")) as server:
        yield server


def _common(folder: Path) -> list[str]:
    return ["--save", "", "--appendonly", "no", "--dir", str(folder)]


@asynccontextmanager
async def _running(server: RedisServer) -> AsyncIterator[RedisServer]:
    try:
        await server.start()
        yield server
    finally:
        await server.stop()
