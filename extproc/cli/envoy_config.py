"""`looper envoy-config`: Envoy's files."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from extproc.cli.options import INTERVAL, configured, needing, reporting

if TYPE_CHECKING:
    from extproc.config import Config


@click.command("envoy-config")
@configured()
@click.option(
    "-o", "--output", default=None, type=click.Path(path_type=Path), help="Folder to write to."
)
@click.option(
    "--fragment",
    type=click.Choice(["filter", "http-filters", "routes", "clusters", "egress", "stats"]),
    default=None,
    help="Print this part alone, with remarks, for a configuration of your own.",
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
def command(
    path: Path,
    output: Path | None,
    fragment: str | None,
    directory: str | None,
    watch: bool,
    linger: float,
) -> None:
    """Write Envoy's bootstrap, clusters and routes for a configuration."""
    from extproc.config import load
    from extproc.config.watch import Watched

    with reporting():
        loaded = load(path)
    with needing("envoy"):
        from extproc import bootstrap
    if fragment is not None:
        _print(fragment, loaded.config)
        return
    if output is None:
        raise click.UsageError("Where to? Give -o FOLDER, or --fragment for a part.")
    with reporting():
        for each in bootstrap.left_out(loaded.config):
            click.echo(f"left out for Envoy {loaded.config.envoy.version}: {each}", err=True)
    if watch:
        follower = bootstrap.Follower(loaded.config, output, directory, linger)
        say = partial(_say, output)
        bootstrap.watch(Watched(path, loaded.files), follower, INTERVAL, say)
    bootstrap.write(loaded.config, output, directory)
    _say(output, "written")


def _print(name: str, config: "Config") -> None:
    from extproc.bootstrap import fragment

    with reporting():
        click.echo(fragment(name, config), nl=False)


def _say(path: Path, text: str) -> None:
    click.echo(f"{path}: {text}")
