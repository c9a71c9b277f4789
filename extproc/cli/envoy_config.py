"""`looper envoy-config`: Envoy's files."""

from functools import partial
from pathlib import Path

import click

from extproc.cli.options import INTERVAL, configured, needing, reporting


@click.command("envoy-config")
@configured()
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
def command(path: Path, output: Path, directory: str | None, watch: bool, linger: float) -> None:
    """Write Envoy's bootstrap, clusters and routes for a configuration."""
    from extproc.config import load
    from extproc.config.watch import Watched

    with reporting():
        loaded = load(path)
    with needing("envoy"):
        from extproc import bootstrap
    with reporting():
        for each in bootstrap.left_out(loaded.config):
            click.echo(f"left out for Envoy {loaded.config.envoy.version}: {each}", err=True)
    if watch:
        follower = bootstrap.Follower(loaded.config, output, directory, linger)
        say = partial(_say, output)
        bootstrap.watch(Watched(path, loaded.files), follower, INTERVAL, say)
    bootstrap.write(loaded.config, output, directory)
    _say(output, "written")


def _say(path: Path, text: str) -> None:
    click.echo(f"{path}: {text}")
