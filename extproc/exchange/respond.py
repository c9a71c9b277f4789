"""How a decision's own answer reaches the client: in the shape that it waits for, at once, and for nothing."""

import msgspec

from extproc.decisions.canned import Canned
from extproc.protocol.actions import Headers, Metadata, Respond
from looper.wire.answer import Chunks, Whole
from looper.wire.chat import NO_USAGE, ChatRequest
from looper.wire.events import Delta, Done, Finish

_JSON: Headers = (("content-type", "application/json"),)
_SSE: Headers = (("content-type", "text/event-stream"), ("cache-control", "no-cache"))
# The same request would get the same answer, which official SDKs do not know.
_IN_VAIN: Headers = (("x-should-retry", "false"),)


def respond(canned: Canned, request: ChatRequest, headers: Headers, metadata: Metadata) -> Respond:
    """The answer as one message of Envoy's, a stream's frames and all: there is nothing in it to wait for."""
    if canned.status != 200:
        said, body = (*_JSON, *_IN_VAIN), _error(canned)
    elif request.stream:
        said, body = _SSE, _stream(canned.message, request)
    else:
        said, body = _JSON, _whole(canned.message, request)
    return Respond(canned.status, (*said, *headers), body, "looper.respond", metadata)


def _events(message: str) -> tuple[Delta, Finish, Done]:
    return Delta("content", message), Finish("stop"), Done(NO_USAGE, "ok")


def _whole(message: str, request: ChatRequest) -> bytes:
    answer = Whole(request)
    for event in _events(message):
        answer.add(event)
    return answer.to_json()


def _stream(message: str, request: ChatRequest) -> bytes:
    chunks = Chunks(request)
    return chunks.opening() + b"".join(chunks.frames(event) for event in _events(message))


def _error(canned: Canned) -> bytes:
    error = {
        "message": canned.message,
        "type": _error_type(canned.status),
        "param": None,
        "code": canned.code,
    }
    return msgspec.json.encode({"error": error})


def _error_type(status: int) -> str:
    match status:
        case 401:
            return "authentication_error"
        case 403:
            return "permission_error"
        case 429:
            return "rate_limit_error"
        case _:
            return "invalid_request_error" if status < 500 else "server_error"
