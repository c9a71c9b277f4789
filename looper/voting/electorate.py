"""Who votes, and with what weight: from ratings, where nothing was measured."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from looper.voting.ballots import Features
from looper.voting.calibration import Calibration

PEER = 0.65
"""A member votes beside the best only if the best errs at least this many times as often as it does."""

_LEAST_WEIGHT = 0.01
_OPTIONS = 4
_LEAST_RATING = 0.001
_NO_RATING = 0.5
_HEEDED = 3.0
"""Logits, or standard deviations, beyond which a feature counts no more."""


@dataclass(frozen=True, slots=True)
class Voter:
    """What a member's word counts for.

    A member with `votes` off is no peer of the best: it decides only while every voter is silent, and its agreement
    counts in how sure the verdict is. `sureness` and `length` are what a ballot's features count for.
    """

    weight: float
    votes: bool = True
    rating: float = 0.0
    sureness: float = 0.0
    length: float = 0.0

    def says(self, features: Features) -> float:
        """The weight of a ballot with these features."""
        return (
            self.weight
            + self.sureness * heeded(features.sure)
            + self.length * heeded(features.length)
        )

    def most(self) -> float:
        """How much a ballot yet to come can change the distance between two answers."""
        reach = (abs(self.sureness) + abs(self.length)) * _HEEDED
        return max(self.weight + reach, reach - self.weight)


def heeded(feature: float | None) -> float:
    """A feature within what counts of it; unknown is as usual."""
    return max(-_HEEDED, min(_HEEDED, feature or 0.0))


UNKNOWN_VOTER = Voter(_LEAST_WEIGHT, votes=False)
"""A member of which nothing is known, such as a substitute: it fills silence."""


@dataclass(frozen=True)
class Electorate:
    """A team's voters, in declared order, and how likely it is that none of them says what is right."""

    voters: Mapping[str, Voter]
    none_of_these: float
    calibration: Calibration | None = None

    def __getitem__(self, member: str) -> Voter:
        return self.voters.get(member, UNKNOWN_VOTER)

    def rank(self, member: str) -> tuple[float, int]:
        """Sorts members from the best to the worst: by rating, then in declared order."""
        return -self[member].rating, self._declared.get(member, len(self.voters))

    @property
    def steady(self) -> bool:
        """Whether a member's word always counts for the same."""
        return not any(voter.sureness or voter.length for voter in self.voters.values())

    def rating(self, member: str) -> float:
        """How often a member is right; of one that nothing is known of, as often as the worst known one."""
        if member in self.voters:
            return self.voters[member].rating
        return min((voter.rating for voter in self.voters.values()), default=_NO_RATING)

    @cached_property
    def _declared(self) -> dict[str, int]:
        return {name: at for at, name in enumerate(self.voters)}

    def confidence(self, posterior: float) -> float:
        """P(correct) of a leader with this posterior."""
        return posterior if self.calibration is None else self.calibration.probability(posterior)

    @property
    def dominant(self) -> str | None:
        """The one member that may vote, of several."""
        voting = [name for name, voter in self.voters.items() if voter.votes]
        return voting[0] if len(voting) == 1 and len(self.voters) > 1 else None


def rated(ratings: Mapping[str, float | None], options: int | None = None) -> Electorate:
    """Voters by how often each is right, in declared order; `options` is the number of possible answers, if known.

    A weight is the log-odds of being right rather than giving one certain wrong answer, moved half-way to the mean of
    those who vote: members err together, and differences between ratings are less certain than they look. An unknown
    rating is taken to be the lowest known one, or a half where none is known.
    """
    known = [rating for rating in ratings.values() if rating is not None]
    lowest = min(known, default=_NO_RATING)
    sure = {name: inside(lowest if rating is None else rating) for name, rating in ratings.items()}
    others = math.log(max(2, options or _OPTIONS) - 1)
    weights = {name: logit(rating) + others for name, rating in sure.items()}
    voting = peers(sure)
    mean = fmean(weights[name] for name in voting) if voting else 0.0
    voters = {
        name: Voter(
            max(_LEAST_WEIGHT, (weight + mean) / 2 if name in voting else weight),
            name in voting,
            sure[name],
        )
        for name, weight in weights.items()
    }
    return Electorate(voters, others)


def peers(ratings: Mapping[str, float]) -> frozenset[str]:
    """Those who may vote: the best, and those who do not err much more often than it does."""
    least = min((1 - rating for rating in ratings.values()), default=0.0)
    return frozenset(
        name for name, rating in ratings.items() if least >= PEER * (1 - rating) - 1e-12
    )


def logit(probability: float) -> float:
    return math.log(probability) - math.log1p(-probability)


def inside(rating: float) -> float:
    """A rating that leaves a doubt either way."""
    return max(_LEAST_RATING, min(1 - _LEAST_RATING, rating))
