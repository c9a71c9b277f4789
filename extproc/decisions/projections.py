"""From readings to what rules can name: a partition picks one of several shapes, a score adds up and has bands."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, FiniteFloat, model_validator

from extproc.decisions.rules import Rule, Truths, holds
from extproc.signals.base import Reading
from looper.settings import Probability, Setting, Tokens

Readings = Mapping[str, Reading]

Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
"""A name that rules can put a dot behind."""


def _named_for_their_signals(members: object) -> object:
    if not isinstance(members, list):
        return members
    if any(not isinstance(name, str) for name in members):
        raise ValueError("a list of members names signals; write `member: rule` for anything else")
    if len(set(members)) < len(members):
        raise ValueError("a member is named twice")
    return {name: name for name in members}


Members = Annotated[
    dict[Key, Rule],
    BeforeValidator(
        _named_for_their_signals, json_schema_input_type=dict[Key, Rule] | tuple[str, ...]
    ),
    Field(min_length=1),
]
"""What each member of a partition hangs on; in a list, the signal that it is named for."""


class PartitionConfig(Setting):
    """`task: {type: partition, members: [code, mcq], default: chat}`: exactly one of them is the request's."""

    type: Literal["partition"]
    members: Members = Field(description="signals, or rules by the name of the member")
    default: Key = Field(description="what the request is if it is none of them, or nobody knows")
    semantics: Literal["priority", "softmax"] = Field(
        default="priority",
        description="priority: the first member that holds; softmax: the one of the greatest share",
    )
    temperature: FiniteFloat = Field(
        default=1.0, gt=0, description="of softmax: the lower, the more the best score takes"
    )
    at_least: Probability = Field(
        default=0.0, description="the share that a member needs to win by softmax"
    )

    @model_validator(mode="after")
    def _softmax_settings(self) -> Self:
        tuned = self.model_fields_set & {"temperature", "at_least"}
        if tuned and self.semantics != "softmax":
            raise ValueError(f"`{min(tuned)}` needs `semantics: softmax`")
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """What a request may be."""
        return tuple(dict.fromkeys((*self.members, self.default)))


def _plain_weight(value: object) -> object:
    return {"weight": value} if isinstance(value, int | float) else value


class Weight(Setting):
    """`0.5`, or `{weight: 0.5, of: value, per: 16k}`."""

    weight: FiniteFloat = Field(ge=-1000, le=1000)
    of: Literal["match", "score", "value"] = Field(
        default="match", description="what of the reading counts"
    )
    per: FiniteFloat | Tokens | None = Field(
        default=None, description="the value that counts in full; what is greater counts no more"
    )

    @model_validator(mode="after")
    def _values_have_a_measure(self) -> Self:
        if (self.of == "value") != (self.per is not None):
            raise ValueError("`of: value` goes with `per`, the value that counts in full")
        if self.per is not None and self.per <= 0:
            raise ValueError("`per` is greater than 0")
        return self


def _leave_no_gap(bands: tuple[dict[str, float], ...]) -> tuple[dict[str, float], ...]:
    if any(len(band) != 1 for band in bands):
        raise ValueError("a band is one name and its upper bound, such as `easy: 0.35`")
    named = [(name, bound) for band in bands for name, bound in band.items()]
    if len({name for name, _ in named}) < len(named):
        raise ValueError("a band is named twice")
    for (lower, low), (upper, high) in pairwise(named):
        if low >= high:
            raise ValueError(f"{upper!r} ends at {high:g}, and must end above {lower!r} ({low:g})")
    if named[-1][1] != 1:
        raise ValueError(f"the last band, {named[-1][0]!r}, must end at 1: scores go up to there")
    return bands


Bound = Annotated[float, Field(gt=0, le=1)]
Bands = Annotated[tuple[dict[Key, Bound], ...], Field(min_length=1), AfterValidator(_leave_no_gap)]


class ScoreConfig(Setting):
    """`difficulty: {type: score, weights: {long: 0.6, code: 0.4}, bands: [{easy: 0.5}, {hard: 1}]}`"""

    type: Literal["score"]
    weights: dict[
        str,
        Annotated[Weight, BeforeValidator(_plain_weight, json_schema_input_type=float | Weight)],
    ] = Field(min_length=1, description="what is added up; a sum below 0 is 0, above 1 it is 1")
    bands: Bands = Field(
        description="in order, each with the bound that it stays below; the last ends at 1"
    )
    missing: Literal["unknown", 0] = Field(
        default="unknown", description="what the score is when part of it is: unknown, or without"
    )

    @property
    def bounds(self) -> tuple[tuple[str, float], ...]:
        return tuple((name, bound) for band in self.bands for name, bound in band.items())

    @property
    def most(self) -> float:
        """What the score can come to: no part counts more than its weight."""
        return min(1.0, math.fsum(max(0.0, each.weight) for each in self.weights.values()))

    def least_of(self, band: str) -> float:
        """Where a band begins; 0 for a name that is none."""
        begins = 0.0
        for name, bound in self.bounds:
            if name == band:
                return begins
            begins = bound
        return 0.0


ProjectionConfig = Annotated[PartitionConfig | ScoreConfig, Field(discriminator="type")]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a partition found. `unsure`: the default, for want of a reading. Shares are softmax's."""

    winner: str
    unsure: bool = False
    shares: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Level:
    """What a score came to, if it is known, and what each part added to it."""

    value: float | None
    band: str | None
    contributions: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Projected:
    """What is known of a request: all that rules can name, and how it came to be."""

    truths: Truths
    shapes: Mapping[str, Shape]
    levels: Mapping[str, Level]


