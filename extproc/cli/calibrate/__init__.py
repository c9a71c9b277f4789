"""`looper calibrate`: a team's weights, fitted to recorded outcomes."""

from pathlib import Path

import click

from extproc.cli.options import configured, needing, reporting


@click.command("calibrate")
@configured()
@click.option(
    "--data",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="Recorded outcomes, JSONL or JSONL.gz. May be repeated.",
)
@click.option("--decision", help="Which one's team: NAME or RECIPE.NAME.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The weights file. Default: DECISION.weights.json beside the configuration.",
)
def command(path: Path, data: tuple[Path, ...], decision: str | None, output: Path | None) -> None:
    """Fit a team's weights and thresholds to recorded outcomes, and say what the team is worth."""
    import datetime

    from extproc.config import load_config

    with reporting():
        config = load_config(path)
    with needing("calibrate"):
        from extproc.cli.calibrate import fit
    with reporting():
        found = fit.calibrate(config, data, decision, datetime.date.today())
    target = output or path.parent / f"{found.decision}.weights.json"
    try:
        target.write_text(found.weights.model_dump_json(exclude_defaults=True, indent=1) + "\n")
    except OSError as error:
        raise click.ClickException(f"{target}: cannot be written: {error.strerror}") from None
    for line in fit.said(found):
        click.echo(line)
    click.echo(f"{target}: written; name it with `weights` in the decision's algorithm")
