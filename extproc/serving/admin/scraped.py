"""The page that Prometheus reads, on an address of its own: it names decisions and models, and no more than that."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from extproc.serving import metrics
from extproc.serving.admin.facts import FACTS, Facts
from extproc.serving.admin.guard import harden
from extproc.serving.admin.site import serving

PATH = "/metrics"


@asynccontextmanager
async def scraped(facts: Facts, address: str) -> AsyncIterator[None]:
    """Serve the page, and nothing else, while the context is open."""
    app = web.Application()
    app[FACTS] = facts
    app.on_response_prepare.append(harden)
    add_metrics(app)
    async with serving(app, address):
        yield


def add_metrics(app: web.Application) -> None:
    app.router.add_get(PATH, _metrics)


async def _metrics(request: web.Request) -> web.Response:
    """What only the process itself knows."""
    facts = request.app[FACTS]
    found = metrics.facts(facts.versions, facts.reloads, facts.lag)
    page = await asyncio.to_thread(metrics.render, found)
    return web.Response(body=page, headers={"content-type": metrics.CONTENT_TYPE})
