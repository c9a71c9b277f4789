"""`looper top`: decisions and models of a process, as they fare."""

from pathlib import Path

import click

from extproc.cli.operator import ADMIN, TOKEN, asked


@click.command("top")
@ADMIN
@TOKEN
@click.option(
    "--interval",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0.1),
    help="Seconds between looks.",
)
@click.option("--once", is_flag=True, help="Print it once and end.")
@click.option("--json", "as_json", is_flag=True, help="JSON, once.")
def command(
    address: str, token_file: Path | None, interval: float, once: bool, as_json: bool
) -> None:
    """Show how decisions and models of a process fare: the last 5,000 runs, and what is under way."""
    from functools import partial

    from extproc.cli.top.tables import follow, look

    if as_json or once:
        asked(address, token_file, partial(look, as_json=as_json))
    else:
        asked(address, token_file, partial(follow, interval=interval))
