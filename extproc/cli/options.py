"""What several commands share: their option for the configuration, and how its problems are told."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from extproc.errors import ConfigError

INTERVAL = 1.0
"""Seconds between looks at a file that is watched."""

CONFIG = click.option(
    "-c",
    "--config",
    "path",
    required=True,
    type=click.Path(path_type=Path),
    help="The configuration.",
)


@contextmanager
def reporting() -> Iterator[None]:
    """Turns configuration errors into lines on standard error and exit status 1."""
    try:
        yield
    except ConfigError as error:
        for problem in error.problems:
            click.echo(problem, err=True)
        sys.exit(1)
    except ValueError as error:
        raise click.ClickException(str(error)) from error


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Says which extra to install when a module that belongs to it is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is missing: pip install 'envoy-looper[{extra}]'"
        ) from None


def environment() -> Mapping[str, str]:
    """The environment of the process: nobody else reads it."""
    return os.environ
