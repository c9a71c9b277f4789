"""From what became of the calls to the one error that the client reads."""

from collections.abc import Sequence

from looper.calling.calls import NO_ROOM, TOO_LARGE, CallFailed, Failure, Result
from looper.calling.refusals import Refusal
from looper.errors import (
    AnswerTooLarge,
    BudgetExhausted,
    ContentFilter,
    ContextLengthExceeded,
    DeadlineExceeded,
    InvalidRequest,
    LooperError,
    NothingButThoughts,
    RateLimited,
    UnsupportedByModel,
    UpstreamFailed,
    UpstreamMisconfigured,
)

_MAX_RETRY_AFTER = 60


def why_no_answer(
    outcomes: Sequence[Result | CallFailed], *, quorum: int = 1, everybody: bool = True
) -> LooperError:
    """The error of a run that nobody answered. Says what kind of thing went wrong, never an upstream's own words.

    `quorum` is how many answers it would have taken. `everybody`: nobody was asked but those whose outcomes these are.
    """
    errors = [error for error in map(_error, outcomes) if error is not None]
    answered = any(isinstance(outcome, Result) and outcome.state == "ok" for outcome in outcomes)
    shared = _shared(errors, quorum) if errors and not answered else None
    if shared is not None and (everybody or not isinstance(shared, NothingButThoughts)):
        return shared
    return UpstreamFailed(_DOWN if not answered and _is_down(errors) else _UNUSABLE)


_UNUSABLE = "The models behind this name did not give enough usable answers."
_DOWN = "The models behind this name could not be reached."


def _is_down(errors: Sequence[CallFailed]) -> bool:
    """Whether whoever was asked was not there."""
    asked = [error for error in errors if error.failure is not Failure.UNSUITABLE]
    return bool(asked) and all(error.failure is Failure.CONNECT for error in asked)


def _shared(errors: Sequence[CallFailed], quorum: int) -> LooperError | None:
    """The error that says what went wrong in the same way everywhere."""
    if all(_refusal(error) is not None for error in errors):
        return _refused(errors)
    # A model that cannot take the request was not asked: it says nothing of how the others are.
    errors = [error for error in errors if error.failure is not Failure.UNSUITABLE]
    statuses = {error.status for error in errors}
    failures = {error.failure for error in errors}
    if failures == {Failure.BUDGET}:
        return BudgetExhausted("The budget of this request was spent before a model answered.")
    if failures == {Failure.TIMEOUT}:
        return DeadlineExceeded("No model answered within its stage's share of the deadline.")
    if all(error.reason == TOO_LARGE for error in errors):
        return AnswerTooLarge("The models' answers are larger than any may be.")
    if all(error.reason == NO_ROOM for error in errors):
        return NothingButThoughts("The models had used all their tokens before their first word.")
    if all(error.is_rate_limited for error in errors):
        after = _wait(errors, quorum)
        return RateLimited("Every model that was asked is rate-limited.", retry_after=after)
    if statuses <= {401, 403, 404}:
        return UpstreamMisconfigured("The models behind this name are not set up correctly.")
    return None


def _refused(errors: Sequence[CallFailed]) -> LooperError:
    """Why all refuse the request: the one reason that any of them gives, if they do not contradict each other."""
    reasons = {_refusal(error) for error in errors} - {"invalid_request"}
    match sorted(filter(None, reasons)):
        case ["context_length_exceeded"]:
            return ContextLengthExceeded("The request is longer than the models can take.")
        case ["content_filter"]:
            return ContentFilter("The request was stopped by a content filter of the models.")
        case ["unsupported_by_model"]:
            return _unsupported(errors)
        case []:
            return InvalidRequest("Every model that was asked refused the request as it is.")
        case _:
            return InvalidRequest("The models refused the request, each for a reason of its own.")


def _unsupported(errors: Sequence[CallFailed]) -> LooperError:
    """What the models cannot do, as far as they agree on it."""
    named = {error.param for error in errors if error.param is not None}
    if len(named) != 1:
        return UnsupportedByModel("The request asks for what the models cannot do.")
    param = named.pop()
    return UnsupportedByModel(f"The models cannot do what `{param}` asks for.", param=param)


def _refusal(error: CallFailed) -> Refusal | None:
    """Why a model refuses this request, or cannot take it."""
    if error.failure is Failure.UNSUITABLE:
        too_long = error.reason == "context_window"
        return "context_length_exceeded" if too_long else "unsupported_by_model"
    return error.refusal


def _wait(errors: Sequence[CallFailed], quorum: int) -> int:
    """The shortest wait, in seconds, after which as many of them as it takes may be asked again."""
    waits = sorted(
        _MAX_RETRY_AFTER if error.retry_after is None else error.retry_after for error in errors
    )
    return max(1, min(_MAX_RETRY_AFTER, waits[min(quorum, len(waits)) - 1]))


def _error(outcome: Result | CallFailed) -> CallFailed | None:
    if isinstance(outcome, CallFailed):
        return outcome
    if outcome.state == "timed_out" and outcome.error is None:
        return CallFailed(Failure.TIMEOUT)
    return outcome.error
