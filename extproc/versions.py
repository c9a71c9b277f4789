"""The configurations that a process has at work: the newest, and one that Envoy may still run.

An exchange begins with the newest whose models Envoy knows. Envoy's routes name the generation that they were made
from, and each of its streams brings that along; a stream's routes do not change under it. So a configuration with a new
model, or a model at another URL, is not used before the routes are there that lead to it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import structlog

from extproc.config import Config
from extproc.generation import generation
from extproc.process import Process
from extproc.runtime import Runtime, build
from looper.client import EgressClient
from looper.workflows.pausing import States

_log = structlog.get_logger()

_SKEW = 10.0
"""Seconds after the first request with a new generation in which another of Envoy's workers may lag behind."""

_REMEMBERED = 32
"""Generations of which it is known to which models Envoy has routes then."""

Begin = Callable[[str | None], AbstractContextManager[Runtime]]
"""Gives an exchange, by the generation that Envoy reports, the runtime that is its own to the end."""

Reach = frozenset[tuple[str, str]]


def reach(config: Config) -> Reach:
    """The models of a configuration, each with where it is."""
    return frozenset((model.name, model.url) for model in config.models)


@dataclass(eq=False, slots=True)
class Egress:
    """The connection to one egress address, and how many exchanges may use it."""

    address: str
    client: EgressClient
    close: AsyncExitStack
    users: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Version:
    """A configuration at work."""

    generation: str
    runtime: Runtime
    egress: Egress
    reach: Reach


@dataclass(eq=False, slots=True)
class Versions:
    """Which configuration an exchange begins with. Nothing in here awaits but opening and closing connections."""

    process: Process
    skew: float = _SKEW
    envoy: str | None = None
    _known: list[Version] = field(default_factory=list)
    _egresses: list[Egress] = field(default_factory=list)
    _reach: dict[str, Reach] = field(default_factory=dict)
    _caught_up: float | None = None

    @property
    def newest(self) -> Version:
        return self._known[0]

    @property
    def is_stale(self) -> bool:
        """Whether Envoy was last seen with the routes of another configuration."""
        return self.envoy is not None and self.envoy != self.newest.generation

    @contextmanager
    def begin(self, envoy: str | None) -> Iterator[Runtime]:
        """The runtime for an exchange whose routes are of the generation `envoy`; it counts as open in the block."""
        version = self.newest
        if envoy is not None and envoy != version.generation:
            version = self._choose(envoy)
        self._see(envoy)
        version.egress.users += 1
        try:
            yield version.runtime
        finally:
            version.egress.users -= 1

    def _see(self, envoy: str | None) -> None:
        if envoy is None or envoy == self.envoy:
            return
        self.envoy = envoy
        self._note_whether_caught_up()
        _log.info("config.envoy", generation=envoy, stale=self.is_stale)

    def _choose(self, envoy: str) -> Version:
        """The newest configuration without a model that routes of this generation do not lead to."""
        routed = self._reach.get(envoy)
        if routed is None:  # never heard of: newer than ours, or written by hand
            return self.newest
        fitting = (version for version in self._known if version.reach <= routed)
        return next(fitting, self.newest)

    async def add(self, config: Config, generation: str) -> None:
        """Build a configuration of this generation aside, and put it to work in one step.

        Raises OSError for what it names on this machine and cannot be used; then nothing has changed.
        """
        egress = await self._connect(config.egress)
        runtime = await asyncio.to_thread(build, config, egress.client, self.process)
        self.process.follow(config)
        version = Version(generation, runtime, egress, reach(config))
        waiting = self._still_needed()
        self._known = [version, *waiting]
        self._reach[version.generation] = version.reach
        while len(self._reach) > _REMEMBERED:
            del self._reach[next(iter(self._reach))]
        self._note_whether_caught_up()

    def _note_whether_caught_up(self) -> None:
        caught_up = self.envoy == self.newest.generation
        self._caught_up = asyncio.get_running_loop().time() if caught_up else None

    def _still_needed(self) -> list[Version]:
        """What Envoy may go on using: as far back as the configuration that an exchange would begin with now."""
        if self.envoy is None or not self._known:
            return self._known[:1]
        chosen = self._choose(self.envoy)
        return self._known[: self._known.index(chosen) + 1]

    async def _connect(self, address: str) -> Egress:
        for egress in self._egresses:
            if egress.address == address:
                return egress
        close = AsyncExitStack()
        client = await close.enter_async_context(EgressClient(address))
        egress = Egress(address, client, close)
        self._egresses.append(egress)
        return egress

    async def tidy(self) -> None:
        """Forget configurations that no exchange can begin with any more, and close what the last one has left."""
        now = asyncio.get_running_loop().time()
        if self._caught_up is not None and now - self._caught_up > self.skew:
            self._known = self._known[:1]
        in_use = [version.egress for version in self._known]
        for egress in [each for each in self._egresses if each not in in_use and not each.users]:
            self._egresses.remove(egress)
            await egress.close.aclose()

    async def close(self) -> None:
        """Close every connection."""
        while self._egresses:
            await self._egresses.pop().close.aclose()


@asynccontextmanager
async def at_work(config: Config, states: States | None = None) -> AsyncIterator[Versions]:
    """A process's first configuration, and room for those to come."""
    versions = Versions(Process.of(config, states))
    try:
        await versions.add(config, generation(config))
        yield versions
    finally:
        await versions.close()
