"""From a request to the decision that answers for it: readings, what they add up to, and the first rule that holds."""

import asyncio
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Self

from extproc.decisions.namespace import Namespace
from extproc.decisions.projections import (
    Partition,
    PartitionConfig,
    Projected,
    ProjectionConfig,
    Projections,
    Readings,
    Score,
)
from extproc.decisions.recipe import Decision, Recipe
from extproc.decisions.rules import Truths, holds, names
from extproc.signals import Egress, Subject
from extproc.signals.read import Guarded, Signals, read_signals
from looper.algorithms import named_bands


@dataclass(frozen=True, slots=True)
class Decided:
    """The decision for a request, and what led to it. `shadows` would have answered, but only watch."""

    recipe: str
    decision: Decision
    shadows: tuple[Decision, ...]
    readings: Readings
    projected: Projected

    @property
    def facts(self) -> Mapping[str, str | int]:
        """What Envoy's metadata and the log are told: the decision, and what the projections found."""
        facts: dict[str, str | int] = {
            "decision": self.decision.name,
            "recipe": self.recipe,
            "algorithm": self.decision.label,
        }
        for name, level in self.projected.levels.items():
            facts[f"{_BAND}.{name}"] = level.band or "unknown"
        for name, shape in self.projected.shapes.items():
            facts[f"{_SHAPE}.{name}"] = shape.winner
        for decision in self.shadows:
            facts[f"{SHADOW}.{decision.name}"] = 1
        return facts

    def of(self, decision: Decision) -> Self:
        """The same for another decision, whatever its rule says."""
        return replace(self, decision=decision)

    @property
    def bands(self) -> Mapping[str, str]:
        """What each projection made of the request, by name: a score its band, a partition its winner."""
        levels = {name: level.band for name, level in self.projected.levels.items() if level.band}
        return {name: shape.winner for name, shape in self.projected.shapes.items()} | levels


_BAND, _SHAPE, SHADOW = "band", "shape", "shadow"
"""What keys of facts begin with, before the name of a score, a partition, or a decision on trial."""


def told_as(projection: Partition | Score) -> str:
    """The key of facts under which stands what a projection found."""
    match projection:
        case Partition():
            return f"{_SHAPE}.{projection.name}"
        case Score():
            return f"{_BAND}.{projection.name}"


def told_by(name: str, projection: ProjectionConfig) -> str:
    """The same, of a projection as it is written."""
    return f"{_SHAPE if isinstance(projection, PartitionConfig) else _BAND}.{name}"


@dataclass(frozen=True, slots=True)
class Awaited:
    """The remote signals that a decision hangs on. `by_projection`: a projection may say something without them."""

    signals: frozenset[str]
    by_projection: bool

    @classmethod
    def by(cls, decision: Decision, recipe: Recipe, remote: frozenset[str]) -> "Awaited":
        used = [name for _, name in names(decision.when)] if decision.when is not None else []
        projected = [name for name in used if name.partition(".")[0] in recipe.projections]
        namespace = Namespace(recipe.signals, recipe.projections)
        return cls(namespace.build(used)[1] & remote, bool(namespace.build(projected)[1] & remote))


