"""`looper serve`: the processor as a process, from its configuration to its last exchange."""

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from extproc.config import Loaded, warnings
from extproc.config.watch import Watched
from extproc.process.sharing import sharing
from extproc.process.states import opened
from extproc.serving.admin import Access, Facts, admin, scraped
from extproc.serving.calls import Tls, Transport
from extproc.serving.lag import Lag
from extproc.serving.reload import Reloads
from extproc.serving.server import serving
from extproc.serving.versions import at_work
from extproc.tracing import opening as tracing

_log = structlog.get_logger()

_COLLECTED = (10_000, 10, 10)
"""Objects, and younger collections, between two rounds of the collector: a request makes hundreds, few in circles."""


@dataclass(frozen=True, slots=True)
class Service:
    """How the process is reached and how it ends. `drain` and `grace` are seconds."""

    listen: Sequence[str]
    health: str | None
    admin: Access | None
    metrics: str | None
    drain: float
    grace: float
    transport: Transport
    tls: Tls | None = None
    replace: bool = False


async def serve(
    loaded: Loaded,
    path: Path,
    service: Service,
    ready: Callable[[], None],
    interval: float,
    environment: Mapping[str, str],
) -> None:
    """Serve until SIGTERM or SIGINT; `ready` is called once Envoy can connect. `environment` is where secrets are.

    The file at `path`, from which `loaded` is, is looked at every `interval` seconds; a new version is put to work.
    The end is planned: health says NOT_SERVING first, so that Envoy sends new exchanges elsewhere for `drain`
    seconds; then no more are taken, and those that are open have `grace` seconds to finish.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        states = await stack.enter_async_context(opened(loaded.config.state, environment))
        tracer = await stack.enter_async_context(tracing.opened(loaded.config.tracing, environment))
        versions = await stack.enter_async_context(at_work(loaded.config, states, tracer))
        await stack.enter_async_context(
            sharing(versions.process.tenants, loaded.config.state, environment)
        )
        facts = Facts(versions, Reloads(), Lag())
        stack.enter_context(versions.process.runs.writing())
        if service.admin is not None:
            await stack.enter_async_context(admin(facts, service.admin))
        if service.metrics is not None:
            await stack.enter_async_context(scraped(facts, service.metrics))
        health = await stack.enter_async_context(
            serving(
                versions.begin,
                service.listen,
                service.health,
                service.grace,
                service.transport,
                service.tls,
                replace=service.replace,
            )
        )
        watched = Watched(path, loaded.files)
        async with _beside(facts.reloads.follow(watched, versions, interval), facts.lag.measure()):
            gc.freeze()  # what is there now stays: the collector need not look at it again
            gc.set_threshold(*_COLLECTED)
            for warning in warnings(loaded):
                _log.warning("config", problem=warning)
            _log.info("serving", listen=list(service.listen), health=service.health)
            ready()
            await stop.wait()
        _log.info("draining", seconds=service.drain)
        health.set_serving(False)
        await asyncio.sleep(service.drain)
    _log.info("stopped")


@asynccontextmanager
async def _beside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do what never ends beside the block, as long as that lasts."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in work]
        yield
        for task in tasks:
            task.cancel()
