"""What the outcome of a run says, which is the same in every pattern."""

from collections.abc import Sequence

from looper.calling.calls import Result
from looper.calling.fanout import is_lost
from looper.wire.events import Outcome

FLOOR = 0.5
"""A vote less sure than this is more probably wrong than right."""

_DIGITS = 9
"""Beyond these a vote differs from the floor by how it was reckoned only."""


def outcome_of(
    results: Sequence[Result], *, enough: bool = True, confidence: float | None = None
) -> Outcome:
    """Of an answer that came as it was meant to: `degraded` if somebody's word is missing, too few have spoken, or it
    goes by a vote that is hardly sure.
    """
    unsure = confidence is not None and round(confidence, _DIGITS) < FLOOR
    lost = any(is_lost(each) for each in results)
    return "degraded" if lost or unsure or not enough else "ok"
