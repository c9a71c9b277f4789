"""The processor's own HTTP interface, on a socket or the loopback address: health, configuration, what runs did."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from aiohttp import web

from extproc.decisions.explain import explain
from extproc.errors import ProtocolError
from extproc.process.process import Process
from extproc.serving import metrics
from extproc.serving.lag import Lag
from extproc.serving.reload import Reloads
from extproc.serving.versions import Versions
from extproc.signals import Subject
from looper.errors import BodyTooLarge, LooperError
from looper.wire.chat import ChatRequest


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is to tell of a process."""

    versions: Versions
    reloads: Reloads
    lag: Lag

    @property
    def process(self) -> Process:
        return self.versions.process


_FACTS: web.AppKey[Facts] = web.AppKey("facts", Facts)


@asynccontextmanager
async def admin(facts: Facts, address: str) -> AsyncIterator[None]:
    """Serve while the context is open."""
    app = web.Application()
    app[_FACTS] = facts
    app.router.add_get("/healthz", _health)
    app.router.add_get("/config", _config)
    app.router.add_get("/metrics", _metrics)
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


async def _config(request: web.Request) -> web.Response:
    """Which configuration is at work, what is wrong with the file if it is another, and which one Envoy runs."""
    facts = request.app[_FACTS]
    return _json(
        {
            "generation": facts.versions.newest.generation,
            "since": facts.reloads.since,
            "valid": facts.reloads.is_valid,
            "problems": facts.reloads.problems,
            "envoy": {"generation": facts.versions.envoy, "stale": facts.versions.is_stale},
        }
    )


async def _metrics(request: web.Request) -> web.Response:
    """The same and more for Prometheus."""
    facts = request.app[_FACTS]
    text = metrics.render(facts.versions, facts.reloads, facts.lag)
    return web.Response(body=text.encode(), headers={"content-type": metrics.CONTENT_TYPE})


async def _runs(request: web.Request) -> web.Response:
    """The last runs, the newest first."""
    return _json(list(request.app[_FACTS].process.runs))


async def _run(request: web.Request) -> web.Response:
    """One run by its id, which answers carry in x-looper-run."""
    record = request.app[_FACTS].process.runs.find(request.match_info["run"])
    return _json(record) if record is not None else _json({"error": "unknown run"}, 404)


async def _load(request: web.Request) -> web.Response:
    """What is under way."""
    process = request.app[_FACTS].process
    return _json(
        {
            "open_runs": process.admission.open,
            "waiting": process.admission.waiting,
            "inflight_bytes": process.outflow.total,
        }
    )


async def _explain(request: web.Request) -> web.Response:
    """How a request is decided: the body, and the headers, are those that a client would send.

    `?recipe=NAME` is what Envoy's route would say. Signals that ask a model do ask it.
    """
    versions = request.app[_FACTS].versions
    # The configuration that the next exchange would begin with.
    with versions.begin(versions.announced) as runtime:
        try:
            body = await _read(request, runtime.config.limits.max_body)
            asked = ChatRequest.parse(body)
            policy = runtime.policy(asked.model, request.query.get("recipe"))
            headers = {name.lower(): value for name, value in request.headers.items()}
            subject = Subject(asked, headers, correction=runtime.process.correction.factor)
            return _json(await explain(policy, subject, runtime.models))
        except LooperError as error:
            return web.Response(
                body=error.to_json(), status=error.status, content_type="application/json"
            )
        except ProtocolError:
            return _json({"error": "unknown recipe"}, 404)


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
