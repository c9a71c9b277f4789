"""One team's weights, in each of the ways in which they can be found: who votes, and with what weight."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from looper.evaluate.fitting.features import (
    Lengths,
    Sureness,
    calibrations,
    lengths,
    log_tokens,
    long,
)
from looper.evaluate.fitting.logit import (
    RIDGES,
    Design,
    Fit,
    Flags,
    Floats,
    Indices,
    Ridges,
    design,
    fit,
    posteriors,
    scores,
)
from looper.evaluate.outcomes import Question
from looper.voting import Electorate, MemberWeights, Method, TeamWeights, rated
from looper.voting.calibration import Calibration
from looper.voting.electorate import ASSUMED, Assumed, inside

FOLDS = 5
_PRIOR_ROWS = 60
"""Answers that a configured rating counts as."""

_FEW_ROWS = 10
"""Answers that the mean of all members counts as, for one that has no rating."""

_DIGITS = 4
_SCORE_DIGITS = 9
"""Beyond these two scores differ by how they were added up only."""

Way = Literal["one member", "ratings", "fit", "fit of everybody"]
"""How a team's weights are found: the best member speaks, and the others fill its silence; everybody counts by how
often it was right; or weights are fitted, of those who vote by that or of everybody.
"""

WAYS: tuple[Way, ...] = ("one member", "ratings", "fit", "fit of everybody")


@dataclass(frozen=True, slots=True)
class Constants:
    """What is the same for every team: measured once, on many."""

    assumed: Assumed = ASSUMED
    ridges: Ridges = RIDGES


CONSTANTS = Constants()


@dataclass(frozen=True, slots=True)
class Team:
    """Whose answers are weighed, in declared order, what is known of them beforehand, and by which score."""

    members: tuple[str, ...]
    ratings: Mapping[str, float]
    categories: tuple[str, ...] = ()
    method: Method | None = None


@dataclass(frozen=True, slots=True)
class Sheet:
    """Questions as a team answered them. Features are none yet: what is usual is measured on some of them only."""

    team: Team
    rows: Sequence[Question]
    answers: Design
    lengths: Floats

    def at(self, questions: Indices) -> "Sheet":
        """Some of the questions."""
        rows = [self.rows[at] for at in questions]
        return Sheet(self.team, rows, self.answers.at(questions), self.lengths[questions])

    @property
    def best(self) -> int:
        """The member that is right most often."""
        return int(self.answers.speaks_right.sum(axis=0).argmax())


def sheet(rows: Sequence[Question], team: Team) -> Sheet:
    return Sheet(
        team, rows, design(rows, team.members, team.categories), log_tokens(rows, team.members)
    )


def measured(answered: Sheet) -> dict[str, float]:
    """How often each member is right, the configured ratings counting as some answers."""
    counts, rows = answered.answers.speaks_right.sum(axis=0), len(answered.rows)
    mean = float(counts.sum()) / max(1, rows * counts.size)
    known = answered.team.ratings
    found = {}
    for name, count in zip(answered.team.members, counts.tolist(), strict=True):
        prior, weight = (known[name], _PRIOR_ROWS) if name in known else (mean, _FEW_ROWS)
        found[name] = inside((count + weight * prior) / (rows + weight))
    return found


@dataclass(frozen=True, slots=True)
class Seen:
    """Questions that weights are fitted to, and what is measured of a team on them beforehand."""

    team: Team
    ratings: Mapping[str, float]
    best: int
    sureness: Sureness
    lengths: Lengths
    data: Design

    def of(self, answered: Sheet) -> Design:
        """Other questions, as these are."""
        return _with_features(answered, self.sureness, self.lengths)


def see(answered: Sheet) -> Seen:
    team, ratings = answered.team, measured(answered)
    sureness = Sureness(team.method, calibrations(answered.rows, team.members), ratings)
    usual = lengths(answered.lengths, team.members)
    data = _with_features(answered, sureness, usual)
    return Seen(team, ratings, answered.best, sureness, usual, data)


def _with_features(answered: Sheet, sureness: Sureness, usual: Lengths) -> Design:
    members = answered.team.members
    return replace(
        answered.answers,
        sure=sureness.features(answered.rows, members),
        long=long(answered.lengths, members, usual),
    )


@dataclass(frozen=True, slots=True)
class Fitted:
    """A team's weights: how often each member is right, who votes, and what everyone's word counts for."""

    seen: Seen
    votes: Flags
    weights: Fit

    def decides(self, data: Design) -> tuple[Floats, Flags]:
        """Of each question: the posterior of the winning answer, and whether it is right. As `decide` does it.

        Both are 0 where nobody says anything.
        """
        heard: Flags = np.any(data.said & self.votes, axis=1, keepdims=True)
        deciding = data.said & (self.votes | ~heard)
        total = scores(data.only(deciding), self.weights).round(_SCORE_DIGITS)
        rows = np.arange(len(total))
        # Equal scores go to the answer of the best-rated member, who stands first here.
        ranked = np.argsort(
            [-self.seen.ratings[name] for name in self.seen.team.members], kind="stable"
        )
        answers, deciding = data.answers[:, ranked], deciding[:, ranked]
        backed = np.where(deciding, total[rows[:, None], answers], -np.inf)
        spokesman = backed.argmax(axis=1)
        spoken: Flags = deciding[rows, spokesman]
        winner = np.where(spoken, answers[rows, spokesman], data.most)
        posterior = np.where(spoken, posteriors(data, self.weights)[rows, winner], 0.0)
        return posterior, spoken & data.speaks_right[rows, ranked[spokesman]]


def fit_team(seen: Seen, way: Way = "fit", constants: Constants = CONSTANTS) -> Fitted:
    """Weights of those who vote, fitted together; then, with these as they are, of the others.

    A fit starts from what ratings alone would say, and is held to it.
    """
    team, by_rating = seen.team, rated(seen.ratings, constants.assumed)
    votes = _votes(seen, by_rating, way)
    start = _start(by_rating, votes, team)
    if way == "ratings":
        return Fitted(seen, votes, start)
    voters = seen.data.only(votes)
    weights = fit(voters, start, fixed=~votes, ridges=constants.ridges)
    if not votes.all():
        weights = fit(seen.data, weights, fixed=votes, ridges=constants.ridges)
    return Fitted(seen, votes, weights)


def _votes(seen: Seen, by_rating: Electorate, way: Way) -> Flags:
    members = seen.team.members
    match way:
        case "one member":
            alone: Flags = np.arange(len(members)) == seen.best
            return alone
        case "fit of everybody":
            return np.ones(len(members), dtype=bool)
        case "ratings" | "fit":
            return np.array([by_rating[name].votes for name in members])


def _start(by_rating: Electorate, votes: Flags, team: Team) -> Fit:
    """What ratings say; nothing of those who vote here and would not by their rating."""
    voters = [by_rating[name] for name in team.members]
    adds = np.array([voter.votes for voter in voters]) | ~votes
    weight = np.where(adds, [voter.weight for voter in voters], 0.0)
    return Fit.by_weight(weight, len(team.categories), by_rating.none_of_these)


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


def held_out(
    answered: Sheet, ways: Sequence[Way] = WAYS, constants: Constants = CONSTANTS
) -> dict[Way, HeldOut]:
    """Every question decided once in each way, by a fit to the folds that it is not in."""
    count = len(answered.rows)
    none = np.zeros(count, bool)
    found = {way: HeldOut(np.zeros(count), none.copy(), none.copy()) for way in ways}
    for fold in range(FOLDS):
        inside = fold_of(count) == fold
        seen = see(answered.at(np.flatnonzero(~inside)))
        data = seen.of(answered.at(np.flatnonzero(inside)))
        for way, each in found.items():
            decided = fit_team(seen, way, constants).decides(data)
            each.posterior[inside], each.right[inside] = decided
            each.best_right[inside] = data.speaks_right[:, seen.best]
    return found


def fold_of(rows: int) -> Indices:
    """Which fold each question is in."""
    return np.arange(rows, dtype=np.intp) % FOLDS


def weights_of(
    fitted: Fitted, posterior: Calibration | None, accept_at: float | None = None
) -> TeamWeights:
    """A fit as the file has it."""
    members = {name: _member(fitted, at) for at, name in enumerate(fitted.seen.team.members)}
    bias = round(fitted.weights.none_of_these, _DIGITS)
    return TeamWeights(
        members=members, none_of_these=bias, posterior=posterior, accept_at=accept_at
    )


def _member(fitted: Fitted, at: int) -> MemberWeights:
    weights, team = fitted.weights, fitted.seen.team
    terms = zip(team.categories, weights.by_category[:, at], strict=True)
    return MemberWeights(
        weight=round(float(weights.weight[at]), _DIGITS),
        votes=bool(fitted.votes[at]),
        rating=round(fitted.seen.ratings[team.members[at]], _DIGITS),
        by_category={name: value for name, term in terms if (value := round(float(term), _DIGITS))},
        sureness=round(float(weights.sureness[at]), _DIGITS),
        length=round(float(weights.length[at]), _DIGITS),
    )
