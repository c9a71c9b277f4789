"""What is known of recorded answers beside what they say: how sure members were, and how long they took to say it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from looper.evaluate.fitting.isotonic import calibrate
from looper.evaluate.fitting.logit import Floats
from looper.evaluate.outcomes import Question
from looper.voting import Length, Method
from looper.voting.calibration import Calibration
from looper.voting.electorate import HEEDED
from looper.voting.scoring import ALTERNATIVES, from_mean
from looper.voting.weights import beyond_usual

METHODS: tuple[Method, ...] = (
    "answer_span",
    "avg_logprob",
    "hybrid",
    "margin",
    "verifier",
    "automix_entailment",
    "self_verify",
)
"""The best to weigh words by first. In a vote only what tokens say counts, as nobody grades its answers."""

_ENOUGH = 50
"""Answers of a member from which on something is measured of them."""

_LEAST_SPREAD = 0.05

Scores = Mapping[str, Mapping[Method, Calibration]]


def score(row: Question, model: str, method: Method) -> float | None:
    """A recorded score. `logprob` is the mean over the answer's tokens."""
    found = row.scores.get(method, {}).get(model)
    if found is None and method == "avg_logprob" and model in row.logprob:
        return from_mean(row.logprob[model])
    return found


def calibrations(rows: Sequence[Question], members: Sequence[str]) -> Scores:
    """What each member's scores are worth, by method, where enough of them are known."""
    found: dict[str, dict[Method, Calibration]] = {}
    if not any(row.scores or row.logprob for row in rows):
        return found
    for name in members:
        for method in METHODS:
            pairs = [
                (value, row.is_right(name))
                for row in rows
                if row.answer(name) is not None and (value := score(row, name, method)) is not None
            ]
            if len(pairs) >= _ENOUGH and (calibration := calibrate(pairs)) is not None:
                found.setdefault(name, {})[method] = calibration
    return found


def method_for(rows: Sequence[Question], members: Sequence[str]) -> Method | None:
    """The method to weigh these members' words by, in every stage; None where nothing is known that tokens say."""
    found = calibrations(rows, members).values()
    known = {method for each in found for method in each} & ALTERNATIVES.keys()
    return next((each for each in METHODS if each in known), None)


Lengths = Mapping[str, Length]


def log_tokens(rows: Sequence[Question], members: Sequence[str]) -> Floats:
    """By question and member: the natural logarithm of an answer's length; NaN where that is not known."""
    found = np.full((len(rows), len(members)), np.nan)
    for at, row in enumerate(rows):
        for member, name in enumerate(members):
            if tokens := row.tokens(name):
                found[at, member] = math.log(tokens)
    return found


def lengths(logs: Floats, members: Sequence[str]) -> Lengths:
    """How long each member's answers are, where the length of enough of them is known."""
    found = {}
    for name, column in zip(members, logs.T, strict=True):
        known = column[~np.isnan(column)]
        if len(known) >= _ENOUGH:
            spread = max(_LEAST_SPREAD, float(known.std()))
            typical = math.exp(float(np.median(known)))
            found[name] = Length(typical=round(typical, 1), spread=round(spread, 4))
    return found


def long(logs: Floats, members: Sequence[str], usual: Lengths) -> Floats:
    """By question and member: by how many standard deviations an answer is longer than usual, within what is heeded."""
    found = np.zeros(logs.shape)
    for at, name in enumerate(members):
        if name in usual:
            away = (logs[:, at] - math.log(usual[name].typical)) / usual[name].spread
            found[:, at] = np.clip(np.nan_to_num(away), -HEEDED, HEEDED)
    return found


@dataclass(frozen=True, slots=True)
class Sureness:
    """What recorded scores say beyond who said it: by which method, and what each member's are worth."""

    method: Method | None
    scores: Scores
    usual: Mapping[str, float]

    def features(self, rows: Sequence[Question], members: Sequence[str]) -> Floats:
        """By question and member; 0 where nothing is known."""
        return np.array([[self._feature(row, name) for name in members] for row in rows])

    def _feature(self, row: Question, name: str) -> float:
        if self.method is None or row.answer(name) is None:
            return 0.0
        calibration = self.scores.get(name, {}).get(self.method)
        value = score(row, name, self.method)
        if calibration is None or value is None:
            return 0.0
        return beyond_usual(calibration, value, self.usual[name])
