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
    answered = any(isinstance(outcome, Result) and outcome.state == "ok" for outcome in outcomes)
    # That a model cannot take the request is one with its refusing it.
    others = [error for error in errors if error.failure is not Failure.UNSUITABLE]
    errors = others or errors
    if errors and not answered and (shared := _shared(errors)) is not None:
        return shared
    return UpstreamFailed("The models behind this name did not give enough usable answers.")


def _shared(errors: Sequence[CallFailed]) -> LooperError | None:
    """The error that says what went wrong in the same way everywhere."""
    statuses = {error.status for error in errors}
    failures = {error.failure for error in errors}
    if failures == {Failure.BUDGET}:
        return BudgetExhausted("The budget of this request was spent before a model answered.")
    if failures == {Failure.TIMEOUT}:
        return DeadlineExceeded("No model answered before the deadline.")
    if statuses == {429}:
        return RateLimited("Every model that was asked is rate-limited.", retry_after=_wait(errors))
    if statuses <= {400, 413, 422} or failures == {Failure.UNSUITABLE}:
        return UnsupportedByModel("Every model that was asked refused the request as it is.")
    if statuses <= {401, 403, 404}:
        return UpstreamMisconfigured("The models behind this name are not set up correctly.")
    return None


def _wait(errors: Sequence[CallFailed]) -> int:
    """The shortest wait that any of them asks for, in seconds."""
    waits = [
        _MAX_RETRY_AFTER if error.retry_after is None else error.retry_after for error in errors
    ]
    return max(1, min(_MAX_RETRY_AFTER, *waits))


def _error(outcome: Result | CallFailed) -> CallFailed | None:
    if isinstance(outcome, CallFailed):
        return outcome
    if outcome.state == "timed_out" and outcome.error is None:
        return CallFailed(Failure.TIMEOUT)
    return outcome.error