NOTHING = Projected({}, {}, {})


class Facts:
    """What is known of one request while projections are made, each from what the ones before it added."""

    def __init__(self, readings: Readings) -> None:
        self.readings = readings
        self.truths: dict[str, bool | None] = {}
        self.shapes: dict[str, Shape] = {}
        self.levels: dict[str, Level] = {}


Part = Callable[[Facts], float | None]
"""What one part of a sum comes to, from 0 to 1; None if it is unknown."""


@dataclass(frozen=True, slots=True)
class Partition:
    """Picks one of several shapes."""

    name: str
    config: PartitionConfig
    scores: Sequence[tuple[str, Part]] = field(default=())

    def add_to(self, facts: Facts) -> None:
        held = {member: holds(rule, facts.truths) for member, rule in self.config.members.items()}
        by_share = self.config.semantics == "softmax"
        shape = self._by_share(held, facts) if by_share else self._first(held)
        if shape.unsure:
            # Missing is not false: none of those that may have won is ruled out.
            truths = {member: False if value is False else None for member, value in held.items()}
        else:
            truths = dict.fromkeys(held, False)
        truths[shape.winner] = True
        facts.shapes[self.name] = shape
        facts.truths |= {f"{self.name}.{label}": value for label, value in truths.items()}
        facts.truths.setdefault(f"{self.name}.{self.config.default}", False)

    def _first(self, held: Truths) -> Shape:
        for member, value in held.items():
            if value is None:
                return Shape(self.config.default, unsure=True)
            if value:
                return Shape(member)
        return Shape(self.config.default)

    def _by_share(self, held: Truths, facts: Facts) -> Shape:
        scores = {member: score(facts) for member, score in self.scores}
        if None in scores.values():
            return Shape(self.config.default, unsure=True)
        shares = softmax(
            {name: score or 0.0 for name, score in scores.items()}, self.config.temperature
        )
        able = [
            name for name, share in shares.items() if held[name] and share >= self.config.at_least
        ]
        return Shape(max(able, key=shares.__getitem__, default=self.config.default), shares=shares)


def softmax(scores: Mapping[str, float], temperature: float) -> Mapping[str, float]:
    """Shares that add up to 1, the greater the score the greater."""
    top = max(scores.values())
    powers = {name: math.exp((score - top) / temperature) for name, score in scores.items()}
    total = math.fsum(powers.values())
    return {name: power / total for name, power in powers.items()}


_DIGITS = 9
"""Of a sum, so that 0.7 + 0.1 reaches a bound of 0.8."""


@dataclass(frozen=True, slots=True)
class Score:
    """Adds up weighted parts, and finds the band that the sum falls into."""

    name: str
    config: ScoreConfig
    parts: Sequence[tuple[str, float, Part]]
    bounds: Sequence[tuple[str, float]]
    truths: Sequence[tuple[str, str]]

    def add_to(self, facts: Facts) -> None:
        contributions = {name: _weighed(part(facts), weight) for name, weight, part in self.parts}
        level = self._level(contributions)
        facts.levels[self.name] = level
        for band, name in self.truths:
            facts.truths[name] = None if level.band is None else band == level.band

    def _level(self, contributions: Mapping[str, float | None]) -> Level:
        known = [each for each in contributions.values() if each is not None]
        if len(known) < len(contributions) and self.config.missing == "unknown":
            return Level(None, None, contributions)
        value = min(1.0, max(0.0, round(math.fsum(known), _DIGITS)))
        return Level(value, band_of(value, self.bounds), contributions)


def _weighed(value: float | None, weight: float) -> float | None:
    return None if value is None else weight * value


def band_of(value: float, bounds: Sequence[tuple[str, float]]) -> str:
    """The first band whose bound is above `value`; at the very end, the last."""
    return next((name for name, bound in bounds if value < bound), bounds[-1][0])


class Projections:
    """The projections that are needed for certain names, ready to be made, each behind those that it hangs on."""

    def __init__(
        self,
        signals: Sequence[str],
        labels: Sequence[tuple[str, str]],
        steps: Sequence[Partition | Score],
    ) -> None:
        self._signals = signals
        self._labels = [(f"{signal}.{label}", signal, label) for signal, label in labels]
        self.steps = steps

    def project(self, readings: Readings) -> Projected:
        """Pure: the same readings, the same facts."""
        facts = Facts(readings)
        for name in self._signals:
            reading = readings.get(name)
            facts.truths[name] = _found(reading, reading is not None and reading.match)
        for name, signal, label in self._labels:
            reading = readings.get(signal)
            facts.truths[name] = _found(reading, reading is not None and has_label(reading, label))
        for step in self.steps:
            step.add_to(facts)
        return Projected(facts.truths, facts.shapes, facts.levels)


def _found(reading: Reading | None, is_found: bool) -> bool | None:
    """Unknown without a reading, and where it was not found in the part of a text that was read for a guard."""
    if is_found:
        return True
    return None if reading is None or reading.partial else False


def has_label(reading: Reading, label: str) -> bool:
    """Whether a reading says more for a label than against it."""
    return reading.labels.get(label, 0.0) >= 0.5
