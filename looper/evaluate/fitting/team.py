"""One team's weights: who votes, with what weight, and what the outcome is worth."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from looper.evaluate.fitting.features import Lengths, Sureness, calibrations, lengths, long
from looper.evaluate.fitting.logit import (
    Design,
    Fit,
    Flags,
    Floats,
    design,
    fit,
    posteriors,
    scaled,
    scores,
)
from looper.evaluate.outcomes import Question
from looper.voting import MemberWeights, Method, TeamWeights
from looper.voting.calibration import Calibration
from looper.voting.electorate import PEER, inside, logit, peers

FOLDS = 5
_PRIOR_ROWS = 60
"""Answers that a configured rating counts as."""

_FEW_ROWS = 10
"""Answers that the mean of all members counts as, for one that has no rating."""

_DIGITS = 4
_WRONG = 1.5
"""Wrong answers to choose from, as it were: less than there are, as members that err choose the same ones."""


@dataclass(frozen=True, slots=True)
class Team:
    """Whose answers are weighed, in declared order, what is known of them beforehand, and by which score."""

    members: tuple[str, ...]
    ratings: Mapping[str, float]
    categories: tuple[str, ...] = ()
    method: Method | None = None

    def best(self, rows: Sequence[Question]) -> str:
        """The member that is right most often."""
        return max(self.members, key=lambda name: sum(row.is_right(name) for row in rows))


def measured(rows: Sequence[Question], team: Team) -> dict[str, float]:
    """How often each member is right, the configured ratings counting as some answers."""
    right = {name: sum(row.is_right(name) for row in rows) for name in team.members}
    mean = sum(right.values()) / max(1, len(rows) * len(right))
    found = {}
    for name, count in right.items():
        known = name in team.ratings
        prior, weight = (team.ratings[name], _PRIOR_ROWS) if known else (mean, _FEW_ROWS)
        found[name] = inside((count + weight * prior) / (len(rows) + weight))
    return found


@dataclass(frozen=True, slots=True)
class Fitted:
    """A team's fit: how often each member is right, who votes, and what everyone's word counts for."""

    team: Team
    ratings: Mapping[str, float]
    sureness: Sureness
    lengths: Lengths
    votes: Flags
    weights: Fit

    def decides(self, rows: Sequence[Question]) -> tuple[Floats, Flags]:
        """Of each question: the posterior of the winning answer, and whether it is right. As `decide` does it."""
        data = _design(rows, self.team, self.sureness, self.lengths)
        voted: Flags = np.any(data.said, axis=1) & self.votes
        deciding = self.votes | ~np.any(voted, axis=1, keepdims=True)
        winner = scores(data.only(deciding), self.weights).argmax(axis=1)
        posterior = posteriors(data, self.weights)[np.arange(len(winner)), winner]
        return posterior, winner == data.right


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Of each question, decided by weights that were fitted to others: how sure the team was, and whether it is right.

    `best_right` is about the one member that was best on those others.
    """

    posterior: Floats
    right: Flags
    best_right: Flags

    @property
    def spoken(self) -> Flags:
        """Of which questions anybody has said something."""
        spoken: Flags = self.posterior > 0
        return spoken

    def only(self, rows: Flags) -> "HeldOut":
        return HeldOut(self.posterior[rows], self.right[rows], self.best_right[rows])


def held_out(rows: Sequence[Question], team: Team) -> HeldOut:
    """Every question decided once, by a fit to the folds that it is not in."""
    found = HeldOut(np.zeros(len(rows)), np.zeros(len(rows), bool), np.zeros(len(rows), bool))
    for fold in range(FOLDS):
        inside = np.arange(len(rows)) % FOLDS == fold
        others = [row for row, out in zip(rows, ~inside, strict=True) if out]
        these = [row for row, out in zip(rows, inside, strict=True) if out]
        found.posterior[inside], found.right[inside] = fit_team(others, team).decides(these)
        best = team.best(others)
        found.best_right[inside] = [row.is_right(best) for row in these]
    return found


