"""What the outcome of a run says, which is the same in every pattern."""

from collections.abc import Sequence

from looper.calling.calls import CallFailed, Failure, Result
from looper.calling.fanout import is_lost
from looper.wire.events import Lack, Outcome

FLOOR = 0.5
"""A vote less sure than this is more probably wrong than right."""

_DIGITS = 9
"""Beyond these a vote differs from the floor by how it was reckoned only."""


def lack_of(
    results: Sequence[Result], *, enough: bool = True, confidence: float | None = None
) -> Lack | None:
    """What an answer lacks that came as it was meant to: somebody's word, a quorum, or a vote that is hardly unsure."""
    lost = next(filter(is_lost, results), None)
    if lost is not None:
        return _loss(lost)
    if not enough:
        return "quorum"
    unsure = confidence is not None and round(confidence, _DIGITS) < FLOOR
    return "unsure" if unsure else None


def outcome_of(lack: Lack | None, *, by_another: bool = False) -> Outcome:
    """Of an answer that lacks this. `by_another` author than was meant to write it, it is a fallback all the same."""
    if by_another:
        return "fallback"
    return "ok" if lack is None else "degraded"


def _loss(result: Result) -> Lack:
    """How somebody was lost."""
    if result.state == "timed_out":
        return "late"
    return "refused" if result.error is None else _failure(result.error)


def _failure(error: CallFailed) -> Lack:
    match error.failure:
        case Failure.UNSUITABLE:
            return "unsuitable"
        case Failure.BUDGET:
            return "unpaid"
        case _:
            return "failed" if error.refusal is None else "refused"
