"""Who votes, and with what weight: from ratings, where nothing was measured."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from looper.voting.ballots import Features
from looper.voting.calibration import Calibration

_LEAST_WEIGHT = 0.01
_LEAST_RATING = 0.001
_NO_RATING = 0.5
HEEDED = 3.0
"""Logits, or standard deviations, beyond which a feature counts no more."""


@dataclass(frozen=True, slots=True)
class Voter:
    """What a member's word counts for.

    A member with `votes` off adds nothing to what better ones say: it decides only while every voter is silent, and its
    agreement counts in how sure the verdict is. `sureness` and `length` are what a ballot's features count for.
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
        reach = (abs(self.sureness) + abs(self.length)) * HEEDED
        return max(self.weight + reach, reach - self.weight)


def heeded(feature: float | None) -> float:
    """A feature within what counts of it; unknown is as usual."""
    return max(-HEEDED, min(HEEDED, feature or 0.0))


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
        """The one member, of several, whose word counts for more than that of all others together."""
        voting = {name: voter.weight for name, voter in self.voters.items() if voter.votes}
        if len(self.voters) < 2 or not voting:
            return None
        best = max(voting, key=voting.__getitem__)
        return best if 2 * voting[best] > math.fsum(voting.values()) else None


@dataclass(frozen=True, slots=True)
class Assumed:
    """What is taken to be so of members of which nothing but ratings is known."""

    common: float = 0.5
    """How much of what members are right and wrong about they have in common; below 1."""
    wrong: float = 8.0
    """Wrong answers to choose from, as it were."""


ASSUMED = Assumed()


def rated(ratings: Mapping[str, float | None], assumed: Assumed = ASSUMED) -> Electorate:
    """Voters by how often each is right, in declared order.

    What counts for one member is the log-odds of its being right rather than giving one certain wrong answer. Members
    err together, so that a team's word is worth less than the sum, and that of a member who is right less often than
    the others adds less than its odds: it is mostly right where they are, too. With as much `common` to any two, the
    weights that are best together are the odds without a part of the sum of all. Who comes to nothing by that does
    not vote, and counts elsewhere for what it would among equals. An unknown rating is taken to be the lowest known
    one, or a half where none is known.
    """
    known = [rating for rating in ratings.values() if rating is not None]
    lowest = min(known, default=_NO_RATING)
    sure = {name: inside(lowest if rating is None else rating) for name, rating in ratings.items()}
    others = math.log(assumed.wrong)
    odds = {name: max(_LEAST_WEIGHT, logit(rating) + others) for name, rating in sure.items()}
    voting = _beyond_the_others(odds, assumed.common)
    among_equals = 1 + (len(odds) - 1) * assumed.common
    voters = {
        name: Voter(voting.get(name, each / among_equals), name in voting, sure[name])
        for name, each in odds.items()
    }
    return Electorate(voters, others)


def _beyond_the_others(odds: Mapping[str, float], common: float) -> dict[str, float]:
    """The weights of those to whom something is left without what all have in common."""
    voting = dict(odds)
    while True:
        part = common / (1 + (len(voting) - 1) * common) * math.fsum(voting.values())
        left = {name: (each - part) / (1 - common) for name, each in voting.items() if each > part}
        if len(left) == len(voting):
            return left
        voting = {name: odds[name] for name in left}


def logit(probability: float) -> float:
    return math.log(probability) - math.log1p(-probability)


def inside(rating: float) -> float:
    """A rating that leaves a doubt either way."""
    return max(_LEAST_RATING, min(1 - _LEAST_RATING, rating))
