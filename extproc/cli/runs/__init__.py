"""`looper runs`: the runs of a process, listed, followed, or one of them on a time axis."""

from pathlib import Path

import click

from extproc.cli.operator import ADMIN, TOKEN, asked


@click.command("runs")
@click.argument("run", required=False)
@ADMIN
@TOKEN
@click.option("--follow", "-f", is_flag=True, help="Go on with runs as they end.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(0))
@click.option("--decision", default=None, help="Only this decision's: NAME or RECIPE.NAME.")
@click.option("--outcome", default=None, help="Only those with this outcome, such as failed.")
@click.option("--model", default=None, help="Only those that asked this model.")
@click.option("--json", "as_json", is_flag=True, help="JSON: a line for each run, or one's record.")
def command(
    run: str | None,
    address: str,
    token_file: Path | None,
    follow: bool,
    limit: int,
    decision: str | None,
    outcome: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    """List the last runs of a process, or show one on a time axis: RUN, its id, which x-looper-run tells as well."""
    from functools import partial

    from extproc.cli.runs.listing import Shown, Wanted, list_runs, show_run

    if run is not None and follow:
        raise click.UsageError("Give either RUN or --follow.")
    shown = Shown(as_json)
    if run is not None:
        work = partial(show_run, run=run, shown=shown)
    else:
        wanted = Wanted(decision, outcome, model)
        work = partial(list_runs, wanted=wanted, limit=limit, shown=shown, follow=follow)
    asked(address, token_file, work)
