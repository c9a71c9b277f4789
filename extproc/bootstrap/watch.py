"""`looper envoy-config --watch`: Envoy's files follow the configuration, and no request is lost on the way.

A model that has left the configuration keeps its route and its cluster for a while: requests and runs that began before
may still need it, and so may a processor that has yet to see the change.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from extproc.bootstrap.files import write
from extproc.bootstrap.ingress import longest_deadline
from extproc.config import Config
from extproc.config.watch import Watched
from extproc.errors import ConfigError
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
    _start: str = ""
    """What Envoy was started with."""

    def begin(self) -> None:
        """Write the files for the first time."""
        self._start = self._write(self.config, self._leaving)

    def change(self, config: Config, now: float) -> bool:
        """Write the files for another configuration. Whether Envoy has to be restarted for a part of it.

        Raises ConfigError for a file of Envoy's that it names and that is not there; then all stays as it is.
        """
        until = now + longest_deadline(self.config).total_seconds() + self.linger
        before = {model.name: (model, until) for model in self.config.upstreams()}
        kept = {model.name for model in config.upstreams()}
        leaving = {
            name: each for name, each in (self._leaving | before).items() if name not in kept
        }
        start, self._start = self._start, self._write(config, leaving)
        self.config, self._leaving = config, leaving
        return start != self._start

    def let_go(self, now: float) -> bool:
        """Write the files without models whose time is over. Whether there were any."""
        over = [name for name, (_, until) in self._leaving.items() if until <= now]
        for name in over:
            del self._leaving[name]
        if over:
            self._start = self._write(self.config, self._leaving)
        return bool(over)

    def _write(self, config: Config, leaving: Mapping[str, tuple[Model, float]]) -> str:
        models = [model for model, _ in leaving.values()]
        return write(config, self.out, self.directory, lingering=models, settle=self.settle)


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
