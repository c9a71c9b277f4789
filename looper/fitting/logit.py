"""The conditional logit that a posterior is, fitted: weights that are right together, near those of the ratings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from looper.outcomes import Question

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Indices = NDArray[np.intp]

RIDGE = 30.0
"""How strongly weights are held to the ratings'."""

TERMS_RIDGE = 10.0
"""How strongly terms of categories and scores are held to nothing."""

_BIAS_RIDGE = 0.1
_NOBODY = -1e9


@dataclass(frozen=True, slots=True)
class Design:
    """Questions as arrays: `said[question, answer, member]` is 1 where a member gave that answer.

    `right` is the index of the right answer; one beyond the last, if nobody gave it. The last category is any that is
    not known, and has no terms.
    """

    said: Floats
    right: Indices
    category: Indices
    feature: Floats

    @property
    def given(self) -> Flags:
        given: Flags = np.any(self.said, axis=2)
        return given

    def only(self, members: Flags) -> "Design":
        """The same with the others silent; `members` may be given question by question."""
        return replace(self, said=self.said * np.atleast_2d(members)[:, None, :])


def design(
    rows: Sequence[Question],
    members: Sequence[str],
    categories: Sequence[str],
    feature: Floats,
) -> Design:
    answers = [_answers(row, members) for row in rows]
    most = max((len(each) for each in answers), default=0) or 1
    said = np.zeros((len(rows), most, len(members)))
    right = np.full(len(rows), most, dtype=np.intp)
    for at, (row, groups) in enumerate(zip(rows, answers, strict=True)):
        for place, who in enumerate(groups.values()):
            said[at, place, who] = 1
            if sum(row.is_right(members[member]) for member in who) * 2 > len(who):
                right[at] = min(right[at], place)
    known = {name: at for at, name in enumerate(categories)}
    category = np.array([known.get(row.category, len(categories)) for row in rows], dtype=np.intp)
    return Design(said, right, category, feature)


def _answers(row: Question, members: Sequence[str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for at, member in enumerate(members):
        if (answer := row.answer(member)) is not None:
            groups.setdefault(answer, []).append(at)
    return groups


@dataclass(frozen=True, slots=True)
class Fit:
    """What `posterior` counts with: per member, per category and member, per member's score."""

    weight: Floats
    by_category: Floats
    sureness: Floats
    none_of_these: float

    def pack(self) -> Floats:
        return np.concatenate(
            [self.weight, self.by_category.ravel(), self.sureness, [self.none_of_these]]
        )

    def unpack(self, packed: Floats) -> "Fit":
        members, terms = self.weight.size, self.by_category.size
        weight, by_category, sureness, bias = np.split(
            packed, [members, members + terms, 2 * members + terms]
        )
        return Fit(weight, by_category.reshape(self.by_category.shape), sureness, float(bias[0]))


def fit(data: Design, prior: Fit, fixed: Flags) -> Fit:
    """The weights of largest likelihood, less what it takes to pull them from `prior`.

    What is said of members that are `fixed` stays as it is.
    """
    start = prior.pack()
    ridge = np.full(start.size, TERMS_RIDGE)
    ridge[: prior.weight.size], ridge[-1] = RIDGE, _BIAS_RIDGE
    terms = np.broadcast_to(fixed, prior.by_category.shape).ravel()
    free = 1.0 - np.concatenate([fixed, terms, fixed, [False]])

    def loss(packed: Floats) -> tuple[float, Floats]:
        likelihood, slope = _likelihood(data, prior.unpack(packed))
        away = packed - start
        return -likelihood + float(ridge @ away**2) / 2, (ridge * away - slope) * free

    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return prior.unpack(found.x)


def scaled(data: Design, prior: Fit) -> Fit:
    """The prior with all weights multiplied by one number: members err together, and how much is in the data.

    It is found from far fewer questions than a weight for each member.
    """

    def loss(packed: Floats) -> tuple[float, Floats]:
        factor = float(np.exp(packed[0]))
        likelihood, slope = _likelihood(data, _times(prior, factor, float(packed[1])))
        along = float(slope[: prior.weight.size] @ prior.weight) * factor
        return packed[0] ** 2 / 2 - likelihood, np.array([packed[0] - along, -slope[-1]])

    found = minimize(loss, np.array([0.0, prior.none_of_these]), jac=True, method="L-BFGS-B")
    return _times(prior, float(np.exp(found.x[0])), float(found.x[1]))


def _times(prior: Fit, factor: float, bias: float) -> Fit:
    return replace(prior, weight=prior.weight * factor, none_of_these=bias)


def scores(data: Design, weights: Fit) -> Floats:
    """Of each question's answers; very low where there is no such answer."""
    each = _each(data, weights)
    total = np.einsum("qam,qm->qa", data.said, each)
    return np.where(data.given, total, _NOBODY)


def _each(data: Design, weights: Fit) -> Floats:
    """What each member's word counts for, question by question."""
    terms = np.vstack([weights.by_category, np.zeros(weights.weight.size)])
    counted: Floats = weights.weight + terms[data.category] + weights.sureness * data.feature
    return counted


def posteriors(data: Design, weights: Fit) -> Floats:
    """Of each question's answers, and of "none of these" in the last column."""
    bias = np.full((len(data.right), 1), weights.none_of_these)
    total = np.concatenate([scores(data, weights), bias], axis=1)
    shares = np.exp(total - total.max(axis=1, keepdims=True))
    normed: Floats = shares / shares.sum(axis=1, keepdims=True)
    return normed


def _likelihood(data: Design, weights: Fit) -> tuple[float, Floats]:
    """The log-likelihood of what is right, and its slope in the order of `pack`."""
    found = posteriors(data, weights)
    rows = np.arange(len(data.right))
    value = float(np.log(np.maximum(found[rows, data.right], 1e-300)).sum())
    missed = -found
    missed[rows, data.right] += 1
    per_member = np.einsum("qa,qam->qm", missed[:, :-1], data.said)
    terms = np.zeros((weights.by_category.shape[0] + 1, weights.weight.size))
    np.add.at(terms, data.category, per_member)
    slope = np.concatenate(
        [
            per_member.sum(axis=0),
            terms[:-1].ravel(),
            (per_member * data.feature).sum(axis=0),
            [missed[:, -1].sum()],
        ]
    )
    return value, slope
