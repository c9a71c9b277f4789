"""The configurations that a process has at work: the newest, and one that Envoy may still run.

An exchange begins with the newest whose models Envoy knows. Envoy's routes announce the generation that they were made
from and the models that they lead to; each of its streams brings that along, and its routes do not change under it. So
a configuration with a new model, or a model at another URL, is not used before the routes are there that lead to it.
Where there is no older one, as after a start, it is used without the decisions that name such models.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import structlog

from extproc.config import Config
from extproc.process.generation import Reach, fingerprint, generation, heard, reach
from extproc.process.process import Process
from extproc.process.runtime import Runtime, build
from extproc.tracing import Tracer
from looper.calling.client import EgressClient
from looper.patterns.workflows.pauses.pausing import States

_log = structlog.get_logger()

_SKEW = 10.0
"""Seconds after the first request with a new generation in which another of Envoy's workers may lag behind."""

_REMEMBERED = 32
"""Announcements that need not be read again."""

Begin = Callable[[str | None], AbstractContextManager[Runtime]]
"""Gives an exchange, by what Envoy's routes announce, the runtime that is its own to the end."""


@dataclass(eq=False, slots=True)
class Egress:
    """The connection to one egress address, and how many exchanges may use it."""

    address: str
    most: int
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
    """The generation that Envoy's routes had last."""
    announced: str | None = None
    _known: list[Version] = field(default_factory=list)
    _egresses: list[Egress] = field(default_factory=list)
    _heard: dict[str, tuple[str, Reach | None]] = field(default_factory=dict)
    _caught_up: float | None = None
    _unfit: Reach | None = None

    @property
    def newest(self) -> Version:
        return self._known[0]

    @property
    def is_stale(self) -> bool:
        """Whether Envoy was last seen with the routes of another configuration."""
        return self.envoy is not None and self.envoy != self.newest.generation

    @contextmanager
    def begin(self, announced: str | None) -> Iterator[Runtime]:
        """The runtime for an exchange whose routes announce this; it counts as open in the block."""
        version = self.newest if announced is None else self._choose(announced)
        version.egress.users += 1
        try:
            yield version.runtime
        finally:
            version.egress.users -= 1

    def _choose(self, announced: str) -> Version:
        """The newest configuration without a model that these routes do not lead to."""
        generation, routed = self._read(announced)
        if announced != self.announced:
            self._see(generation, announced)
        if routed is None or generation == self.newest.generation:
            return self.newest
        fitting = (version for version in self._known if version.reach <= routed)
        version = next(fitting, None)
        if version is None:
            self._unfit = routed
        return version or self.newest

    def _read(self, announced: str) -> tuple[str, Reach | None]:
        found = self._heard.get(announced)
        if found is None:
            if len(self._heard) >= _REMEMBERED:
                self._heard.clear()
            found = self._heard[announced] = heard(announced)
        return found

    def _see(self, generation: str, announced: str) -> None:
        self.envoy, self.announced = generation, announced
        self._note_whether_caught_up()
        _log.info("config.envoy", generation=generation, stale=self.is_stale)

    async def add(self, config: Config, generation: str) -> None:
        """Build a configuration of this generation aside, and put it to work in one step.

        Raises OSError for what it names on this machine and cannot be used; then nothing has changed.
        """
        egress = await self._connect(config.egress, config.limits.max_answer_bytes)
        runtime = await asyncio.to_thread(build, config, egress.client, self.process)
        self.process.follow(config)
        version = Version(generation, runtime, egress, reach(config))
        self._known = [version, *self._still_needed()]
        self._unfit = None
        self._note_whether_caught_up()

    def _note_whether_caught_up(self) -> None:
        caught_up = self.envoy == self.newest.generation
        self._caught_up = asyncio.get_running_loop().time() if caught_up else None

    def _still_needed(self) -> list[Version]:
        """What Envoy may go on using: as far back as the configuration that an exchange would begin with now."""
        if self.announced is None or not self._known:
            return self._known[:1]
        chosen = self._choose(self.announced)
        return self._known[: self._known.index(chosen) + 1]

    async def _connect(self, address: str, most: int) -> Egress:
        for egress in self._egresses:
            if (egress.address, egress.most) == (address, most):
                return egress
        close = AsyncExitStack()
        client = await close.enter_async_context(EgressClient(address, most))
        egress = Egress(address, most, client, close)
        self._egresses.append(egress)
        return egress

    async def tidy(self) -> None:
        """Forget configurations that no exchange can begin with any more, and close what the last one has left."""
        now = asyncio.get_running_loop().time()
        if self._caught_up is not None and now - self._caught_up > self.skew:
            self._known = self._known[:1]
        if self._unfit is not None:
            await self._make_do(self._unfit)
            self._unfit = None
        in_use = [version.egress for version in self._known]
        for egress in [each for each in self._egresses if each not in in_use and not each.users]:
            self._egresses.remove(egress)
            await egress.close.aclose()

    async def _make_do(self, routed: Reach) -> None:
        """Have the newest configuration also without the decisions that Envoy's routes cannot carry out."""
        newest = self.newest
        config = without_unknown(newest.runtime.config, routed)
        runtime = await asyncio.to_thread(build, config, newest.egress.client, self.process)
        if newest is self.newest:
            reduced = Version(newest.generation, runtime, newest.egress, newest.reach & routed)
            self._known.append(reduced)
            _log.warning("config.reduced", generation=newest.generation, envoy=self.envoy)

    async def close(self) -> None:
        """Close every connection."""
        while self._egresses:
            await self._egresses.pop().close.aclose()


def without_unknown(config: Config, routed: Reach) -> Config:
    """A configuration without decisions that name models which these routes do not lead to.

    A recipe of which no unconditional decision would be left stays as it is.
    """
    called = config.upstreams()
    known = {each.name for each in called if fingerprint(each.name, each.place) in routed}
    recipes = {}
    for name, recipe in config.recipes.items():
        kept = tuple(
            decision
            for decision in recipe.decisions
            if all(model in known for _, model in decision.members())
            and (decision.verifier is None or decision.verifier.name in known)
        )
        ends = bool(kept) and kept[-1].always
        recipes[name] = recipe.model_copy(update={"decisions": kept}) if ends else recipe
    return config.model_copy(update={"recipes": recipes})


@asynccontextmanager
async def at_work(
    config: Config, states: States | None = None, tracer: Tracer | None = None
) -> AsyncIterator[Versions]:
    """A process's first configuration, and room for those to come."""
    versions = Versions(Process.of(config, states, tracer))
    try:
        await versions.add(config, generation(config))
        yield versions
    finally:
        await versions.close()
