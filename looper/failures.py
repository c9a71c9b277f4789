"""From what became of the calls to the one error that the client reads."""

from collections.abc import Sequence

from looper.calls import CallFailed, Failure, Result
from looper.errors import (
    BudgetExhausted,
    DeadlineExceeded,
    LooperError,
    RateLimited,
    UnsupportedByModel,
    UpstreamFailed,
    UpstreamMisconfigured,
)

_MAX_RETRY_AFTER = 60


def why_no_answer(outcomes: Sequence[Result | CallFailed]) -> LooperError:
    """The error of a run that nobody answered. Says what kind of thing went wrong, never an upstream's own words."""
    errors = [error for error in map(_error, outcomes) if error is not None]
    statuses = {error.status for error in errors}
    if errors and all(error.failure is Failure.BUDGET for error in errors):
        return BudgetExhausted("The budget of this request was spent before a model answered.")
    if statuses == {429}:
        after = min((error.retry_after or _MAX_RETRY_AFTER for error in errors), default=None)
        return RateLimited(
            "Every model that was asked is rate-limited.",
            retry_after=min(after or 1, _MAX_RETRY_AFTER),
        )
    if statuses and statuses <= {400, 413, 422}:
        return UnsupportedByModel("Every model that was asked refused the request as it is.")
    if statuses and statuses <= {401, 403, 404}:
        return UpstreamMisconfigured("The models behind this name are not set up correctly.")
    if errors and all(error.failure is Failure.TIMEOUT for error in errors):
        return DeadlineExceeded("No model answered before the deadline.")
    return UpstreamFailed("The models behind this name did not give enough usable answers.")


def _error(outcome: Result | CallFailed) -> CallFailed | None:
    if isinstance(outcome, CallFailed):
        return outcome
    if outcome.state == "timed_out" and outcome.error is None:
        return CallFailed(Failure.TIMEOUT)
    return outcome.error
