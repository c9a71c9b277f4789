"""Which answer is right, and with what probability: a conditional logit over the groups and "none of these"."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic

from looper.voting.ballots import Ballot, Group, Same, V, group
from looper.voting.electorate import Electorate

_DIGITS = 9
"""Beyond these two scores differ by how they were added up only."""


@dataclass(frozen=True)
class Scored(Generic[V]):
    """A group, its score among those who decide, and the probability that it is right by the word of everyone."""

    group: Group[V]
    score: float
    posterior: float


@dataclass(frozen=True)
class Verdict(Generic[V]):
    """The groups, the leader first. `none` is the probability that no group is right.

    Who decides are the voters; all members, if every voter that has spoken was silent. The probabilities count the
    word of everyone, so that a leader whom many contradict is one to be doubted.
    """

    groups: tuple[Scored[V], ...]
    none: float
    confidence: float
    """P(the leader is right): its posterior, calibrated where that was measured; 0 where there is no leader."""
    spokesman: str | None
    """The best-rated member of the leading group, of those who decide: whose words are published."""

    @property
    def leader(self) -> Group[V] | None:
        return self.groups[0].group if self.groups else None

    @property
    def unanimous(self) -> bool:
        """Whether there is one answer only."""
        return len(self.groups) == 1

    @property
    def margin(self) -> float:
        """By how much the leader is ahead of the next group, or of one that nobody is in yet."""
        scores = [each.score for each in self.groups]
        return scores[0] - max([0.0, *scores[1:]]) if scores else 0.0


def decide(ballots: Sequence[Ballot[V]], electorate: Electorate, same: Same[V]) -> Verdict[V]:
    """The verdict on what has been said so far. The order of the ballots changes nothing in it.

    Equal scores go to the group with the better-rated member, then to the one that is declared first.
    """
    ordered = sorted(
        ballots, key=lambda each: (electorate.rank(each.member), repr(each.value), each.share)
    )
    groups = group(ordered, same)
    deciding = _deciding(ordered, electorate)
    scores = [_score(each.ballots, electorate, deciding) for each in groups]
    everyone = [_score(each.ballots, electorate, None) for each in groups]
    *posteriors, none = _softmax([*everyone, electorate.none_of_these])
    scored = map(Scored, groups, scores, posteriors)
    best = {id(each): _best(each, electorate, deciding) for each in groups}
    ranked = sorted(
        scored,
        key=lambda each: (
            -each.score,
            electorate.rank(best[id(each.group)]),
            _first_word(each.group, best[id(each.group)]),
        ),
    )
    if not ranked:
        return Verdict((), none, 0.0, None)
    leader = ranked[0]
    confidence = electorate.confidence(leader.posterior)
    return Verdict(tuple(ranked), none, confidence, best[id(leader.group)])


def _deciding(ballots: Iterable[Ballot[V]], electorate: Electorate) -> frozenset[str] | None:
    """The members that have said something and vote; None, for everyone, if there is none."""
    said = (ballot.member for ballot in ballots if ballot.value is not None)
    return frozenset(member for member in said if electorate[member].votes) or None


def _score(
    ballots: Iterable[Ballot[V]], electorate: Electorate, deciding: frozenset[str] | None
) -> float:
    """The sum of weights; minus infinity for a group that nobody who decides is in."""
    said = [
        electorate[ballot.member].says(ballot.features) * ballot.share
        for ballot in ballots
        if deciding is None or ballot.member in deciding
    ]
    # An exact sum, so that it does not depend on the order.
    return round(math.fsum(said), _DIGITS) if said else -math.inf


def _softmax(scores: Sequence[float]) -> list[float]:
    top = max(scores)
    shares = [math.exp(score - top) for score in scores]
    total = math.fsum(shares)
    return [share / total for share in shares]


def _first_word(each: Group[V], member: str) -> str:
    """What tells two groups apart between which one member's samples are split: not who else is in them."""
    return min(repr(ballot.value) for ballot in each.ballots if ballot.member == member)


def _best(each: Group[V], electorate: Electorate, deciding: frozenset[str] | None) -> str:
    """The best-rated member of a group, of those who decide if there are any."""
    members = [member for member in each.members if deciding is None or member in deciding]
    return min(members or each.members, key=electorate.rank)
