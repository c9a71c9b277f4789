"""Hot reload: a new version of the configuration file is checked and built aside, and then put to work."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from extproc.config import lint
from extproc.config.load import Loaded
from extproc.config.watch import Watched
from extproc.errors import ConfigError
from extproc.generation import generation
from extproc.versions import Versions

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
            loaded = await asyncio.to_thread(watched.load)
            await self._put_to_work(loaded, versions)
        except ConfigError as error:
            self._refuse(error.problems)
        except OSError as error:
            self._refuse([f"{watched.path}: {error}"])

    async def _put_to_work(self, loaded: Loaded, versions: Versions) -> None:
        if generation(loaded.config) != versions.newest.generation:
            await versions.add(loaded.config)
            self.succeeded += 1
            self.since = _now()
            for warning in lint.warnings(loaded):
                _log.warning("config", problem=warning)
            _log.info("config.reloaded", generation=versions.newest.generation)
        self.problems = ()

    def _refuse(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        self.failed += 1
        for problem in problems:
            _log.error("config.refused", problem=problem)


async def _still_written(watched: Watched) -> bool:
    await asyncio.sleep(_SETTLE)
    return await asyncio.to_thread(watched.news)
