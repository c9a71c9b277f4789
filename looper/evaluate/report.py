"""What came of an evaluation: accuracy with its uncertainty, the difference to the best member, cost and calls."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles
from typing import Any

_RESAMPLES = 1000
_TAIL = 0.025


@dataclass(frozen=True, slots=True)
class Graded:
    """One question: how the team answered it, and which members would have been right by themselves."""

    id: str
    decision: str
    algorithm: str
    outcome: str
    right: bool
    calls: int
    microusd: float
    seconds: float
    members: Mapping[str, bool]
    alone: Mapping[str, float]
    """What each member's own answer costs, in micro-USD."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % interval, by bootstrap over the questions."""

    mean: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return {"mean": round(self.mean, 6), "low": round(self.low, 6), "high": round(self.high, 6)}


def bootstrap(values: Sequence[float], seed: int = 0) -> Estimate:
    """The mean of `values` and the 2.5th and 97.5th percentile of the means of resamples.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), the percentile interval.
    """
    chance = random.Random(seed)
    count = len(values)
    means = sorted(fmean(chance.choices(values, k=count)) for _ in range(_RESAMPLES))
    at = int(_RESAMPLES * _TAIL)
    return Estimate(fmean(values), means[at], means[-1 - at])


@dataclass(frozen=True, slots=True)
class Report:
    """The whole of it. The best member is the best on these questions, which flatters it a little."""

    questions: Sequence[Graded]
    skipped: int = 0

    def accuracy(self) -> Estimate:
        return bootstrap([float(each.right) for each in self.questions])

    def members(self) -> dict[str, float]:
        """How often each member is right by itself."""
        names = dict.fromkeys(name for each in self.questions for name in each.members)
        return {
            name: fmean(float(each.members.get(name, False)) for each in self.questions)
            for name in names
        }

    def best_member(self) -> str | None:
        rated = self.members()
        return max(rated, key=lambda name: rated[name], default=None)

    def difference(self, member: str) -> Estimate:
        """By how much the team is right more often than a member, question by question."""
        return bootstrap(
            [each.right - float(each.members.get(member, False)) for each in self.questions]
        )

    def cost(self) -> float:
        """Micro-USD for each question."""
        return fmean(each.microusd for each in self.questions)

    def cost_of(self, member: str) -> float:
        """Micro-USD for each question of a member alone."""
        return fmean(each.alone.get(member, 0.0) for each in self.questions)

    def calls(self) -> float:
        return fmean(each.calls for each in self.questions)

    def seconds(self) -> tuple[float, float]:
        """The median and the 95th percentile."""
        times = [each.seconds for each in self.questions]
        if len(times) < 2:
            return times[0], times[0]
        cuts = quantiles(times, n=20, method="inclusive")
        return cuts[9], cuts[18]

    def by(self, key: Callable[[Graded], str]) -> dict[str, tuple[int, float]]:
        """How many questions there are of each kind, and how many of them were right."""
        counts = Counter(map(key, self.questions))
        right = Counter(key(each) for each in self.questions if each.right)
        return {name: (count, right[name] / count) for name, count in counts.most_common()}

    def to_dict(self) -> dict[str, Any]:
        median, late = self.seconds()
        best = self.best_member()
        return {
            "questions": len(self.questions),
            "skipped": self.skipped,
            "accuracy": self.accuracy().to_dict(),
            "best_member": best,
            "members": {
                name: {"accuracy": round(share, 6), "microusd": round(self.cost_of(name), 3)}
                for name, share in self.members().items()
            },
            "difference": None if best is None else self.difference(best).to_dict(),
            "microusd_per_question": round(self.cost(), 3),
            "calls_per_question": round(self.calls(), 4),
            "seconds": {"p50": round(median, 4), "p95": round(late, 4)},
            "decisions": _table(self.by(lambda each: each.decision)),
            "outcomes": _table(self.by(lambda each: each.outcome)),
        }


def _table(rows: Mapping[str, tuple[int, float]]) -> dict[str, dict[str, float]]:
    return {
        name: {"questions": count, "accuracy": round(share, 6)}
        for name, (count, share) in rows.items()
    }
