"""Envoy's own error answers, in the shape in which OpenAI's clients read errors.

The first mapper whose filter matches is the one that answers, so their order is part of their meaning. Nothing
here repeats Envoy's response code details to a client: they hold socket paths and exceptions.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.access_loggers.filters.cel import v3 as cel
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm

from extproc.bootstrap.messages import header, json_body, literal, pack
from looper import errors

_OWN = "response.code_details.startsWith('looper.') || response.code_details == 'direct_response'"
"""Answers that are complete already: the processor's, and those of routes that lead nowhere."""

_PROCESSOR_LOST = (
    "response.code >= 500 && (response.code_details.startsWith('ext_proc')"
    " || response.code_details.startsWith('spurious_message')"
    " || response.code_details.startsWith('unhandled_'))"
)
_NO_CREDENTIAL = "response.code_details.contains('failed_to_inject_credential')"

_UPSTREAM_FLAGS = ("UF", "UH", "UR", "UC", "UT", "UPE", "URX", "LR", "DT", "UMSDR")
_UPSTREAM = (
    "response.code_details == 'response_payload_too_large'"
    " || response.code_details.startsWith('upstream')"
)
"""What the router says of a backend, or a filter of its answer: every other failure came before one was asked."""

_OVERLOADED = (
    "response.code_details in"
    " ['overload', 'reached_concurrency_limit', 'denied_by_admission_control']"
)
_UPGRADE = "response.code_details == 'upgrade_failed'"

ODD = 598
"""The status, which nobody else uses, of a local reply in place of one that no client could read."""

REFUSED = 599
"""The status, which nobody else uses, of a local reply in place of a backend's 401 or 403."""


class UnknownPath(errors.InvalidRequest):
    """Nothing answers under this path."""

    status = 404
    code = "unknown_path"

    def __init__(self) -> None:
        super().__init__("Nothing answers under this path: it passes to no model here.")


class RouterUnavailable(errors.LooperError):
    """No processor took the request, or the one that had it is gone."""

    status = 503
    code = "router_unavailable"


class Unavailable(errors.LooperError):
    """A filter before the processor has no answer to give now."""

    status = 503
    code = "service_unavailable"


@dataclass(frozen=True, slots=True)
class Refused:
    """Envoy, or a filter before the processor, refuses the request: what its status says, clients can act on."""

    status: int
    code: str
    message: str
    type: str = errors.InvalidRequest.type
    retry_after: int | None = None
    retry: bool | None = None

    def to_json(self) -> bytes:
        said = {"message": self.message, "type": self.type, "param": None, "code": self.code}
        return msgspec.json.encode({"error": said})


_REFUSALS = (
    Refused(401, "invalid_api_key", "The request has no credential that is valid here."),
    Refused(403, "permission_denied", "The credential does not permit this request."),
    Refused(405, "method_not_allowed", "The method is not allowed here."),
    Refused(408, "request_timeout", "The request was not finished in time."),
    Refused(415, "unsupported_media_type", "The content type is not supported here."),
    Refused(421, "misdirected_request", "This host is not served on this connection."),
    Refused(426, "upgrade_required", "The request needs HTTP/1.1 or later."),
    Refused(
        429,
        "rate_limit_exceeded",
        "Too many requests.",
        errors.RateLimited.type,
        # Filters that know better say so in a header of their own, which stays.
        retry_after=1,
    ),
    Refused(431, "headers_too_large", "The request's headers are too large."),
)


def ingress() -> hcm.LocalReplyConfig:
    """Every local reply of 400 and above, except for those that are ours to begin with."""
    return hcm.LocalReplyConfig(
        mappers=[_untouched(), *_of_models(), *_of_clients(), *_of_the_rest()]
    )


def _of_models() -> Iterator[hcm.ResponseMapper]:
    """What is wrong between us and those who were to answer."""
    # Before the processor's failures: a message timeout of the filter is one of them, and a 504.
    yield _answer(_status(504), errors.DeadlineExceeded("The deadline has passed."))
    yield _answer(
        _status(REFUSED), errors.UpstreamMisconfigured("The model refuses our credential.")
    )
    yield _answer(_status(ODD), errors.UpstreamFailed("The model's answer has an odd status."))
    # A 401 of Envoy's own, which is not the client's to mend.
    yield _answer(
        _cel(_NO_CREDENTIAL), errors.UpstreamMisconfigured("The model's credential is missing.")
    )
    yield _answer(
        _cel(_PROCESSOR_LOST),
        RouterUnavailable("The router is temporarily unavailable.", retry_after=1),
    )
    # The cluster was rejected, as for a key's variable that does not exist.
    yield _answer(
        _flags("NC"), errors.UpstreamMisconfigured("The model's configuration is rejected.")
    )
    yield _answer(
        _either(_flags("UO", "OM"), _cel(_OVERLOADED)),
        errors.Overloaded("Too much is under way at once.", retry_after=1),
    )


