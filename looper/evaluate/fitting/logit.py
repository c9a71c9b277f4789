"""The conditional logit that a posterior is, fitted: weights that are right together, near those of the ratings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from looper.evaluate.outcomes import Question

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Indices = NDArray[np.intp]

RIDGE = 30.0
"""How strongly weights are held to the ratings'."""

TERMS_RIDGE = 10.0
"""How strongly terms of categories and scores are held to nothing."""

LENGTH_RIDGE = 30.0
"""How strongly terms of lengths are held to nothing."""

_APART_RIDGE = 10.0
"""How strongly the best and the others are held to one scale."""

_BIAS_RIDGE = 0.1
_NOBODY = -1e9
_WIDEST = 6.0
"""The natural logarithm of how far a scale may be from 1."""


@dataclass(frozen=True, slots=True)
class Design:
    """Questions as arrays: `said[question, answer, member]` is 1 where a member gave that answer.

    `right` is the index of the right answer; one beyond the last, if nobody gave it. The last category is any that is
    not known, and has no terms. `sure` and `long` are features by question and member.
    """

    said: Floats
    right: Indices
    category: Indices
    sure: Floats
    long: Floats

    @property
    def given(self) -> Flags:
        given: Flags = np.any(self.said, axis=2)
        return given

    def only(self, members: Flags) -> "Design":
        """The same with the others silent; `members` may be given question by question.

        Where only they gave the right answer, nobody gives it.
        """
        said = self.said * np.atleast_2d(members)[:, None, :]
        nobody = said.shape[1]
        given = np.pad(np.any(said, axis=2), ((0, 0), (0, 1)))
        right = np.where(given[np.arange(len(self.right)), self.right], self.right, nobody)
        return replace(self, said=said, right=right)


def design(
    rows: Sequence[Question],
    members: Sequence[str],
    categories: Sequence[str],
    sure: Floats,
    long: Floats,
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
    return Design(said, right, category, sure, long)


def _answers(row: Question, members: Sequence[str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for at, member in enumerate(members):
        if (answer := row.answer(member)) is not None:
            groups.setdefault(answer, []).append(at)
    return groups


@dataclass(frozen=True, slots=True)
class Fit:
    """What `posterior` counts with: per member, per category and member, per member's score and length."""

    weight: Floats
    by_category: Floats
    sureness: Floats
    length: Floats
    none_of_these: float

    @classmethod
    def by_weight(cls, weight: Floats, categories: int, none_of_these: float) -> "Fit":
        """One that knows no more than who said it."""
        nothing = np.zeros(weight.size)
        return cls(weight, np.zeros((categories, weight.size)), nothing, nothing, none_of_these)

    def pack(self) -> Floats:
        terms = self.by_category.ravel()
        return np.concatenate(
            [self.weight, terms, self.sureness, self.length, [self.none_of_these]]
        )

    def unpack(self, packed: Floats) -> "Fit":
        sizes = (self.weight.size, self.by_category.size, self.sureness.size, self.length.size)
        weight, terms, sureness, length, bias = np.split(packed, np.cumsum(sizes))
        by_category = terms.reshape(self.by_category.shape)
        return Fit(weight, by_category, sureness, length, float(bias[0]))


def fit(data: Design, prior: Fit, fixed: Flags) -> Fit:
    """The weights of largest likelihood, less what it takes to pull them from `prior`.

    What is said of members that are `fixed` stays as it is.
    """
    start = prior.pack()
    members = prior.weight.size
    ridge = np.full(start.size, TERMS_RIDGE)
    ridge[:members], ridge[-members - 1 : -1], ridge[-1] = RIDGE, LENGTH_RIDGE, _BIAS_RIDGE
    terms = np.broadcast_to(fixed, prior.by_category.shape).ravel()
    free = 1.0 - np.concatenate([fixed, terms, fixed, fixed, [False]])

    def loss(packed: Floats) -> tuple[float, Floats]:
        likelihood, slope = _likelihood(data, prior.unpack(packed))
        away = packed - start
        return -likelihood + float(ridge @ away**2) / 2, (ridge * away - slope) * free

    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return prior.unpack(found.x)


def scaled(data: Design, prior: Fit, best: int) -> Fit:
    """The prior with its weights multiplied by one number, and those of all but the best by a second one, at most 1.

    Members err together, and the others together may be worth less beside the best than their ratings say. How much is
    in the data, and is found from far fewer questions than a weight for each member.
    """
    members = prior.weight.size
    others = np.arange(members) != best

    def at(scale: Floats) -> Fit:
        factors = np.exp(scale[0] + others * scale[1])
        return replace(prior, weight=prior.weight * factors, none_of_these=float(scale[2]))

    def loss(scale: Floats) -> tuple[float, Floats]:
        there = at(scale)
        likelihood, slope = _likelihood(data, there)
        along = slope[:members] * there.weight
        held = (scale[0] ** 2 + _APART_RIDGE * scale[1] ** 2) / 2
        return held - likelihood, np.array(
            [
                scale[0] - along.sum(),
                _APART_RIDGE * scale[1] - along[others].sum(),
                -slope[-1],
            ]
        )

    start = np.array([0.0, 0.0, prior.none_of_these])
    bounds = [(-_WIDEST, _WIDEST), (-_WIDEST, 0.0), (None, None)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    return at(found.x)


def scores(data: Design, weights: Fit) -> Floats:
    """Of each question's answers; very low where there is no such answer."""
    each = _each(data, weights)
    total = np.einsum("qam,qm->qa", data.said, each)
    return np.where(data.given, total, _NOBODY)


def _each(data: Design, weights: Fit) -> Floats:
    """What each member's word counts for, question by question."""
    terms = np.vstack([weights.by_category, np.zeros(weights.weight.size)])
    by_features = weights.sureness * data.sure + weights.length * data.long
    counted: Floats = weights.weight + terms[data.category] + by_features
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
            (per_member * data.sure).sum(axis=0),
            (per_member * data.long).sum(axis=0),
            [missed[:, -1].sum()],
        ]
    )
    return value, slope
