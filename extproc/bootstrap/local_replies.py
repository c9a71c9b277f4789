"""Envoy's own error answers, in the shape in which OpenAI's clients read errors.

The first mapper whose filter matches is the one that answers, so their order is part of their meaning. Nothing
here repeats Envoy's response code details to a client: they hold socket paths and exceptions.
"""

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


REFUSED = 599
"""The status, which nobody else uses, of a local reply in place of a backend's 401 or 403."""


class UnknownPath(errors.InvalidRequest):
    """Nothing answers under this path."""

    status = 404
    code = "unknown_path"

    def __init__(self) -> None:
        super().__init__("Nothing answers under this path.")


class RequestTimeout(errors.InvalidRequest):
    """The client did not finish its request."""

    status = 408
    code = "request_timeout"


class RouterUnavailable(errors.LooperError):
    """No processor took the request, or the one that had it is gone."""

    status = 503
    code = "router_unavailable"


def ingress() -> hcm.LocalReplyConfig:
    """Every local reply of 400 and above, except for those that are ours to begin with."""
    return hcm.LocalReplyConfig(
        mappers=[
            _untouched(),
            # Before the processor's failures: a message timeout of the filter is one of them, and a 504.
            _answer(_status(504), errors.DeadlineExceeded("The deadline has passed.")),
            _answer(
                _status(REFUSED), errors.UpstreamMisconfigured("The model refuses our credential.")
            ),
            _answer(_status(413), errors.BodyTooLarge("The request body is too large.")),
            _answer(_status(404), UnknownPath()),
            _answer(_status(408), RequestTimeout("The request was not finished in time.")),
            _answer(
                _cel(_PROCESSOR_LOST),
                RouterUnavailable("The router is temporarily unavailable.", retry_after=1),
            ),
            _answer(
                _cel(_NO_CREDENTIAL),
                errors.UpstreamMisconfigured("The model's credential is missing."),
            ),
            # The cluster was rejected, as for a key's variable that does not exist.
            _answer(
                _flags("NC"), errors.UpstreamMisconfigured("The model's configuration is rejected.")
            ),
            _answer(
                _flags("UO", "OM"),
                errors.Overloaded("Too much is under way at once.", retry_after=1),
            ),
            # A transfer encoding that Envoy does not know.
            _answer(_status(501), errors.InvalidRequest("The request is not valid.")),
            _answer(_from(500), errors.UpstreamFailed("The model gave no usable answer.")),
            _answer(
                _from(400), errors.InvalidRequest("The request is not valid."), keep_status=True
            ),
        ]
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
    when: accesslog.AccessLogFilter, error: errors.LooperError, *, keep_status: bool = False
) -> hcm.ResponseMapper:
    added = []
    if error.retry_after is not None:
        added.append(header("retry-after", str(error.retry_after)))
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
