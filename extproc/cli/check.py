"""`looper check`: what is wrong with a configuration."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from extproc.cli.options import configured


@click.command("check")
@configured()
@click.option("--strict", is_flag=True, help="Fail for warnings, too.")
@click.option("--json", "as_json", is_flag=True, help="JSON in place of lines.")
def command(path: Path, strict: bool, as_json: bool) -> None:
    """Say everything that is wrong with a configuration."""
    from extproc.config import absences, load, warnings
    from extproc.errors import ConfigError
    from extproc.tracing.opening import problems as unmet

    problems: list[str] = []
    doubts: list[str] = []
    absent: list[str] = []
    files: list[str] = []
    try:
        loaded = load(path)
    except ConfigError as error:
        problems = list(error.problems)
    else:
        problems = unmet(loaded)
        doubts = warnings(loaded)
        absent = absences(loaded)
        files = [str(each) for each in loaded.files]
    good = not problems and not (strict and doubts)
    if as_json:
        found: dict[str, Any] = {"file": str(path), "valid": not problems}
        found |= {"problems": problems, "warnings": doubts, "notes": absent, "includes": files}
        click.echo(json.dumps(found, indent=2))
    else:
        _say(path, problems, doubts, files, absent)
    sys.exit(0 if good else 1)


def _say(
    path: Path, problems: list[str], doubts: list[str], files: list[str], absent: list[str]
) -> None:
    for problem in problems:
        click.echo(problem, err=True)
    for doubt in doubts:
        click.echo(f"warning: {doubt}", err=True)
    for note in absent:  # it may be where Envoy runs, so that this is no doubt about the file
        click.echo(f"note: {note}", err=True)
    for included in files:
        click.echo(f"{path}: includes {included}")
    if not problems:
        click.echo(f"{path}: {_verdict(len(doubts))}")


def _verdict(doubts: int) -> str:
    """What was found is good only if there is nothing to say against it."""
    if not doubts:
        return "good"
    return "valid, with 1 warning" if doubts == 1 else f"valid, with {doubts} warnings"
