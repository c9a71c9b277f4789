"""The processor's own HTTP interface, on a socket or the loopback address: health, and what runs did."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from aiohttp import web

from extproc.runtime import Runtime

_RUNTIME: web.AppKey[Callable[[], Runtime]] = web.AppKey("runtime")


@asynccontextmanager
async def admin(runtime: Callable[[], Runtime], address: str) -> AsyncIterator[None]:
    """Serve while the context is open."""
    app = web.Application()
    app[_RUNTIME] = runtime
    app.router.add_get("/healthz", _health)
    app.router.add_get("/runs", _runs)
    app.router.add_get("/runs/{run}", _run)
    app.router.add_get("/load", _load)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
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
    return web.TCPSite(runner, host, int(port))


async def _health(request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _runs(request: web.Request) -> web.Response:
    """The last runs, the newest first."""
    runtime: Runtime = request.app[_RUNTIME]()
    return _json(list(runtime.runs))


async def _run(request: web.Request) -> web.Response:
    """One run by its id, which answers carry in x-looper-run."""
    runtime: Runtime = request.app[_RUNTIME]()
    record = runtime.runs.find(request.match_info["run"])
    return _json(record) if record is not None else _json({"error": "unknown run"}, 404)


async def _load(request: web.Request) -> web.Response:
    """What is under way."""
    runtime: Runtime = request.app[_RUNTIME]()
    admission = runtime.admission
    return _json(
        {
            "open_runs": admission.open,
            "waiting": admission.waiting,
            "inflight_bytes": runtime.outflow.total,
        }
    )


def _json(data: object, status: int = 200) -> web.Response:
    body = msgspec.json.encode(data)
    return web.Response(body=body, status=status, content_type="application/json")
