"""`looper explain`: how a request is decided."""

import asyncio
import sys
from pathlib import Path
from typing import BinaryIO

import click

from extproc.cli.options import reporting


@click.command("explain")
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("text", required=False)
@click.option("--recipe", default=None, help="Default: that of the request's model.")
@click.option(
    "--request",
    "request_file",
    type=click.File("rb"),
    default=None,
    help="A body as clients send it; - is standard input.",
)
@click.option("--header", "headers", multiple=True, help="NAME: VALUE, as Envoy would forward it.")
@click.option("--live", is_flag=True, help="Have signals that ask a model ask it, by the egress.")
@click.option("--json", "as_json", is_flag=True, help="JSON in place of a tree.")
def command(
    path: Path,
    text: str | None,
    recipe: str | None,
    request_file: BinaryIO | None,
    headers: tuple[str, ...],
    live: bool,
    as_json: bool,
) -> None:
    """Show how a request is decided. TEXT is what its user says; - reads it from standard input."""
    import msgspec

    from extproc.cli import offline
    from extproc.config import load_config
    from extproc.process import telemetry
    from looper.errors import LooperError
    from looper.wire.chat import ChatRequest

    if (text is None) == (request_file is None):
        raise click.UsageError("Give either TEXT or --request.")
    telemetry.set_up("error", for_good=False)
    with reporting():
        config = load_config(path)
        pairs = (header.partition(":") for header in headers)
        named = {name.strip().lower(): value.strip() for name, _, value in pairs}
        try:
            if request_file is not None:
                request = ChatRequest.parse(request_file.read())
            else:
                said = sys.stdin.read() if text == "-" else str(text)
                request = offline.asking(said, next(iter(config.entrypoints)))
            found = asyncio.run(offline.explain(config, request, recipe, named, live=live))
        except LooperError as error:
            raise click.ClickException(error.message) from None
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
        return
    from rich.console import Console

    from extproc.decisions.display import as_tree

    Console().print(as_tree(found))
