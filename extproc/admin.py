"""The processor's own HTTP interface, on a socket or the loopback address: health, and what runs did."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from aiohttp import web

from extproc.decisions.explain import explain
from extproc.errors import ProtocolError
from extproc.runtime import Runtime
from extproc.signals import Subject
from looper.chat import ChatRequest
from looper.errors import BodyTooLarge, LooperError

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
    app.router.add_post("/explain", _explain)
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


async def _explain(request: web.Request) -> web.Response:
    """How a request is decided: the body, and the headers, are those that a client would send.

    `?recipe=NAME` is what Envoy's route would say. Signals that ask a model do ask it.
    """
    runtime: Runtime = request.app[_RUNTIME]()
    try:
        body = await _read(request, runtime.config.limits.max_body)
        asked = ChatRequest.parse(body)
        policy = runtime.policy(asked.model, request.query.get("recipe"))
    except LooperError as error:
        return web.Response(
            body=error.to_json(), status=error.status, content_type="application/json"
        )
    except ProtocolError:
        return _json({"error": "unknown recipe"}, 404)
    headers = {name.lower(): value for name, value in request.headers.items()}
    found = await explain(policy, Subject(asked, headers), runtime.models)
    return _json(found)


async def _read(request: web.Request, limit: int) -> bytes:
    """The body, if it is one that Envoy would have let through."""
    pieces: list[bytes] = []
    size = 0
    async for piece in request.content.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise BodyTooLarge(f"The body is larger than {limit} bytes.")
    return b"".join(pieces)


def _json(data: object, status: int = 200) -> web.Response:
    body = msgspec.json.encode(data)
    return web.Response(body=body, status=status, content_type="application/json")
