"""From a raw score to the probability of being right, and from recorded outcomes to a threshold that can be trusted."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise
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
    answers: Annotated[int, Field(ge=1, le=1_000_000)]
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


class HeldOut(Setting):
    """Of questions held out, in an order of their own: how sure a stage was, and whether it was right.

    Silence is 0. All stages of a chain have the same questions in the same order.
    """

    sure: tuple[Probability, ...] = Field(max_length=10_000)
    right: Annotated[str, Field(pattern="^[01]*$")]

    @model_validator(mode="after")
    def _same_questions(self) -> Self:
        if len(self.sure) != len(self.right):
            raise ValueError("`sure` and `right` are about different numbers of questions")
        return self


def thresholds_for(stages: Sequence[HeldOut], most: float) -> Iterator[float]:
    """For each stage in turn the lowest confidence from which on its answers may be accepted.

    What comes to a stage is what the stages before it did not accept, which is harder than the rest: so that is what
    its threshold is chosen on.
    """
    left: Iterable[int] = range(len(stages[0].sure)) if stages else ()
    for stage in stages:
        said = [(stage.sure[at], stage.right[at] == "1") for at in left if stage.sure[at]]
        threshold = threshold_for(accepted_from(said), most)
        yield threshold
        left = [at for at in left if stage.sure[at] < threshold]


_STEPS = 40
_STEP = 10


def accepted_from(said: Iterable[tuple[float, bool]]) -> list[Accepted]:
    """What would be accepted from some scores on, the highest first, and how much of that is wrong."""
    ranked = sorted(said, reverse=True)
    step = max(_STEP, len(ranked) // _STEPS)
    found: list[Accepted] = []
    answers = wrong = 0
    for score, equal in groupby(ranked, key=lambda each: each[0]):
        rights = [right for _, right in equal]
        answers += len(rights)
        wrong += rights.count(False)
        if answers - (found[-1].answers if found else 0) >= step or answers == len(ranked):
            found.append(Accepted(score=score, answers=answers, wrong=wrong))
    return found


def threshold_for(accepted: Iterable[Accepted], most: float) -> float:
    """The lowest score from which on the share of wrong answers is, almost surely, at most `most`.

    Scores are tried from the highest down, as long as each passes, so that trying many of them is no way to find one
    that passes by luck. The first one that is tried has a tenth of all answers, and enough to pass though one is wrong,
    if there are so many.
    """
    threshold = ALWAYS_ESCALATE
    for row in _worth_trying(sorted(accepted, key=lambda row: -row.score), most):
        if not allows(row.wrong, row.answers, most):
            break
        threshold = row.score
    return threshold


_TENTH = 10


def _worth_trying(rows: Sequence[Accepted], most: float) -> list[Accepted]:
    """The scores with answers enough to show anything. How many of them are right must make no difference here."""
    several = [
        each
        for each in rows
        if allows(1, each.answers, most) and each.answers * _TENTH >= rows[-1].answers
    ]
    return several or [each for each in rows if allows(0, each.answers, most)]


def allows(wrong: int, answers: int, most: float, doubt: float = _DOUBT) -> bool:
    """Whether `wrong` of `answers` leave no share of wrong answers above `most` likely, by Clopper and Pearson."""
    return wrong < answers and _at_most(wrong, answers, most) <= doubt


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
    odds, against = math.log(share) - math.log1p(-share) if share else -math.inf, math.log1p(-share)
    total, way = 0.0, answers * against
    for count in range(wrong + 1):
        total += math.exp(way)
        way += math.log((answers - count) / (count + 1)) + odds if count < answers else 0.0
    return total
