"""`looper probe`: the probes of configurations and recipes."""

import asyncio
import sys
from pathlib import Path

import click

from extproc.cli.options import FILE, reporting


@click.command("probe")
@click.argument("files", nargs=-1, type=FILE)
@click.option("-c", "--config", "options", multiple=True, type=FILE, help="The same as FILE.")
@click.option("--tag", "tags", multiple=True, help="Only probes that have all of these tags.")
@click.option("--all", "everything", is_flag=True, help="Show the probes that passed as well.")
@click.option("--strict", is_flag=True, help="Fail as well if a decision is reached by no probe.")
@click.option("--json", "as_json", is_flag=True, help="JSON in place of tables.")
@click.option(
    "--junit", type=click.Path(path_type=Path), default=None, help="Also write JUnit's XML there."
)
def command(
    files: tuple[Path, ...],
    options: tuple[Path, ...],
    tags: tuple[str, ...],
    everything: bool,
    strict: bool,
    as_json: bool,
    junit: Path | None,
) -> None:
    """Ask configurations or recipes their probes: NAME.yaml those of NAME.probes.yaml beside it."""
    if not (paths := (*files, *options)):
        raise click.UsageError("Which configuration? Give FILE, or -c FILE.")
    from rich.console import Console

    from extproc.cli.probe import probing, report
    from extproc.process import telemetry

    telemetry.set_up("critical")
    with reporting():
        reports = [asyncio.run(probing.probe(path, frozenset(tags))) for path in paths]
    if junit is not None:
        junit.write_bytes(report.as_junit(reports))
    if as_json:
        click.echo(report.as_json(reports))
    else:
        Console().print(report.as_tables(reports, everything=everything))
    failed = any(each.failed or (strict and each.unreached) for each in reports)
    sys.exit(1 if failed else 0)
