"""`looper envoy-config --watch`: Envoy's files follow the configuration, and no request is lost on the way.

A model that has left the configuration keeps its route and its cluster for a while: requests and runs that began before
may still need it, and so may a processor that has yet to see the change.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from extproc.bootstrap.files import render, write
from extproc.bootstrap.ingress import longest_deadline
from extproc.config import Config
from extproc.config.watch import Watched
from extproc.errors import ConfigError
from extproc.process.generation import generation
from looper.calling.models import Model

Say = Callable[[str], None]


@dataclass(slots=True)
class Follower:
    """Writes files again when the configuration changes, and once more when the last who needed them are gone.

    `linger` is for how many seconds beyond the longest deadline a model that was taken out can still be reached.
    """

    config: Config
    out: Path
    directory: str | None
    linger: float
    settle: float = 1.0
    _leaving: dict[str, tuple[Model, float]] = field(default_factory=dict)

    def begin(self) -> None:
        """Write the files for the first time."""
        write(self.config, self.out, self.directory)

    def change(self, config: Config, now: float) -> bool:
        """Write the files for another configuration. Whether Envoy has to be restarted for a part of it.

        Raises ConfigError for a file of Envoy's that it names and that is not there; then all stays as it is.
        """
        before, after = self.config, _bootstrap(config)
        until = now + longest_deadline(self.config).total_seconds() + self.linger
        self._leaving |= {model.name: (model, until) for model in self.config.upstreams()}
        self.config = config
        for model in config.upstreams():
            self._leaving.pop(model.name, None)
        self._write()
        return _bootstrap(before) != after

    def let_go(self, now: float) -> bool:
        """Write the files without models whose time is over. Whether there were any."""
        over = [name for name, (_, until) in self._leaving.items() if until <= now]
        for name in over:
            del self._leaving[name]
        if over:
            self._write()
        return bool(over)

    def _write(self) -> None:
        leaving = [model for model, _ in self._leaving.values()]
        write(self.config, self.out, self.directory, lingering=leaving, settle=self.settle)


def _bootstrap(config: Config) -> str:
    """What Envoy reads only at its start, whichever generation it is of."""
    return render(config, directory="/")["bootstrap.yaml"].replace(generation(config), "")


def watch(watched: Watched, follower: Follower, interval: float, say: Say) -> None:
    """Follow the file for ever, with a look at it every `interval` seconds."""
    follower.begin()
    say("written")
    while True:
        time.sleep(interval)
        for line in _tried(watched, follower):
            say(line)


def step(watched: Watched, follower: Follower) -> Iterator[str]:
    """One look, and what came of it."""
    if watched.news():
        try:
            config = watched.load().config
        except ConfigError as error:
            yield from error.problems
        else:
            if config != follower.config:
                yield from _follow(config, follower)
    if follower.let_go(time.monotonic()):
        yield "written without models that were taken out"


def _follow(config: Config, follower: Follower) -> Iterator[str]:
    try:
        restart = follower.change(config, time.monotonic())
    except ConfigError as error:  # a file of Envoy's that the configuration names is gone
        yield from error.problems
        return
    yield "written"
    if restart:
        yield "what has changed in bootstrap.yaml takes a restart of Envoy"


def _tried(watched: Watched, follower: Follower) -> Iterator[str]:
    """One look, which a full disk does not make the last."""
    try:
        yield from step(watched, follower)
    except OSError as error:
        yield f"cannot be written: {error}"
