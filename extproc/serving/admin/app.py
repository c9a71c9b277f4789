"""The interface: health, configuration, what runs did, and the console, on a socket or an address."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from extproc import __version__, console
from extproc.decisions.explain import explain
from extproc.errors import ProtocolError
from extproc.process.overview import AT_MOST, overview
from extproc.serving.admin.facts import FACTS, Facts, as_json, configuration
from extproc.serving.admin.guard import HEALTH, Guard, guarded, harden, is_local
from extproc.serving.admin.live import SHOWN, add_live
from extproc.serving.admin.playground import playing
from extproc.serving.admin.reading import read
from extproc.serving.admin.scraped import add_metrics
from extproc.serving.admin.site import serving
from extproc.signals import Subject
from looper.errors import LooperError
from looper.wire.chat import ChatRequest


@dataclass(frozen=True, slots=True)
class Access:
    """Where the interface is, and for whom. `playground` is Envoy's URL, if the console may send it requests."""

    address: str
    token: str | None = field(default=None, repr=False)
    names: Sequence[str] = ()
    playground: str | None = None

    def __post_init__(self) -> None:
        if self.token is None and not is_local(self.address):
            raise ValueError(f"admin on {self.address}: beyond this machine a token is needed")


_ACCESS: web.AppKey[Access] = web.AppKey("access", Access)


@asynccontextmanager
async def admin(facts: Facts, access: Access) -> AsyncIterator[None]:
    """Serve while the context is open."""
    files = await asyncio.to_thread(console.files)
    unix = access.address.startswith("unix:")
    guard = Guard(unix, access.token, access.names, public=frozenset(files))
    app = web.Application(middlewares=[guarded(guard)])
    app[FACTS], app[_ACCESS], app[_FILES] = facts, access, files
    app.on_response_prepare.append(harden)
    _add_routes(app)
    add_live(app)
    async with playing(app, access.playground), serving(app, access.address):
        yield


def _add_routes(app: web.Application) -> None:
    app.router.add_get(HEALTH, _health)
    app.router.add_get("/config", _config)
    add_metrics(app)
    app.router.add_get("/runs", _runs)
    app.router.add_get("/runs/{run}", _run)
    app.router.add_get("/load", _load)
    app.router.add_post("/explain", _explain)
    app.router.add_get("/api/about", _about)
    app.router.add_get("/api/runs", _lines)
    app.router.add_get("/api/overview", _overview)
    for path in app[_FILES]:
        app.router.add_get(path, _file)


# The console...


_FILES: web.AppKey[dict[str, console.File]] = web.AppKey("files", dict)


async def _file(request: web.Request) -> web.Response:
    """One of the console's own files."""
    file = request.app[_FILES][request.path]
    headers = {"etag": file.etag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == file.etag:
        return web.Response(status=304, headers=headers)
    return web.Response(body=file.data, content_type=file.type, charset="utf-8", headers=headers)


async def _about(request: web.Request) -> web.Response:
    """What the console has to know before it shows anything."""
    facts, access = request.app[FACTS], request.app[_ACCESS]
    runtime, runs = facts.versions.newest.runtime, facts.process.runs
    return as_json(
        {
            "version": __version__,
            "names": list(runtime.entries),
            "recipes": {
                name: [each.name for each in policy.decisions]
                for name, policy in runtime.policies.items()
            },
            "models": list(runtime.models),
            "record": runtime.config.trace.record,
            "keep": runs.keep,
            "keep_routed": runs.keep_routed,
            "playground": access.playground is not None,
        }
    )


async def _lines(request: web.Request) -> web.Response:
    """The last runs, a line for each, the newest first, and those that go on. `?limit=N`: of each kind."""
    runs = request.app[FACTS].process.runs
    said = request.query.get("limit", "")
    limit = int(said) if said.isdecimal() and len(said) < 9 else AT_MOST
    lines = [{"number": kept.number, **kept.summary} for kept in runs.kept(limit)]
    going_on = [opened.line() for opened in runs.open()[:SHOWN]]
    return as_json({"last": runs.count, "runs": lines, "open": going_on})


async def _overview(request: web.Request) -> web.Response:
    """What the last runs come to, by decision and by model."""
    facts = request.app[FACTS]
    kept = facts.process.runs.kept(AT_MOST)
    runtime = facts.versions.newest.runtime
    return as_json(await asyncio.to_thread(overview, kept, runtime))


# ... and what is told to whoever asks.


async def _health(request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _config(request: web.Request) -> web.Response:
    return as_json(configuration(request.app[FACTS]))


async def _runs(request: web.Request) -> web.Response:
    """The records of the last runs, the newest first."""
    kept = request.app[FACTS].process.runs.kept()
    body = b"[%b]" % b",".join(each.record for each in kept)
    return web.Response(body=body, content_type="application/json")


async def _run(request: web.Request) -> web.Response:
    """One run by its id, which answers carry in x-looper-run; also of one that goes on."""
    record = request.app[FACTS].process.runs.find(request.match_info["run"])
    if record is None:
        return as_json({"error": "unknown run"}, 404)
    return web.Response(body=record, content_type="application/json")


async def _load(request: web.Request) -> web.Response:
    """What is under way."""
    process = request.app[FACTS].process
    return as_json(
        {
            "open_runs": process.admission.open,
            "waiting": process.admission.waiting,
            "inflight_bytes": process.outflow.total,
        }
    )


async def _explain(request: web.Request) -> web.Response:
    """How a request is decided: the body, and the headers, are those that a client would send.

    `?recipe=NAME` is what Envoy's route would say. Signals that ask a model do ask it, unless `?live=false`.
    """
    versions = request.app[FACTS].versions
    # The configuration that the next exchange would begin with.
    with versions.begin(versions.announced) as runtime:
        try:
            body = await read(request, runtime.config.limits.max_body)
            asked = ChatRequest.parse(body)
            policy = runtime.policy(asked.model, request.query.get("recipe"))
            if request.query.get("live") == "false":
                policy = policy.alone()
            headers = {name.lower(): value for name, value in request.headers.items()}
            subject = Subject(asked, headers, correction=runtime.process.correction.factor)
            return as_json(await explain(policy, subject, runtime.models))
        except LooperError as error:
            return web.Response(
                body=error.to_json(), status=error.status, content_type="application/json"
            )
        except ProtocolError:
            return as_json({"error": "unknown recipe"}, 404)
