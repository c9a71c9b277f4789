"""`looper serve`: the processor as a process, from its configuration to its last exchange."""

import asyncio
import gc
import signal
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import structlog

from extproc.admin import admin
from extproc.config import Config, warnings
from extproc.runtime import build
from extproc.server import serving
from looper.client import EgressClient

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Service:
    """How the process is reached and how it ends. `drain` and `grace` are seconds."""

    listen: Sequence[str]
    health: str | None
    admin: str | None
    drain: float
    grace: float


async def serve(config: Config, service: Service, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; `ready` is called once Envoy can connect.

    The end is planned: health says NOT_SERVING first, so that Envoy sends new exchanges elsewhere for `drain`
    seconds; then no more are taken, and those that are open have `grace` seconds to finish.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(EgressClient(config.egress))
        runtime = build(config, client)
        stack.enter_context(runtime.runs.writing())
        if service.admin is not None:
            await stack.enter_async_context(admin(lambda: runtime, service.admin))
        async with serving(
            lambda: runtime, service.listen, service.health, service.grace
        ) as health:
            gc.freeze()  # what is there now stays: the collector need not look at it again
            for warning in warnings(config):
                _log.warning("config", problem=warning)
            _log.info("serving", listen=list(service.listen), health=service.health)
            ready()
            await stop.wait()
            _log.info("draining", seconds=service.drain)
            await health.set_serving(False)
            await asyncio.sleep(service.drain)
    _log.info("stopped")
