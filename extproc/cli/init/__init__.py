"""`looper init`: a first configuration, of what is there."""

import asyncio
from pathlib import Path

import click

from extproc.cli.options import FILE, environment


@click.command("init")
@click.argument("file", default="looper.yaml", type=FILE)
@click.option(
    "--url",
    "urls",
    multiple=True,
    metavar="URL",
    help="An OpenAI-compatible server without a key, such as http://10.0.0.11:8000/v1. May be repeated.",
)
@click.option(
    "--model",
    "wanted",
    multiple=True,
    metavar="NAME",
    help="A model to take, of those that the servers list. Default: the first few of each. May be repeated.",
)
@click.option("--timeout", default=10.0, show_default=True, help="Seconds that a server has.")
@click.option("--force", is_flag=True, help="Write over FILE.")
def command(
    file: Path, urls: tuple[str, ...], wanted: tuple[str, ...], timeout: float, force: bool
) -> None:
    """Write a configuration for the models that this environment has keys for.

    Servers are asked for their models. FILE is looper.yaml by default; no key is written to it.
    """
    from extproc.cli.init.finding import found, servers
    from extproc.cli.init.writing import written

    if file.exists() and not force:
        raise click.ClickException(f"{file} is there already: give another name, or --force")
    known = servers(environment(), urls)
    if not known:
        raise click.ClickException(
            "no key of a provider in the environment (OPENAI_API_KEY, OPENROUTER_API_KEY, …), and no --url"
        )
    listed, failures = asyncio.run(found(known, environment(), timeout))
    for failure in failures:
        click.echo(f"warning: {failure}", err=True)
    text = written(listed, wanted)
    if text is None:
        raise click.ClickException("no server has listed a model that could be taken")
    file.write_text(text, encoding="utf-8")
    click.echo(f"{file}: written; next: looper check {file}, and looper up {file}")
