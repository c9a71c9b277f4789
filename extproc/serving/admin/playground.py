"""The console's playground: a request to a public name, by way of Envoy as any client's. It spends money."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from extproc.serving.admin.facts import FACTS
from extproc.serving.admin.reading import read
from looper.errors import LooperError

_TOLD = (
    "x-looper-run",
    "x-looper-decision",
    "x-looper-algorithm",
    "x-looper-outcome",
    "content-type",
)
_CLIENT: web.AppKey[aiohttp.ClientSession] = web.AppKey("playground", aiohttp.ClientSession)
_URL: web.AppKey[str] = web.AppKey("playground_url", str)

PATH = "/api/playground"


@asynccontextmanager
async def playing(app: web.Application, envoy: str | None) -> AsyncIterator[None]:
    """Let the console send requests to Envoy, at this URL, while the block lasts; without one it may not."""
    if envoy is None:
        yield
        return
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        app[_CLIENT], app[_URL] = session, envoy.rstrip("/")
        app.router.add_post(PATH, _send)
        yield


async def _send(request: web.Request) -> web.StreamResponse:
    """Hand a request to Envoy, and its answer back piece by piece. If the page is left, the run is over as well."""
    if request.content_type != "application/json":  # what a page may send anywhere without asking
        return web.json_response({"error": "not JSON"}, status=415)
    limit = request.app[FACTS].versions.newest.runtime.config.limits.max_body
    try:
        body = await read(request, limit)
    except LooperError as error:
        return web.json_response({"error": error.message}, status=error.status)
    url = f"{request.app[_URL]}/v1/chat/completions"
    headers = {"content-type": "application/json"}
    try:
        async with request.app[_CLIENT].post(url, data=body, headers=headers) as answer:
            told = {name: answer.headers[name] for name in _TOLD if name in answer.headers}
            response = web.StreamResponse(status=answer.status, headers=told)
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            return response
    except aiohttp.ClientConnectorError:
        return web.json_response({"error": "Envoy cannot be reached."}, status=502)