def fit_team(rows: Sequence[Question], team: Team) -> Fitted:
    """Weights of those who vote, fitted together; then, with these as they are, of the others."""
    ratings = measured(rows, team)
    voting = voters_of(rows, ratings)
    votes = np.array([name in voting for name in team.members])
    sureness = Sureness(team.method, calibrations(rows, team.members), ratings)
    usual = lengths(rows, team.members)
    data = _design(rows, team, sureness, usual)
    prior = _prior(team, ratings, votes)
    voters = data.only(votes)
    best = max(range(len(votes)), key=lambda at: ratings[team.members[at]])
    weights = fit(voters, scaled(voters, prior, best), fixed=~votes)
    if not votes.all():
        others = _others(team, ratings, votes)
        start = replace(weights, weight=np.where(votes, weights.weight, others))
        weights = fit(data, start, fixed=votes)
    return Fitted(team, ratings, sureness, usual, votes, weights)


def voters_of(rows: Sequence[Question], ratings: Mapping[str, float]) -> frozenset[str]:
    """The peers of the best, and those who may be its peers as far as these rows tell: within a standard error."""
    best = max(ratings, key=ratings.__getitem__)
    found = set(peers(ratings))
    for name, rating in ratings.items():
        ratio = math.log((1 - ratings[best]) / (1 - rating))
        if ratio + _doubt(rows, (best, ratings[best]), (name, rating)) >= math.log(PEER):
            found.add(name)
    return frozenset(found)


def _doubt(rows: Sequence[Question], one: tuple[str, float], other: tuple[str, float]) -> float:
    """The standard error of the logarithm of the ratio of two members' errors, who answered the same questions.

    By the delta method its variance is apart / (wrong * wrong), where `apart` counts the questions that only one of
    them got right. One is added to these, as that there are none is no certainty.
    """
    apart = sum(row.is_right(one[0]) != row.is_right(other[0]) for row in rows)
    errors = (1 - one[1]) * (1 - other[1]) * len(rows) ** 2
    return math.sqrt((apart + 1) / errors)


def _design(rows: Sequence[Question], team: Team, sureness: Sureness, usual: Lengths) -> Design:
    sure = sureness.features(rows, team.members)
    return design(rows, team.members, team.categories, sure, long(rows, team.members, usual))


def _prior(team: Team, ratings: Mapping[str, float], votes: Flags) -> Fit:
    """The ratings' log-odds, and nothing for those who do not vote."""
    weight = np.where(votes, _odds(team, ratings), 0.0)
    return Fit.by_weight(weight, len(team.categories), math.log(_WRONG))


def _odds(team: Team, ratings: Mapping[str, float]) -> Floats:
    odds = [logit(ratings[name]) + math.log(_WRONG) for name in team.members]
    return np.maximum(odds, 0.01)


def _others(team: Team, ratings: Mapping[str, float], votes: Flags) -> Floats:
    """What those who do not vote are held to: their log-odds, shared out among them, as they err together."""
    return _odds(team, ratings) / math.sqrt(max(1, int((~votes).sum())))


def weights_of(
    fitted: Fitted, posterior: Calibration | None, accept_at: float | None = None
) -> TeamWeights:
    """A fit as the file has it."""
    members = {name: _member(fitted, at) for at, name in enumerate(fitted.team.members)}
    bias = round(fitted.weights.none_of_these, _DIGITS)
    return TeamWeights(
        members=members, none_of_these=bias, posterior=posterior, accept_at=accept_at
    )


def _member(fitted: Fitted, at: int) -> MemberWeights:
    weights, name = fitted.weights, fitted.team.members[at]
    terms = zip(fitted.team.categories, weights.by_category[:, at], strict=True)
    return MemberWeights(
        weight=round(float(weights.weight[at]), _DIGITS),
        votes=bool(fitted.votes[at]),
        rating=round(fitted.ratings[name], _DIGITS),
        by_category={name: value for name, term in terms if (value := round(float(term), _DIGITS))},
        sureness=round(float(weights.sureness[at]), _DIGITS),
        length=round(float(weights.length[at]), _DIGITS),
    )
