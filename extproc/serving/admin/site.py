"""An application at an address."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web


@asynccontextmanager
async def serving(app: web.Application, address: str) -> AsyncIterator[None]:
    """Serve at `unix:/path` or `host:port` while the context is open."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, handler_cancellation=True)
    await runner.setup()
    try:
        await _site(runner, address).start()
        yield
    finally:
        await runner.cleanup()


def _site(runner: web.AppRunner, address: str) -> web.BaseSite:
    if address.startswith("unix:"):
        path = Path(address.removeprefix("unix:"))
        path.unlink(missing_ok=True)
        return web.UnixSite(runner, str(path))
    host, _, port = address.rpartition(":")
    return web.TCPSite(runner, host.strip("[]"), int(port))
