"""The table of cases."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Protocol

from tests.bench.front import BodyMode, Profile
from tests.bench.litellm_proxy import AgainstLiteLLM
from tests.bench.loops import FirstToken, Fusion, OpenRuns
from tests.bench.plan import CONNECTIONS, Plan
from tests.bench.results import Measured
from tests.bench.rig import Rig
from tests.bench.routed import SIZES, immediate, routed, signals, unknown_model
from tests.bench.start import Imports, Start

_MODES: tuple[BodyMode, ...] = ("full_duplex", "buffered")
_PROFILES: tuple[Profile, ...] = ("fast", "metered")
_MANY_MB = (1, 8)
"""Connections for the largest bodies: more of them only wait."""


class Case(Protocol):
    """Something to measure."""

    @property
    def name(self) -> str: ...

    @property
    def missing(self) -> str | None:
        """Why this version of the product, or this run, has nothing to measure."""
        ...

    async def measure(self, rig: Rig, plan: Plan) -> Measured: ...


@dataclass(frozen=True, slots=True)
class NotThere:
    """A case that waits for a part of the product."""

    name: str
    missing: str

    async def measure(self, rig: Rig, plan: Plan) -> Measured:
        return Measured(self.name, missing=self.missing)


def all_cases(plan: Plan) -> list[Case]:
    """In the order in which they are measured: memory before large bodies leave their mark on it."""
    return [
        Start(),
        Imports(),
        OpenRuns(),
        FirstToken(),
        *(Fusion(runs) for runs in plan.fusion_runs),
        signals(),
        *(make(count) for make in (immediate, unknown_model) for count in (1, 32)),
        *_routed(plan),
        AgainstLiteLLM(),
        NotThere("workers", "this version has no `--workers`"),
    ]


def _routed(plan: Plan) -> Iterator[Case]:
    for profile in _PROFILES:
        for mode in _MODES:
            for size in SIZES:
                for connections in _MANY_MB if size == "4MB" else CONNECTIONS:
                    yield routed(size, connections, mode, profile, peer=plan.peer is not None)


def chosen(cases: Sequence[Case], patterns: Sequence[str]) -> list[Case]:
    """The cases whose names match one of the patterns or begin with it; without patterns, all."""
    if not patterns:
        return list(cases)
    return [case for case in cases if any(_matches(case.name, each) for each in patterns)]


def _matches(name: str, pattern: str) -> bool:
    return fnmatch(name, pattern) or name == pattern or name.startswith(f"{pattern.rstrip('/')}/")
