"""What one slice of load found, and the numbers that are kept of it."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

Numbers = dict[str, float]
Figures = dict[str, float | None]
"""None: what it is to be a ratio to is no more than noise."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds that each answered request took, over how long they were made, and how many failed."""

    latencies: Sequence[float]
    seconds: float
    errors: int = 0

    def numbers(self) -> Numbers:
        ordered = sorted(self.latencies)
        return {
            "requests": float(len(ordered)),
            "errors": float(self.errors),
            "rps": len(ordered) / self.seconds if self.seconds else 0.0,
            **{f"p{part}_ms": percentile(ordered, part) * 1000 for part in (50, 95, 99)},
        }


def percentile(ordered: Sequence[float], part: int) -> float:
    """The smallest value that `part` percent of the values do not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * part / 100) - 1)]


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several rounds, and the rounds farthest from it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


def ratio(ours: float, theirs: float) -> float | None:
    return ours / theirs if theirs > 0 else None
