"""Between Envoy's messages, as bytes, and our values. The only module that knows protobuf."""

import secrets
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TypeAlias, assert_never

from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct
from google.protobuf.struct_pb2 import Value as ProtobufValue

from extproc.errors import Overtaken, ProtocolError
from extproc.protocol._pb.ext_proc_pb2 import (
    HeaderMutation,
    HeaderValue,
    HttpHeaders,
    ImmediateResponse,
    ProcessingMode,
    ProcessingRequest,
    ProcessingResponse,
)
from extproc.protocol.actions import (
    Action,
    CloseStream,
    Headers,
    Metadata,
    OpenStream,
    PassBody,
    PassHeaders,
    PassResponseBody,
    PassResponseHeaders,
    PassResponseTrailers,
    PassTrailers,
    Respond,
    Rewrite,
    StreamData,
)
from extproc.protocol.events import (
    METADATA,
    BodyMode,
    Event,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    Value,
)

METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
NAMESPACE = "looper"
_ATTRIBUTES = "envoy.filters.http.ext_proc"
REWRITTEN = "looper.rewritten"
"""The namespace in which stands, as `length`, how many bytes a new body has: routes make `content-length` of it.

In full duplex, Envoy takes the header itself away, as it cannot know. Here alone both are written, so that they agree.
"""

MAX_CHUNK = 62_000
"""Bytes of body in one message; Envoy asks for no more than 64 KiB."""

_DECOMPRESSOR = "x-envoy-decompressor-"

_MODES = {
    ProcessingMode.FULL_DUPLEX_STREAMED: BodyMode.FULL_DUPLEX,
    ProcessingMode.BUFFERED: BodyMode.BUFFERED,
}
_METERED = {ProcessingMode.NONE: False, ProcessingMode.STREAMED: True}
Fact: TypeAlias = tuple[str, str | int]
_ANY_RUN = secrets.token_hex(8)
"""Stands for a run in what is built for all of them. Runs have as many letters."""

_CONTROL = bytes([*range(0x20), 0x7F])


def decode_first(message: bytes) -> RequestHeaders:
    """The first message of a stream, which says how the filter is set up.

    Raises ProtocolError if that is not a way in which requests can be answered, and Overtaken if this is not about a
    request at all, but about an answer that Envoy gave before it came to us.
    """
    request = _parse(message)
    config = request.protocol_config
    metered = _METERED.get(config.response_body_mode)
    if metered and request.WhichOneof("request") == "response_headers":
        raise Overtaken
    if request.WhichOneof("request") != "request_headers":
        raise ProtocolError("the filter must send request headers: set request_header_mode to SEND")
    if not request.HasField("protocol_config"):
        raise ProtocolError(
            "no protocol_config: observability_mode and Envoy before 1.38 are not supported"
        )
    mode = _MODES.get(config.request_body_mode)
    if mode is None:
        name = _name(config.request_body_mode)
        raise ProtocolError(
            f"request_body_mode {name} is not supported: use FULL_DUPLEX_STREAMED or BUFFERED"
        )
    if metered is None:
        name = _name(config.response_body_mode)
        raise ProtocolError(f"response_body_mode {name} is not supported: use NONE or STREAMED")
    headers = request.request_headers
    return RequestHeaders(
        _headers(headers), headers.end_of_stream, mode, metered, _attributes(request)
    )


def _headers(message: HttpHeaders) -> dict[str, str]:
    """By name; a header that came several times is one value."""
    headers: dict[str, str] = {}
    for header in message.headers.headers:
        value = (header.raw_value or header.value.encode()).decode("utf-8", "replace")
        key = header.key
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return headers


def _attributes(request: ProcessingRequest) -> dict[str, Value]:
    """Most filters send none, and only those that signals ask for."""
    attributes: dict[str, Value] = {}
    if _ATTRIBUTES in request.attributes:
        attributes |= _struct(request.attributes[_ATTRIBUTES])
    if request.HasField("metadata_context"):
        namespaces = request.metadata_context.filter_metadata
        attributes[METADATA] = {name: _struct(namespaces[name]) for name in namespaces}
    return attributes


def _struct(struct: Struct) -> dict[str, Value]:
    return {name: _value(value) for name, value in struct.fields.items()}


def _value(value: ProtobufValue) -> Value:
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            return value.number_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return _struct(value.struct_value)
        case "list_value":
            return [_value(each) for each in value.list_value.values]
        case _:
            return None


def _name(mode: ProcessingMode.BodySendMode) -> str:
    known = ProcessingMode.BodySendMode.values()
    return ProcessingMode.BodySendMode.Name(mode) if mode in known else str(mode)


