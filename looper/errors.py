"""Everything that can go wrong in words a client may read, each with its place in OpenAI's error shape."""

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec


class LooperError(Exception):
    """Base of all errors that may reach a client. Its text is ours: never an upstream's body, URL or exception.

    `retry` is what SDKs are told in `x-should-retry`; None leaves it to their own rules.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    retry: ClassVar[bool | None] = None

    def __init__(
        self, message: str, *, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def to_json(self, facts: Mapping[str, Any] | None = None) -> bytes:
        """In OpenAI's shape; `facts` of the run that ended so are beside it, under our own name."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": {**error, "looper": facts} if facts else error})


class InternalError(LooperError):
    """A mistake of this program. The text says no more than that."""

    def __init__(self) -> None:
        super().__init__("The router could not handle this request.")


class InvalidRequest(LooperError):
    """The client's request cannot be understood."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class InvalidJson(InvalidRequest):
    """The body is not the JSON object that it should be."""

    code = "invalid_json"


class InvalidField(InvalidRequest):
    """A member of the body has a value that cannot be used."""

    code = "invalid_field"


class ChatOnly(InvalidRequest):
    """A team of models was asked for something else than a chat completion."""

    code = "chat_only"


class ModelNotFound(InvalidRequest):
    """The model that was asked for does not exist here."""

    status = 404
    code = "model_not_found"


class BodyTooLarge(InvalidRequest):
    """The body is over `limits.max_body`."""

    status = 413
    code = "body_too_large"


class ContextLengthExceeded(InvalidRequest):
    """The conversation is longer than every member that was asked can take."""

    code = "context_length_exceeded"


class ContentFilter(InvalidRequest):
    """The providers' filters keep every member that was asked from answering this."""

    code = "content_filter"


class UnsupportedByModel(InvalidRequest):
    """The request asks for something that no member can do."""

    code = "unsupported_by_model"


class UpstreamFailed(LooperError):
    """Backends are down, or what they say cannot be used."""

    status = 502
    type = "upstream_error"
    code = "upstream_failed"
    retry = False


class NothingButThoughts(UpstreamFailed):
    """Every model had used all the tokens that it may before its first word. The client reads that as an answer."""


class AnswerTooLarge(UpstreamFailed):
    """The answer is over `limits.max_answer_bytes`."""

    code = "answer_too_large"


class UpstreamMisconfigured(UpstreamFailed):
    """Backends refuse our credential, or do not know the model we name."""

    code = "upstream_misconfigured"


class ContractViolated(UpstreamFailed):
    """No answer has the form that the decision's contract demands."""

    code = "contract_violated"


class VerificationFailed(UpstreamFailed):
    """A verifier does not let an answer pass, and the workflow wants every one to."""

    code = "verification_failed"


class RateLimited(LooperError):
    """Every backend that was asked is rate-limited."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limited"
    retry = False


class TenantLimitReached(LooperError):
    """What the client's tenant may spend in a stretch of time is spent."""

    status = 429
    type = "rate_limit_error"
    code = "tenant_limit_reached"
    retry = False


class BudgetExhausted(LooperError):
    """The decision's budget is spent and there is nothing to return."""

    status = 402
    type = "budget_error"
    code = "budget_exhausted"
    retry = False


class DeadlineExceeded(LooperError):
    """The decision's deadline passed and there is nothing to return."""

    status = 504
    type = "upstream_error"
    code = "deadline_exceeded"
    retry = False


class LoopDetected(InvalidRequest):
    """The request has come through these same routes before: a model's URL leads back to them."""

    status = 508
    code = "loop_detected"
    retry = False


class IdentityMissing(InvalidRequest):
    """Nothing before us has said who asks, though a run may have to wait for just that client."""

    status = 401
    type = "authentication_error"
    code = "identity_missing"
    retry = False


class StateExpired(InvalidRequest):
    """Tools were answered for a run that is not there any more, or never was."""

    status = 410
    code = "state_expired"


class StateOutdated(StateExpired):
    """The run cannot go on under the configuration as it is now."""

    code = "state_outdated"


OTHER_VERSION = "The run cannot go on: it was begun by another version of the program."


class StateMismatch(InvalidRequest):
    """The answers of tools are not those that a run waits for, or not from the client that it belongs to."""

    status = 409
    code = "state_mismatch"
    retry = False


class StateBusy(StateMismatch):
    """Another request has gone on with the run and has not ended, or not yet been given up."""

    code = "state_busy"
    retry = True


class StateUnavailable(LooperError):
    """The store of paused runs cannot be reached."""

    status = 503
    code = "state_unavailable"
    retry = True


class Overloaded(LooperError):
    """This process has as much to do as it may."""

    status = 503
    code = "overloaded"
    retry = True