class Policy:
    """A recipe, ready to be asked. Without an `egress`, signals that ask models have no reading."""

    def __init__(self, name: str, recipe: Recipe, egress: Egress | None = None) -> None:
        self.name = name
        self._egress = egress
        self._patience = recipe.signals_deadline.total_seconds()
        self.decisions = reachable(recipe)
        self.projections, needed = needs(recipe)
        self.signals = Signals.build(
            {name: config for name, config in recipe.signals.items() if name in needed},
            guarded=guarding(recipe),
        )
        remote = frozenset(question.name for question in self.signals.remote)
        self._awaited = tuple(Awaited.by(each, recipe, remote) for each in self.decisions)

    async def decide(self, subject: Subject) -> Decided:
        """The decision for a request: the first that fires. There always is one."""
        return self.judge(subject, await self.read(subject))

    def reading(self, signals: Signals) -> Self:
        """The same policy with other ears: `signals` are read in place of its own, by the same names."""
        other = copy(self)
        other.signals = signals
        return other

    def alone(self) -> Self:
        """The same policy where nobody can be asked."""
        other = copy(self)
        other._egress = None
        return other

    async def read(self, subject: Subject) -> Readings:
        """What the signals say; only those that a decision needs are asked."""
        deadline = asyncio.get_running_loop().time() + self._patience
        return await read_signals(
            self.signals, subject, deadline, self._egress, wanted=self.undecided
        )

    def undecided(self, readings: Readings) -> frozenset[str]:
        """The remote signals that the decision still hangs on once the others have been read."""
        truths = self.projections.project(readings).truths
        wanted: frozenset[str] = frozenset()
        for decision, awaited in zip(self.decisions, self._awaited, strict=True):
            held = True if decision.when is None else holds(decision.when, truths)
            if awaited.signals and (held is None or awaited.by_projection):
                wanted |= awaited.signals
            elif held and not decision.shadow and decision.percent == 100:
                break
        return wanted

    def judge(self, subject: Subject, readings: Readings) -> Decided:
        """The decision that follows from readings. Pure: the same ones, the same decision."""
        projected = self.projections.project(readings)
        shadows: list[Decision] = []
        for decision in self.firing(projected.truths, subject):
            if not decision.shadow:
                return Decided(self.name, decision, tuple(shadows), readings, projected)
            shadows.append(decision)
        raise AssertionError("a recipe ends in a decision that always fires")

    def firing(self, truths: Truths, subject: Subject) -> Iterator[Decision]:
        """The decisions that fire, the first of all first."""
        return (each for each in self.decisions if fires(each, truths, subject))


def fires(decision: Decision, truths: Truths, subject: Subject) -> bool:
    """Whether a decision's rule holds, or is unknown and it acts then, for this part of all conversations."""
    held = True if decision.when is None else holds(decision.when, truths)
    if held is None:
        held = decision.on_unknown == "act"
    return held and (decision.percent == 100 or is_chosen(decision, subject))


def is_chosen(decision: Decision, subject: Subject) -> bool:
    """Whether a conversation is among the `percent` of a decision: the same in each of its turns, and everywhere."""
    return place(decision, subject.request.fingerprint) * 100 < decision.percent


def place(decision: Decision, fingerprint: bytes) -> float:
    """A conversation's place from 0 up to 1: another one for each decision, so that trials are independent."""
    digest = blake2b(decision.name.encode(), key=fingerprint, digest_size=7).digest()
    return int.from_bytes(digest) / (1 << 56)


def reachable(recipe: Recipe) -> tuple[Decision, ...]:
    """Higher priority first, then as declared; nothing behind an unconditional decision can be reached."""
    ranked = sorted(recipe.decisions, key=lambda decision: -decision.priority)
    end = next(at for at, decision in enumerate(ranked) if decision.always)
    return tuple(ranked[: end + 1])


def guarding(recipe: Recipe) -> Mapping[str, Guarded]:
    """The signals on which decisions hang that answer by themselves, to keep a request from models, and how."""
    guards = (each.when for each in recipe.decisions if each.respond is not None)
    used = [named for rule in guards if rule is not None for named in names(rule)]
    namespace = Namespace(recipe.signals, recipe.projections)
    projected = [name for _, name in used if name.partition(".")[0] in recipe.projections]
    wholly = namespace.build(projected)[1]
    denied: dict[str, set[str]] = {}
    for path, name in used:
        signal, _, label = name.partition(".")
        if path.count("not") % 2:
            denied.setdefault(signal, set()).add(label)
    return {
        signal: Guarded(frozenset(denied.get(signal, ())), signal in wholly)
        for signal in namespace.build(name for _, name in used)[1]
    }


def needs(recipe: Recipe) -> tuple[Projections, frozenset[str]]:
    """The projections that decisions within reach hang on, and the signals that all of it hangs on."""
    decisions = reachable(recipe)
    rules = (decision.when for decision in decisions if decision.when is not None)
    used = [name for rule in rules for _, name in names(rule)]
    used += [name for decision in decisions for _, name in decision.projections()]
    for decision in decisions:
        if decision.algorithm is not None:
            used += [name for _, name in named_bands(decision.algorithm)]
    return Namespace(recipe.signals, recipe.projections).build(used)
