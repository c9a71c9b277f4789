"""Edits of the file, put to work while everything runs."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from extproc.bootstrap.watch import Follower
from extproc.cli.up.local import Addresses, Models, UpFailed, check_keys, localised
from extproc.config import Config
from extproc.config.watch import Watched
from extproc.errors import ConfigError
from looper.settings.files import read_text

_INTERVAL = 1.0
_LINGER = 5.0
"""Seconds, beyond deadlines, for which a model that was taken out can be reached."""


class Edits:
    """What is written in the file, and what of that is at work."""

    def __init__(
        self,
        path: Path,
        config: Config,
        addresses: Addresses,
        models: Models,
        environment: Mapping[str, str],
    ) -> None:
        self._path = path
        self._addresses = addresses
        self._models = models
        self._environment = environment
        self._watched = Watched(path)
        self._envoy = Follower(config, addresses.folder / "envoy", None, _LINGER)

    async def follow(self) -> None:
        """Look at it for ever, and say what came of each edit."""
        while True:
            await asyncio.sleep(_INTERVAL)
            for line in await asyncio.to_thread(lambda: list(self._look())):
                click.echo(line)

    def _look(self) -> Iterator[str]:
        self._envoy.let_go(time.monotonic())
        if not self._watched.news():
            return
        try:
            self._watched.load()  # which follows what the file includes, too
            config, _ = localised(read_text(self._path), str(self._path), self._addresses)
            if self._models == "configured":
                check_keys(config, self._environment)
            restart = self._envoy.change(config, time.monotonic())
        except (ConfigError, OSError, UpFailed) as error:
            yield f"Not taken, what was there before stays at work:\n{error}"
            return
        yield f"{self._path} is at work as it is now."
        if restart:
            yield "What has changed in it of Envoy's addresses and filters takes a new start."
