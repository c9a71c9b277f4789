"""What `max_accepted_error` is read off: of questions held out, how sure each stage was and whether it was right."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import floor
from typing import Literal

from looper.evaluate.fitting.features import METHODS, Scores, score
from looper.evaluate.fitting.team import HeldOut as Decided
from looper.evaluate.outcomes import Question
from looper.voting import Method
from looper.voting.calibration import Calibration, HeldOut, thresholds_for

_MOST = 2000
"""Questions that a file has room for."""

_PARTS = 10_000
"""Of 1. Confidences are rounded down, so that they are above a threshold exactly if they were before."""

By = Method | Literal["posterior"]


def gates(
    rows: Sequence[Question],
    stages: Sequence[Sequence[str]],
    decided: Sequence[Decided],
    worth: Sequence[Calibration],
    scores: Scores,
) -> dict[By, tuple[HeldOut, ...]]:
    """Of each stage but the last, by everybody's vote, and by every method whose scores are known of all its models."""
    if len(stages) < 2:
        return {}
    kept = range(0, len(rows), -(-len(rows) // _MOST))
    votes = tuple(
        _held_out(_votes(each, calibration, kept))
        for each, calibration in zip(decided[:-1], worth, strict=False)
    )
    found: dict[By, tuple[HeldOut, ...]] = {"posterior": votes}
    for method in METHODS:
        if all(method in scores.get(name, {}) for stage in stages[:-1] for name in stage):
            found[method] = tuple(
                _held_out(_best(rows[at], stage, method, scores) for at in kept)
                for stage in stages[:-1]
            )
    return found


def _votes(
    decided: Decided, worth: Calibration, kept: Sequence[int]
) -> Iterator[tuple[float, bool]]:
    for at in kept:
        posterior = float(decided.posterior[at])
        yield worth.probability(posterior) if posterior else 0.0, bool(decided.right[at])


def _best(
    row: Question, stage: Sequence[str], method: Method, scores: Scores
) -> tuple[float, bool]:
    """The best score of a stage's answers, as a probability, and whether that answer is right."""
    return max(
        (
            (scores[name][method].probability(value), row.is_right(name))
            for name in stage
            if row.answer(name) is not None and (value := score(row, name, method)) is not None
        ),
        key=lambda each: each[0],
        default=(0.0, False),
    )


def _held_out(said: Iterator[tuple[float, bool]]) -> HeldOut:
    pairs = list(said)
    return HeldOut(
        sure=tuple(floor(sure * _PARTS) / _PARTS for sure, _ in pairs),
        right="".join("1" if right else "0" for _, right in pairs),
    )


def shares(stages: Sequence[HeldOut], most: float) -> list[tuple[float, float]]:
    """For each stage the threshold that `max_accepted_error` comes to, and the share of questions that end there."""
    left = list(range(len(stages[0].sure)))
    lefts, thresholds = [len(left)], list(thresholds_for(stages, most))
    for stage, threshold in zip(stages, thresholds, strict=True):
        left = [at for at in left if stage.sure[at] < threshold]
        lefts.append(len(left))
    return [
        (threshold, (before - after) / max(1, lefts[0]))
        for threshold, (before, after) in zip(thresholds, pairwise(lefts), strict=True)
    ]


def as_wrong_as(accuracy: float) -> float:
    """The `max_accepted_error` with which no more of what is accepted early is wrong than of what the team says."""
    return max(0.01, floor((1 - accuracy) * 100) / 100)
