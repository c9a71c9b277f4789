"""`looper cost`: what decisions may cost at the most."""

from pathlib import Path

import click

from extproc.cli.options import configured, reporting


@click.command("cost")
@configured()
@click.option(
    "--prompt-tokens",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="The size of the request.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON in place of a table.")
def command(path: Path, prompt_tokens: int, as_json: bool) -> None:
    """Show what each decision may cost at the most, in calls, tokens and USD."""
    import json

    from rich.console import Console

    from extproc.cli.cost import costs
    from extproc.config import load_config

    with reporting():
        config = load_config(path)
    found = costs.costs(config, prompt_tokens)
    if as_json:
        rows = [each.to_dict() for each in found]
        click.echo(json.dumps({"prompt_tokens": prompt_tokens, "decisions": rows}, indent=2))
        return
    console = Console()
    console.print(costs.as_table(found, prompt_tokens))
    for note in costs.notes(found):
        console.print(note, markup=False, soft_wrap=True)