def _of_clients() -> Iterator[hcm.ResponseMapper]:
    """What clients may do about, each with its status."""
    yield _answer(_status(413), errors.BodyTooLarge("The request body is too large."))
    yield _answer(_status(404), UnknownPath())
    yield _answer(
        _cel(_UPGRADE), Refused(400, "upgrade_unsupported", "The connection cannot be upgraded.")
    )
    yield from (_answer(_status(each.status), each) for each in _REFUSALS)
    yield _answer(
        _status(501), Refused(400, "invalid_request", "The transfer encoding is not known.")
    )


def _of_the_rest() -> Iterator[hcm.ResponseMapper]:
    """Backends that cannot be reached, filters that fail, and statuses that say nothing more."""
    yield _answer(
        _flags("UF", "UH", "DF"), errors.UpstreamFailed("The model could not be reached.")
    )
    failed = errors.UpstreamFailed("The model gave no usable answer.")
    yield _answer(_both(_from(500), _either(_flags(*_UPSTREAM_FLAGS), _cel(_UPSTREAM))), failed)
    yield _answer(
        _status(503), Unavailable("The service is temporarily unavailable.", retry_after=1)
    )
    yield _answer(_from(500), errors.InternalError(), keep_status=True)
    malformed = errors.InvalidRequest(
        "Envoy cannot read the request, or a filter finds it invalid."
    )
    yield _answer(_status(400), malformed)
    yield _answer(
        _from(400), Refused(400, "request_refused", "The request was refused."), keep_status=True
    )


def egress() -> hcm.LocalReplyConfig:
    """The status stays Envoy's, and its response flags tell the processor why, and that no model said it."""
    failed = errors.UpstreamFailed("Envoy could not reach the model.")
    reply = _answer(_from(400), failed, keep_status=True)
    reply.headers_to_add = [header("x-looper-flags", "%RESPONSE_FLAGS%")]
    return hcm.LocalReplyConfig(mappers=[_untouched(), reply])


def _untouched() -> hcm.ResponseMapper:
    return hcm.ResponseMapper(filter=_cel(_OWN))


def _answer(
    when: accesslog.AccessLogFilter,
    error: errors.LooperError | Refused,
    *,
    keep_status: bool = False,
) -> hcm.ResponseMapper:
    added = []
    if error.retry_after is not None:
        waiting = header("retry-after", str(error.retry_after))
        waiting.append_action = core.HeaderValueOptionHeaderAppendAction.ADD_IF_ABSENT
        added.append(waiting)
    if error.retry is not None:
        added.append(header("x-should-retry", "true" if error.retry else "false"))
    return hcm.ResponseMapper(
        filter=when,
        status_code=None if keep_status else error.status,
        headers_to_add=added,
        body_format_override=json_body(literal(error.to_json().decode())),
    )


def _status(code: int) -> accesslog.AccessLogFilter:
    return _compare(accesslog.ComparisonFilterOp.EQ, code)


def _from(code: int) -> accesslog.AccessLogFilter:
    return _compare(accesslog.ComparisonFilterOp.GE, code)


def _compare(op: accesslog.ComparisonFilterOp, code: int) -> accesslog.AccessLogFilter:
    # Envoy insists on a runtime key; nothing sets it.
    value = core.RuntimeUInt32(default_value=code, runtime_key=f"looper.local_reply.{code}")
    return accesslog.AccessLogFilter(
        status_code_filter=accesslog.StatusCodeFilter(
            comparison=accesslog.ComparisonFilter(op=op, value=value)
        )
    )


def _both(*filters: accesslog.AccessLogFilter) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(and_filter=accesslog.AndFilter(filters=list(filters)))


def _either(*filters: accesslog.AccessLogFilter) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(or_filter=accesslog.OrFilter(filters=list(filters)))


def _flags(*flags: str) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(
        response_flag_filter=accesslog.ResponseFlagFilter(flags=list(flags))
    )


def _cel(expression: str) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(
        extension_filter=accesslog.ExtensionFilter(
            name="envoy.access_loggers.extension_filters.cel",
            typed_config=pack(cel.ExpressionFilter(expression=expression)),
        )
    )
