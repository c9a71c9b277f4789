"""`looper doctor`: whether models and Envoy are what the configuration takes them for."""

import asyncio
import sys
from pathlib import Path

import click

from extproc.cli.options import configured, reporting


@click.command("doctor")
@configured()
@click.option(
    "--admin",
    default=None,
    help="Envoy's admin interface: unix:/path or host:port. Default: `envoy.admin`.",
)
@click.option("--egress", default=None, help="Where to ask models. Default: `egress`.")
@click.option(
    "--only", type=click.Choice(["models", "envoy"]), default=None, help="Look at nothing else."
)
@click.option(
    "--timeout", default=30.0, show_default=True, help="Seconds that a model has to answer."
)
@click.option("--json", "as_json", is_flag=True, help="JSON in place of a table.")
def command(
    path: Path,
    admin: str | None,
    egress: str | None,
    only: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """See whether models and Envoy are what a configuration takes them for. Asks each model a few words."""
    from rich.console import Console

    from extproc.cli.doctor import findings as told
    from extproc.cli.doctor.examine import Places, examine
    from extproc.config import load_config

    with reporting():
        config = load_config(path)
    places = Places(
        egress=None if only == "envoy" else egress or config.egress,
        admin=None if only == "models" else admin or config.envoy.admin,
        seconds=timeout,
    )
    findings = asyncio.run(examine(config, places))
    if as_json:
        click.echo(told.as_json(findings))
    else:
        Console().print(told.as_table(findings))
    sys.exit(1 if told.has_failed(findings) else 0)