def decode(message: bytes) -> Event:
    """Any later message of a stream. Raises ProtocolError for what the filter should not send."""
    request = _parse(message)
    match request.WhichOneof("request"):
        case "request_body":
            return RequestBody(request.request_body.body, request.request_body.end_of_stream)
        case "request_trailers":
            return RequestTrailers(_growth(request.request_trailers.trailers.headers))
        case "response_headers":
            headers = request.response_headers
            return ResponseHeaders(_headers(headers), headers.end_of_stream)
        case "response_body":
            return ResponseBody(request.response_body.body, request.response_body.end_of_stream)
        case "response_trailers":
            return ResponseTrailers()
        case other:
            raise ProtocolError(f"unexpected message: {other}")


def _growth(trailers: Iterable[HeaderValue]) -> float:
    """What Envoy's decompressors say in trailers that they add."""
    sizes = {
        trailer.key.removeprefix(_DECOMPRESSOR).partition("-")[2]: trailer.raw_value
        for trailer in trailers
        if trailer.key.startswith(_DECOMPRESSOR)
    }
    try:
        before, after = int(sizes["compressed-bytes"]), int(sizes["uncompressed-bytes"])
    except (KeyError, ValueError):
        return 0
    return after / max(1, before)


def _parse(message: bytes) -> ProcessingRequest:
    try:
        return ProcessingRequest.FromString(message)
    except DecodeError:
        raise ProtocolError("not a ProcessingRequest") from None


def encode(action: Action, mode: BodyMode) -> Iterator[bytes]:  # noqa: C901  # an arm for each action
    """The messages that make Envoy do `action`, in the order they must be sent."""
    match action:
        case PassHeaders():
            yield _PASS_HEADERS
        case PassBody():
            yield from _pass_body(action, mode)
        case PassTrailers():
            yield _PASS_TRAILERS
        case Rewrite():
            yield from (_rewrite_duplex if mode is BodyMode.FULL_DUPLEX else _rewrite_buffered)(
                action
            )
        case Respond():
            yield _respond(action)
        case OpenStream():
            yield _open_stream(action)
        case StreamData():
            yield from _stream_data(action.data)
        case CloseStream():
            yield from _close_stream(action)
        case PassResponseHeaders():
            yield _PASS_RESPONSE_HEADERS
        case PassResponseBody():
            yield _pass_response_body(action)
        case PassResponseTrailers():
            yield _PASS_RESPONSE_TRAILERS
        case _:
            assert_never(action)


def _pass_body(action: PassBody, mode: BodyMode) -> Iterator[bytes]:
    if mode is BodyMode.BUFFERED:
        yield _KEEP_BODY
    else:
        yield from _body_pieces(action.data, action.end_of_stream)


def _rewrite_duplex(action: Rewrite) -> Iterator[bytes]:
    yield _headers_reply(action) + _length(len(action.body))
    # With trailers to come, an end of stream on the body would hang the request.
    yield from _body_pieces(action.body, end_of_stream=not action.trailers)
    if action.trailers:
        yield _PASS_TRAILERS


def _headers_reply(action: Rewrite) -> bytes:
    """Of what a decision does to requests only the run differs, so its reply is built once, and the run filled in."""
    run = str(action.metadata.get("run", ""))
    if len(run) != len(_ANY_RUN):
        return _build_headers_reply(
            action.headers, action.appended, action.removed, tuple(action.metadata.items())
        )
    parts = _headers_template(
        tuple([(name, _ANY_RUN if value == run else value) for name, value in action.headers]),
        action.appended,
        action.removed,
        tuple(
            [(name, _ANY_RUN if value == run else value) for name, value in action.metadata.items()]
        ),
    )
    return run.encode().join(parts)


@lru_cache(maxsize=1024)
def _headers_template(
    headers: Headers, appended: Headers, removed: tuple[str, ...], facts: tuple[Fact, ...]
) -> list[bytes]:
    """What stands between the runs. Nobody can guess what stands for a run, and lengths are the same."""
    return _build_headers_reply(headers, appended, removed, facts).split(_ANY_RUN.encode())


def _build_headers_reply(
    headers: Headers, appended: Headers, removed: tuple[str, ...], facts: tuple[Fact, ...]
) -> bytes:
    response = ProcessingResponse()
    common = response.request_headers.response
    common.clear_route_cache = True
    _mutate(common.header_mutation, headers, appended, removed)
    _put(response, dict(facts))
    return response.SerializeToString()


