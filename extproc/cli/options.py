"""What several commands share: their option for the configuration, and how its problems are told."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import click

from extproc.errors import ConfigError

INTERVAL = 1.0
"""Seconds between looks at a file that is watched."""

FILE = click.Path(path_type=Path)


def configured(*, required: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The configuration, which every command takes in both ways: FILE, and -c FILE. It comes as `path`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @click.argument("file", required=False, type=FILE, metavar="[FILE]")
        @click.option("-c", "--config", "option", type=FILE, help="The same as FILE.")
        @wraps(command)
        def call(file: Path | None, option: Path | None, **rest: Any) -> None:
            command(path=one_of(file, option, required=required), **rest)

        return call

    return decorate


def one_of(file: Path | None, option: Path | None, *, required: bool = True) -> Path | None:
    """The configuration, given in one way or the other. Raises UsageError for both, or none where one is needed."""
    if file is not None and option is not None:
        raise click.UsageError(f"Two configurations: {file} and -c {option}.")
    if file is None and option is None and required:
        raise click.UsageError("Which configuration? Give FILE, or -c FILE.")
    return file or option


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
