"""`looper explain`: how a request is decided, or how recorded ones would be."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import click

from extproc.cli.options import FILE, reporting


@click.command("explain")
@click.argument("words", nargs=-1, metavar="[FILE] [TEXT]")
@click.option("-c", "--config", "option", type=FILE, help="The same as FILE.")
@click.option("--recipe", default=None, help="Default: that of the request's model.")
@click.option(
    "--request",
    "request_file",
    type=click.File("rb"),
    default=None,
    help="A body as clients send it; - is standard input.",
)
@click.option(
    "--records",
    type=click.Path(path_type=Path),
    default=None,
    help="Recorded runs, as `trace.file` has them: what would become of them, and at what cost.",
)
@click.option("--header", "headers", multiple=True, help="NAME: VALUE, as Envoy would forward it.")
@click.option("--live", is_flag=True, help="Have signals that ask a model ask it, by the egress.")
@click.option("--json", "as_json", is_flag=True, help="JSON in place of a tree.")
def command(
    words: tuple[str, ...],
    option: Path | None,
    recipe: str | None,
    request_file: BinaryIO | None,
    records: Path | None,
    headers: tuple[str, ...],
    live: bool,
    as_json: bool,
) -> None:
    """Show how a request is decided. TEXT is what its user says; - reads it from standard input.

    With --records, show what the configuration in FILE would have decided for recorded requests.
    """
    from extproc.process import telemetry

    config, said = _told(words, option)
    if (said is not None) + (request_file is not None) + (records is not None) != 1:
        raise click.UsageError("Give either TEXT or --request, or --records.")
    telemetry.set_up("error", for_good=False)
    if records is not None:
        _compare(config, records, recipe, as_json=as_json)
        return
    pairs = (header.partition(":") for header in headers)
    named = {name.strip().lower(): value.strip() for name, _, value in pairs}
    _explain(config, said, request_file, recipe, named, live=live, as_json=as_json)


def _told(words: tuple[str, ...], option: Path | None) -> tuple[Path, str | None]:
    """The configuration and the text: the first of the words is the file, if that is not given otherwise."""
    if option is None:
        if not words:
            raise click.UsageError("Which configuration? Give FILE, or -c FILE.")
        option, words = Path(words[0]), words[1:]
    if len(words) > 1:
        raise click.UsageError(f"{words[1]!r} is one word too many: put the text in quotes.")
    return option, words[0] if words else None


def _compare(config: Path, records: Path, recipe: str | None, *, as_json: bool) -> None:
    import msgspec
    from rich.console import Console

    from extproc.cli.explain import comparison, recorded
    from extproc.config import load_config

    with reporting():
        loaded = load_config(config)
        read = list(recorded.read_records(records))
        found = asyncio.run(recorded.replay(loaded, read, recipe))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(recorded.as_json(found))).decode())
    else:
        Console().print(comparison.as_table(recorded.compared(found)))


def _explain(
    path: Path,
    text: str | None,
    request_file: BinaryIO | None,
    recipe: str | None,
    headers: Mapping[str, str],
    *,
    live: bool,
    as_json: bool,
) -> None:
    import msgspec

    from extproc.cli import offline
    from extproc.config import load_config
    from looper.errors import LooperError
    from looper.wire.chat import ChatRequest

    with reporting():
        config = load_config(path)
        try:
            if request_file is not None:
                request = ChatRequest.parse(request_file.read())
            else:
                said = sys.stdin.read() if text == "-" else str(text)
                request = offline.asking(said, next(iter(config.entrypoints)))
            found: Any = asyncio.run(offline.explain(config, request, recipe, headers, live=live))
        except LooperError as error:
            raise click.ClickException(error.message) from None
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
        return
    from rich.console import Console

    from extproc.decisions.display import as_tree

    Console().print(as_tree(found))