def _rewrite_buffered(action: Rewrite) -> Iterator[bytes]:
    response = ProcessingResponse()
    common = response.request_body.response
    common.clear_route_cache = True
    # Envoy refuses a body of another length than it was promised.
    _mutate(common.header_mutation, action.headers, action.appended, action.removed)
    _set(common.header_mutation, (("content-length", str(len(action.body))),))
    common.body_mutation.body = action.body
    _put(response, action.metadata)
    yield response.SerializeToString() + _length(len(action.body))


@lru_cache(maxsize=4096)
def _length(size: int) -> bytes:
    """What is added to a message to tell the new body's length: of messages in a row, protobuf makes one."""
    response = ProcessingResponse()
    response.dynamic_metadata.update({REWRITTEN: {"length": str(size)}})
    return response.SerializeToString()


def _body_pieces(data: bytes, end_of_stream: bool) -> Iterator[bytes]:
    for start in range(0, len(data) or 1, MAX_CHUNK):
        piece = ProcessingResponse()
        streamed = piece.request_body.response.body_mutation.streamed_response
        streamed.body = data[start : start + MAX_CHUNK]
        streamed.end_of_stream = end_of_stream and start + MAX_CHUNK >= len(data)
        yield piece.SerializeToString()


def _respond(action: Respond) -> bytes:
    response = ProcessingResponse()
    immediate: ImmediateResponse = response.immediate_response
    immediate.status.code = action.status
    _set(immediate.headers, action.headers)
    immediate.body = action.body
    immediate.details = action.details
    _put(response, action.metadata)
    return response.SerializeToString()


def _open_stream(action: OpenStream) -> bytes:
    response = ProcessingResponse()
    opening: HttpHeaders = response.streamed_immediate_response.headers_response
    for name, value in ((":status", str(action.status)), *action.headers):
        opening.headers.headers.add(key=name, raw_value=_clean(value))
    _put(response, action.metadata)
    return response.SerializeToString()


def _stream_data(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), MAX_CHUNK):
        piece = ProcessingResponse()
        piece.streamed_immediate_response.body_response.body = data[start : start + MAX_CHUNK]
        yield piece.SerializeToString()


def _close_stream(action: CloseStream) -> Iterator[bytes]:
    *before, last = range(0, len(action.data) or 1, MAX_CHUNK)
    for start in before:
        yield from _stream_data(action.data[start : start + MAX_CHUNK])
    closing = ProcessingResponse()
    closing.streamed_immediate_response.body_response.body = action.data[last:]
    closing.streamed_immediate_response.body_response.end_of_stream = True
    _put(closing, action.metadata)
    yield closing.SerializeToString()


def _pass_response_body(action: PassResponseBody) -> bytes:
    if action.replacement is None and not action.metadata:
        return _KEEP_RESPONSE_BODY
    response = ProcessingResponse()
    response.response_body.SetInParent()
    if action.replacement:
        response.response_body.response.body_mutation.body = action.replacement
    elif action.replacement is not None:
        response.response_body.response.body_mutation.clear_body = True
    _put(response, action.metadata)
    return response.SerializeToString()


def _mutate(
    mutation: HeaderMutation, headers: Headers, appended: Headers, removed: tuple[str, ...]
) -> None:
    _set(mutation, headers)
    _set(mutation, appended, append=True)
    mutation.remove_headers.extend(removed)


def _set(mutation: HeaderMutation, headers: Headers, *, append: bool = False) -> None:
    for name, value in headers:
        option = mutation.set_headers.add()
        if append:
            option.append.value = True
        option.header.key = name
        option.header.raw_value = _clean(value)


def _put(response: ProcessingResponse, metadata: Metadata) -> None:
    if metadata:
        response.dynamic_metadata.update({NAMESPACE: dict(metadata)})


def _clean(value: str) -> bytes:
    # One control character in one value would make Envoy refuse the whole message.
    return value.encode().translate(None, _CONTROL)


def _constant(build: Callable[[ProcessingResponse], None]) -> bytes:
    response = ProcessingResponse()
    build(response)
    return response.SerializeToString()


# Without a change of headers the route is chosen again too: a header that a filter before us let through must
# not have chosen it.
_PASS_HEADERS = _constant(
    lambda response: setattr(response.request_headers.response, "clear_route_cache", True)
)
_KEEP_BODY = _constant(lambda response: response.request_body.SetInParent())
_PASS_TRAILERS = _constant(lambda response: response.request_trailers.SetInParent())
_PASS_RESPONSE_HEADERS = _constant(lambda response: response.response_headers.SetInParent())
_KEEP_RESPONSE_BODY = _constant(lambda response: response.response_body.SetInParent())
_PASS_RESPONSE_TRAILERS = _constant(lambda response: response.response_trailers.SetInParent())
