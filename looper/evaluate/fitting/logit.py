"""The conditional logit that a posterior is, fitted: weights that are right together, near those of the ratings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from looper.evaluate.outcomes import Question

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Ridges:
    """How strongly weights are held to the ratings', and terms of categories, scores and lengths to nothing."""

    weight: float = 30.0
    term: float = 10.0
    length: float = 30.0
    bias: float = 0.1


RIDGES = Ridges()

_SILENT = -1
_PRECISION = {"maxiter": 500, "ftol": 1e-8, "gtol": 1e-4}
_NOBODY = -1e9


@dataclass(frozen=True)
class Design:
    """Questions as arrays: `answers[question, member]` numbers a question's answers in the order they were found in,
    and is -1 for silence.

    `right` is the number of the right answer; `most`, which is beyond any, if nobody gave it. `speaks_right` says of
    each member whether it did. The last category is any that is not known, and has no terms. `sure` and `long` are
    features by question and member.
    """

    answers: Indices
    right: Indices
    speaks_right: Flags
    most: int
    category: Indices
    sure: Floats
    long: Floats

    @cached_property
    def said(self) -> Flags:
        said: Flags = self.answers != _SILENT
        return said

    @cached_property
    def given(self) -> Flags:
        """Which answers somebody gave."""
        given: Flags = self.sums(self.said.astype(float)) > 0
        return given

    def only(self, members: Flags) -> "Design":
        """The same with the others silent; `members` may be given question by question.

        Where only they gave the right answer, nobody gives it.
        """
        answers = np.where(members, self.answers, _SILENT)
        given = np.any(answers == self.right[:, None], axis=1)
        return replace(self, answers=answers, right=np.where(given, self.right, self.most))

    def at(self, questions: Indices) -> "Design":
        """Some of the questions."""
        return replace(
            self,
            answers=self.answers[questions],
            right=self.right[questions],
            speaks_right=self.speaks_right[questions],
            category=self.category[questions],
            sure=self.sure[questions],
            long=self.long[questions],
        )

    def sums(self, by_word: Floats) -> Floats:
        """Of each question's answers, what their members' words add up to, which are 0 for the silent."""
        rows = len(self.right)
        size = rows * self.most
        flat: Floats = np.bincount(self._place, by_word.ravel(), minlength=size).astype(float)
        return flat.reshape(rows, self.most)

    def per_word(self, by_answer: Floats) -> Floats:
        """What is said of an answer, for each member that gave it; 0 for the silent."""
        words = by_answer.ravel()[self._place].reshape(self.answers.shape)
        return np.where(self.said, words, 0.0)

    @cached_property
    def _place(self) -> Indices:
        """Of each word its answer's, all answers of all questions in a row."""
        first = np.arange(len(self.right), dtype=np.intp)[:, None] * self.most
        place: Indices = (np.where(self.said, self.answers, 0) + first).ravel()
        return place


def design(
    rows: Sequence[Question], members: Sequence[str], categories: Sequence[str] = ()
) -> Design:
    """Questions of which nothing is known beside the answers."""
    shape = (len(rows), len(members))
    answers = np.full(shape, _SILENT, dtype=np.intp)
    speaks_right = np.zeros(shape, dtype=bool)
    for at, row in enumerate(rows):
        numbers: dict[str, int] = {}
        for member, name in enumerate(members):
            if (answer := row.answer(name)) is not None:
                answers[at, member] = numbers.setdefault(answer, len(numbers))
                speaks_right[at, member] = row.is_right(name)
    most = int(answers.max(initial=0)) + 1
    known = {name: at for at, name in enumerate(categories)}
    category = np.array([known.get(row.category, len(categories)) for row in rows], dtype=np.intp)
    nobody = np.full(len(rows), most, dtype=np.intp)
    unknown = np.zeros(shape)
    whole = Design(answers, nobody, speaks_right, most, category, unknown, unknown)
    return replace(whole, right=_right(whole))


def _right(data: Design) -> Indices:
    """The first answer that most of those who gave it are right with."""
    counts = data.sums(data.said.astype(float))
    rights = data.sums(data.speaks_right.astype(float))
    mostly: Flags = (rights * 2 > counts) & (counts > 0)
    return np.where(mostly.any(axis=1), mostly.argmax(axis=1), data.most)


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


def fit(data: Design, prior: Fit, fixed: Flags, ridges: Ridges = RIDGES) -> Fit:
    """The weights of largest likelihood, less what it takes to pull them from `prior`.

    What is said of members that are `fixed` stays as it is.
    """
    start = prior.pack()
    members = prior.weight.size
    ridge = np.full(start.size, ridges.term)
    ridge[:members], ridge[-members - 1 : -1], ridge[-1] = (
        ridges.weight,
        ridges.length,
        ridges.bias,
    )
    terms = np.broadcast_to(fixed, prior.by_category.shape).ravel()
    free = 1.0 - np.concatenate([fixed, terms, fixed, fixed, [False]])

    def loss(packed: Floats) -> tuple[float, Floats]:
        likelihood, slope = _likelihood(data, prior.unpack(packed))
        away = packed - start
        return -likelihood + float(ridge @ away**2) / 2, (ridge * away - slope) * free

    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=_PRECISION)
    return prior.unpack(found.x)


def scores(data: Design, weights: Fit) -> Floats:
    """Of each question's answers; very low where there is no such answer."""
    return np.where(data.given, data.sums(_each(data, weights)), _NOBODY)


def _each(data: Design, weights: Fit) -> Floats:
    """What each member's word counts for, question by question."""
    terms = np.vstack([weights.by_category, np.zeros(weights.weight.size)])
    by_features = weights.sureness * data.sure + weights.length * data.long
    counted: Floats = weights.weight + terms[data.category] + by_features
    return np.where(data.said, counted, 0.0)


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
    per_member = data.per_word(missed[:, :-1])
    terms = np.zeros((weights.by_category.shape[0] + 1, weights.weight.size))
    if weights.by_category.size:
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
