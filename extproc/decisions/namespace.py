"""The names that a recipe's rules may use: `signal`, `signal.label`, `partition.member` and `score.band`."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from extproc.decisions.projections import (
    Facts,
    Part,
    Partition,
    PartitionConfig,
    ProjectionConfig,
    Projections,
    Score,
    ScoreConfig,
    Weight,
)
from extproc.decisions.rules import names
from extproc.errors import unknown
from extproc.signals import SignalConfig

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Namespace:
    """The signals and projections of a recipe, by name."""

    signals: Mapping[str, SignalConfig]
    projections: Mapping[str, ProjectionConfig]

    def problems(self) -> Iterator[tuple[Path, str]]:
        """Everything that is wrong between signals and projections, each with its path in the recipe."""
        clashes = [name for name in self.projections if name in self.signals]
        for name in clashes:
            yield ("projections", name), f"{name!r} is also the name of a signal"
        for name, config in self.projections.items():
            for path, text in self._problems_of(config):
                yield ("projections", name, *path), text
        try:
            self._order([] if clashes else self.projections)
        except CycleError as error:
            cycle = error.args[1]
            text = f"hangs on itself: {' → '.join(reversed(cycle))}"
            yield ("projections", cycle[0]), text

    def _problems_of(self, config: ProjectionConfig) -> Iterator[tuple[Path, str]]:
        match config:
            case PartitionConfig():
                yield from self._problems_of_members(config)
            case ScoreConfig():
                for name, weight in config.weights.items():
                    if problem := self._problem_of_weight(name, weight):
                        yield ("weights", name), problem

    def _problems_of_members(self, config: PartitionConfig) -> Iterator[tuple[Path, str]]:
        for member, rule in config.members.items():
            for below, name in names(rule):
                if problem := self.problem(name):
                    yield ("members", member, *below), problem
            if config.semantics == "softmax" and not self._has_score(rule):
                yield ("members", member), "softmax compares scores: name a signal, or a label"

    def problem(self, name: str) -> str | None:
        """What is wrong with `name` in a rule."""
        if name in self.known():
            return None
        head, dot, _ = name.partition(".")
        if head in self.projections and not dot:
            example = f"{head}.{_labels(self.projections[head])[0]}"
            return f"{head!r} is a projection: name what it finds, such as {example!r}"
        if dot and head in self.signals and self.signals[head].label_names() is None:
            return None
        kind = "signal" if not dot else "name"
        return unknown(kind, name, self.known())

    def known(self) -> list[str]:
        """Every name that a rule may use, as far as it can be told without a request."""
        known = list(self.signals)
        known += [
            f"{name}.{label}"
            for name, config in self.signals.items()
            for label in config.label_names() or ()
        ]
        return known + [
            f"{name}.{label}"
            for name, config in self.projections.items()
            for label in _labels(config)
        ]

    def _problem_of_weight(self, name: str, weight: Weight) -> str | None:
        if self._is_score(name):
            return "a score counts as it is: leave out `of`" if weight.of != "match" else None
        if problem := self.problem(name):
            return problem
        if weight.of != "match" and name.partition(".")[0] not in self.signals:
            return f"only signals have a {weight.of}"
        if weight.of == "value" and "." in name:
            return "a label has a score, and no value"
        return None

    def _is_score(self, name: str) -> bool:
        return isinstance(self.projections.get(name), ScoreConfig)

    def _has_score(self, rule: object) -> bool:
        return isinstance(rule, str) and rule.partition(".")[0] in self.signals

    # Ready to work...

    def build(self, wanted: Iterable[str]) -> tuple[Projections, frozenset[str]]:
        """The projections that `wanted` names hang on, and the signals that all of it hangs on."""
        used = set(wanted)
        order = self._order({name.partition(".")[0] for name in used})
        for name in order:
            used.update(name for _, name in _uses(self.projections[name]))
        signals = [
            name for name in self.signals if name in {each.partition(".")[0] for each in used}
        ]
        labels = [
            (head, label)
            for head, dot, label in (name.partition(".") for name in sorted(used))
            if dot and head in self.signals
        ]
        steps = [self._step(name, self.projections[name]) for name in order]
        return Projections(signals, labels, steps), frozenset(signals)

    def _order(self, wanted: Iterable[str]) -> list[str]:
        """The projections among `wanted`, and what they hang on, each behind those that it hangs on."""
        sorter: TopologicalSorter[str] = TopologicalSorter()
        waiting, seen = [name for name in self.projections if name in set(wanted)], set[str]()
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            below = [head for head, _ in _uses(self.projections[name]) if head in self.projections]
            sorter.add(name, *below)
            waiting += below
        return list(sorter.static_order())

    def _step(self, name: str, config: ProjectionConfig) -> Partition | Score:
        match config:
            case PartitionConfig():
                by_score = config.members.items() if config.semantics == "softmax" else ()
                scored = [
                    (member, self._part(str(rule), Weight(weight=1, of="score")))
                    for member, rule in by_score
                ]
                return Partition(name, config, scored)
            case ScoreConfig():
                parts = [
                    (part, weight.weight, self._part(part, weight))
                    for part, weight in config.weights.items()
                ]
                truths = [(band, f"{name}.{band}") for band, _ in config.bounds]
                return Score(name, config, parts, config.bounds, truths)

    def _part(self, name: str, weight: Weight) -> Part:
        if self._is_score(name):
            return _level(name)
        signal, dot, label = name.partition(".")
        match weight.of:
            case "match":
                return _truth(name)
            case "score":
                return _label(signal, label) if dot else _score(signal)
            case "value":
                return _value(signal, float(weight.per or 1))


def _labels(config: ProjectionConfig) -> tuple[str, ...]:
    match config:
        case PartitionConfig():
            return config.labels
        case ScoreConfig():
            return tuple(name for name, _ in config.bounds)


def _uses(config: ProjectionConfig) -> Iterator[tuple[str, str]]:
    """The names that a projection hangs on, each behind the signal or projection that it belongs to."""
    match config:
        case PartitionConfig():
            used = [name for rule in config.members.values() for _, name in names(rule)]
        case ScoreConfig():
            used = list(config.weights)
    for name in used:
        yield name.partition(".")[0], name


# What a part of a sum can be, found out once and not for each request.


def _level(name: str) -> Part:
    def part(facts: Facts) -> float | None:
        return facts.levels[name].value

    return part


def _truth(name: str) -> Part:
    def part(facts: Facts) -> float | None:
        truth = facts.truths[name]
        return None if truth is None else float(truth)

    return part


def _score(signal: str) -> Part:
    def part(facts: Facts) -> float | None:
        reading = facts.readings.get(signal)
        return None if reading is None else reading.score

    return part


def _label(signal: str, label: str) -> Part:
    def part(facts: Facts) -> float | None:
        reading = facts.readings.get(signal)
        return None if reading is None else reading.labels.get(label, 0.0)

    return part


def _value(signal: str, per: float) -> Part:
    def part(facts: Facts) -> float | None:
        reading = facts.readings.get(signal)
        if reading is None or reading.value is None:
            return None
        return min(1.0, max(0.0, reading.value / per))

    return part
