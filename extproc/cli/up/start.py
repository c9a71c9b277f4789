"""`looper up`: everything on this machine, with a tour of what it does."""

import asyncio
import signal
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

import click

from extproc.cli.up.following import Edits
from extproc.cli.up.local import Models, everything
from extproc.cli.up.tour import DEMO, REAL, announce, tour


async def up(
    config: tuple[str, str] | None,
    *,
    real: bool,
    once: bool,
    port: int,
    envoy: str | None,
    environment: Mapping[str, str],
) -> bool:
    """Start everything, show the tour, and stay up unless `once`. Whether every reply of the tour was right.

    `real`: all models of the configuration, or of a demo of its own, are names of one real model.
    """
    demo = REAL if real else DEMO
    name, text = config or (str(demo), demo.read_text(encoding="utf-8"))
    models: Models = "real" if real else "configured" if config else "simulated"
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with everything(
        text,
        name=name,
        models=models,
        port=port,
        envoy=envoy,
        environment=environment,
    ) as (settings, addresses):
        announce(settings, addresses)
        known = models == "simulated"
        right = await _unless(stop, tour(settings, addresses, known=known))
        if right is None or once:
            return bool(right)
        if config is None:
            click.echo("Everything stays up until Ctrl-C.")
            await stop.wait()
        else:
            click.echo(f"Everything stays up until Ctrl-C; edits of {name} are followed.")
            edits = Edits(Path(name), settings, addresses, models, environment)
            await _unless(stop, edits.follow())
        return right


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, bool | None]) -> bool | None:
    """The result of `work`; None if `stop` comes first."""
    async with asyncio.TaskGroup() as group:
        task, stopping = group.create_task(work), group.create_task(stop.wait())
        await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not task.done():
            task.cancel()
            return None
    return bool(task.result())
