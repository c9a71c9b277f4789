"""Hot reload: a new version of the configuration file is checked and built aside, and then put to work."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

import structlog

from extproc.config import Config, lint
from extproc.config.watch import Watched
from extproc.errors import ConfigError
from extproc.process.generation import generation
from extproc.serving.versions import Versions

_log = structlog.get_logger()

INTERVAL = 1.0
"""Seconds between looks at the file."""

_SETTLE = 0.1
"""Seconds that it has to stay the same, so that what an editor has written half is not taken for the whole."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(eq=False, slots=True)
class Reloads:
    """What became of the file's versions. `problems` are those of the last one, which is not at work then."""

    problems: Sequence[str] = ()
    succeeded: int = 0
    failed: int = 0
    since: str = field(default_factory=_now)

    @property
    def is_valid(self) -> bool:
        return not self.problems

    async def follow(self, watched: Watched, versions: Versions, interval: float) -> None:
        """Look at the file for ever. Reading, checking and building are done beside the event loop."""
        while True:
            await asyncio.sleep(interval)
            if await asyncio.to_thread(watched.news):
                while await _still_written(watched):
                    pass
                await self._reload(watched, versions)
            await versions.tidy()

    async def _reload(self, watched: Watched, versions: Versions) -> None:
        try:
            news = await asyncio.to_thread(_read, watched)
            await self._put_to_work(news, versions)
        except ConfigError as error:
            self._refuse(error.problems)
        except OSError as error:
            self._refuse([f"{watched.path}: {error}"])
        except Exception as error:  # a mistake of ours must not end what is at work
            _log.exception("config.crashed")
            self._refuse([f"{watched.path}: cannot be put to work: {type(error).__name__}"])

    async def _put_to_work(self, news: "_News", versions: Versions) -> None:
        newest = versions.newest
        if news.generation != newest.generation:
            await versions.add(news.config, news.generation)
            self.succeeded += 1
            self.since = _now()
            for warning in news.warnings:
                _log.warning("config", problem=warning)
            for name in _fixed(newest.runtime.config, news.config):
                _log.warning("config", problem=f"`{name}` stays as it was until the next start")
            _log.info("config.reloaded", generation=news.generation)
        self.problems = ()

    def _refuse(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        self.failed += 1
        for problem in problems:
            _log.error("config.refused", problem=problem)


def _fixed(before: Config, after: Config) -> Iterator[str]:
    """What has changed, and is only looked at as the process starts."""
    if after.state != before.state:
        yield "state"
    if after.tracing != before.tracing:
        yield "tracing"


class _News(NamedTuple):
    """A new version of the file, with what takes a while to find out."""

    config: Config
    generation: str
    warnings: list[str]


def _read(watched: Watched) -> _News:
    loaded = watched.load()
    return _News(loaded.config, generation(loaded.config), lint.warnings(loaded))


async def _still_written(watched: Watched) -> bool:
    await asyncio.sleep(_SETTLE)
    return await asyncio.to_thread(watched.news)
