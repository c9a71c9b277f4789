"""From a raw score to the probability of being right, and from recorded outcomes to a threshold that can be trusted."""

import math
from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Self

from pydantic import Field, model_validator

from looper.settings import Probability, Setting

ALWAYS_ESCALATE = math.inf
"""The threshold that no score reaches: there is too little data for any other."""

_DOUBT = 0.1
"""How often a bound on the error may be wrong itself."""


class Accepted(Setting):
    """Of recorded answers that scored at least `score`: how many there are, and how many of them are wrong."""

    score: float
    answers: Annotated[int, Field(ge=1)]
    wrong: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.wrong > self.answers:
            raise ValueError("more are wrong than there are")
        return self


class Calibration(Setting):
    """What a model's scores are worth: `{knots: [[0.5, 0.3], [0.9, 0.95]]}`, each a score and P(correct).

    Between two knots the line is straight, beyond them it is level.
    """

    knots: tuple[tuple[float, Probability], ...] = Field(min_length=1, max_length=256)
    accepted: tuple[Accepted, ...] = Field(
        default=(), max_length=256, description="what `max_accepted_error` is read off"
    )

    @model_validator(mode="after")
    def _rises(self) -> Self:
        for (score, right), (next_score, next_right) in pairwise(self.knots):
            if next_score <= score or next_right < right:
                raise ValueError(
                    "knots rise: each score is above the last one, and no probability below it"
                )
        return self

    def probability(self, score: float) -> float:
        """P(correct) of an answer with this score."""
        at = bisect_right(self.knots, score, key=lambda knot: knot[0])
        if at in (0, len(self.knots)):
            return self.knots[min(at, len(self.knots) - 1)][1]
        (low, low_right), (high, high_right) = self.knots[at - 1 : at + 1]
        return low_right + (high_right - low_right) * (score - low) / (high - low)


def threshold_for(accepted: Iterable[Accepted], most: float) -> float:
    """The lowest score from which on the share of wrong answers is, almost surely, at most `most`.

    Scores are tried from the highest down, as long as each passes, so that trying many of them is no way to find one
    that passes by luck. Those with too few answers to show anything are not tried.
    """
    threshold = ALWAYS_ESCALATE
    for row in sorted(accepted, key=lambda row: -row.score):
        if most_wrong(0, row.answers) > most:
            continue
        if most_wrong(row.wrong, row.answers) > most:
            break
        threshold = row.score
    return threshold


def most_wrong(wrong: int, answers: int, doubt: float = _DOUBT) -> float:
    """Clopper and Pearson's upper bound: the largest share of wrong answers that `wrong` of `answers` leaves likely."""
    if wrong >= answers:
        return 1.0
    low, high = wrong / answers, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if _at_most(wrong, answers, middle) > doubt:
            low = middle
        else:
            high = middle
    return high


def _at_most(wrong: int, answers: int, share: float) -> float:
    """The probability of `wrong` or fewer of `answers`, if each is wrong with probability `share`."""
    if share >= 1:
        return 0.0
    in_favour, against = math.log(share) if share else -math.inf, math.log1p(-share)
    total = 0.0
    for count in range(wrong + 1):
        ways = math.lgamma(answers + 1) - math.lgamma(count + 1) - math.lgamma(answers - count + 1)
        total += math.exp(ways + (count and count * in_favour) + (answers - count) * against)
    return total
