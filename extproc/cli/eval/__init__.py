"""`looper eval`: decisions and teams, over recorded answers."""

from pathlib import Path

import click

from extproc.cli.options import configured, reporting


@click.command("eval")
@configured()
@click.option(
    "--dataset",
    required=True,
    type=click.Path(path_type=Path),
    help="Questions: JSON lines with id, and text or messages; perhaps options, gold, category.",
)
@click.option(
    "--models",
    "sources",
    multiple=True,
    required=True,
    help="replay=FILE: recorded answers, JSON lines as `looper calibrate` reads. May be repeated.",
)
@click.option(
    "--model", default=None, help="The public name to ask. Default: the first entrypoint."
)
@click.option("--decision", default=None, help="Always this decision, whatever its rule says.")
@click.option("--limit", default=None, type=click.IntRange(1), help="The first so many questions.")
@click.option("--json", "as_json", is_flag=True)
def command(
    path: Path,
    dataset: Path,
    sources: tuple[str, ...],
    model: str | None,
    decision: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Put questions whose answers are known to decisions and teams, over recorded answers."""
    import json

    from rich.console import Console

    from extproc.cli.eval.evaluation import Asked, evaluate, show
    from extproc.config import load_config
    from looper.evaluate.dataset import joined, read_dataset
    from looper.evaluate.outcomes import read_outcomes

    with reporting():
        config = load_config(path)
        recorded = read_outcomes(_replayed(source) for source in sources)
        pairs = joined(read_dataset(dataset), recorded.rows)[:limit]
        asked = Asked(model or next(iter(config.entrypoints)), decision)
        report = evaluate(config, pairs, recorded, asked)
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
    else:
        show(report, Console())


def _replayed(source: str) -> Path:
    kind, _, file = source.partition("=")
    if kind != "replay" or not file:
        raise click.UsageError(f"--models {source}: give replay=FILE")
    return Path(file)
