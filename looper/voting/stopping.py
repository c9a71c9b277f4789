"""When enough has been said."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from looper.voting.ballots import Ballot, Same, V
from looper.voting.electorate import Electorate
from looper.voting.posterior import decide

_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Outstanding:
    """A ballot that may still come."""

    member: str
    share: float = 1.0


def settled(
    ballots: Sequence[Ballot[V]],
    outstanding: Iterable[Outstanding],
    electorate: Electorate,
    same: Same[V],
    *,
    transitive: bool,
) -> bool:
    """Whether the leader leads whatever the outstanding ballots say, all of them for the next group or for a new one.

    Where `same` is not transitive (numbers within a tolerance), an outstanding ballot may also join groups into one,
    so that the leader has to be ahead of all others together.
    """
    waiting = [(electorate[each.member], each.share) for each in outstanding]
    if not waiting:
        return True
    verdict = decide(ballots, electorate, same)
    if not verdict.groups:
        return False
    decided = any(electorate[ballot.member].votes for ballot in verdict.groups[0].group.ballots)
    if not decided and any(voter.votes for voter, _ in waiting):
        return False
    swing = math.fsum(
        voter.most() * share for voter, share in waiting if voter.votes or not decided
    )
    if transitive:
        return swing == 0 or verdict.margin > swing + _ROUNDING
    leader, *others = (each.score for each in verdict.groups if each.score > -math.inf)
    return leader - math.fsum(map(abs, others)) > swing + _ROUNDING


def majority_certainty(leader: int, runner_up: int) -> float:
    """The probability that the leader is what most samples would say, after so many said it and so many the next.

    It is P(p > 1/2) for p of Beta(leader + 1, runner_up + 1), in exact integers.
    """
    tosses = leader + runner_up + 1
    ways: int = sum(math.comb(tosses, heads) for heads in range(leader + 1))
    return ways / (1 << tosses)
