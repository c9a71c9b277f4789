"""`looper check`: what is wrong with a configuration."""

from pathlib import Path

import click

from extproc.cli.options import reporting


@click.command("check")
@click.argument("path", type=click.Path(path_type=Path))
def command(path: Path) -> None:
    """Say everything that is wrong with a configuration."""
    from extproc.config import load, warnings

    with reporting():
        loaded = load(path)
    for warning in warnings(loaded):
        click.echo(f"warning: {warning}", err=True)
    for included in loaded.files:
        click.echo(f"{path}: includes {included}")
    click.echo(f"{path}: good")
