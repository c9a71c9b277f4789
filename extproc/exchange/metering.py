"""What is done to a routed answer on its way back: the client's name of the model goes in, and usage is read."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec
import structlog

from extproc.protocol.actions import Metadata
from looper.calling.budget import NOTHING, Grant
from looper.calling.drafts import LIMITS
from looper.calling.heard import Heard
from looper.calling.models import Model
from looper.errors import InvalidJson, InvalidRequest
from looper.wire.chat import ChatRequest, Completion, Request, Usage
from looper.wire.json_object import JsonObject
from looper.wire.reading.answers import AnswerReader, NoAnswer
from looper.wire.sse import DONE

_log = structlog.get_logger()

MAX_EVENT = 4 << 20
"""Bytes of one event of a stream. A larger one, and what follows it, passes as it is."""

MAX_WHOLE = 16 << 20
"""Bytes of an unstreamed answer, which is held until it is complete. A larger one passes as it is."""

_LINE_END = rb"(?:\n|\r\n|\r(?=[^\n]))"  # a CR tells only by what follows whether it ends the line
_EVENT_END = re.compile(_LINE_END + _LINE_END)
_EVENT_END_BYTES = 4
_DATA = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?|[\r\n])data: ?([^\r\n]*)")
_SPACE = re.compile(rb"[ \t\r\n]*")
_NO_CHOICES = re.compile(rb"null|(?:\[[ \t\r\n]*\])?")

Edit = Callable[[bytes], bytes | None]
"""What a client is to see in place of a JSON object; None: nothing. Raises InvalidJson for anything else."""


class AnswerMeter:
    """Meters one routed answer.

    No answer may suffer from that: what is not understood passes byte for byte, and nothing waits but for the rest of
    its own event, or of its own JSON.
    """

    def __init__(self, request: Request, model: Model) -> None:
        self._request = request
        self._chat = isinstance(request, ChatRequest)
        self.request_changes = _ask_for_usage(request, model)
        self._model = model
        self._name = msgspec.json.encode(request.model)
        self._passage: Passage = Untouched()
        self._report: dict[str, str | int] = {}
        self._reader = AnswerReader()
        self._heard: Heard | None = None
        self._told: Usage | None = None

    def begin(self, headers: Mapping[str, str]) -> None:
        """The answer's headers are known."""
        encoding = headers.get("content-encoding", "identity")
        if headers.get(":status") != "200" or encoding != "identity":
            return
        self._heard = _heard(self._request, self._model)
        match headers.get("content-type", "").partition(";")[0].strip().lower():
            case "text/event-stream" if self._chat:
                self._passage = Events(self._edit_chunk)
            case "application/json" if self._chat:
                self._passage = Whole(self._edit)
            case "application/json":
                self._passage = Watched(Whole(self._edit))
            case _:
                pass

    def feed(self, data: bytes, end_of_stream: bool) -> bytes:
        """What the client gets in place of this piece."""
        try:
            passed = self._passage.feed(data, end_of_stream)
        except Exception:
            _log.exception("metering.crashed")
            passed = self._passage.held + data
            self._give_up()
        if self._passage.too_large:
            self._give_up()
        if end_of_stream:
            self._close()
        return passed

    def report(self) -> Metadata:
        """What has become known since the last report."""
        report, self._report = self._report, {}
        return report

    def _give_up(self) -> None:
        self._passage, self._heard = Untouched(), None
        self._report |= {"unmetered": 1}

    def _edit_chunk(self, data: bytes) -> bytes | None:
        if data.strip() == DONE:
            self._close()
        chunk = JsonObject.parse(data)
        self._hear(self._reader.chunk, data)
        if not self.request_changes:
            return self._restored(chunk)
        # The client did not ask for what stands here because we did.
        usage = bytes(chunk.members.get("usage", b""))
        if usage == b"null":
            return self._restored(chunk, without="usage")
        restored = self._restored(chunk)
        choices = bytes(chunk.members.get("choices", b""))
        return None if usage and _NO_CHOICES.fullmatch(choices) else restored

    def _edit(self, data: bytes) -> bytes:
        answer = JsonObject.parse(data)
        self._hear(self._reader.whole, data)
        self._close()
        return self._restored(answer)

    def _hear(self, read: Callable[[bytes], Completion], data: bytes) -> None:
        """What the backend says of its usage is told at once: who knows whether its client waits for more."""
        if self._heard is None:
            return
        try:
            completion = read(data)
        except NoAnswer:
            return
        self._heard.add(completion)
        usage = self._heard.usage if completion.usage is not None else None
        if usage is not None and not usage.estimated:
            self._tell(usage)

    def _close(self) -> None:
        """Nothing more will be said: what the backend has not said of its usage is estimated, as it is for teams."""
        usage = None if self._heard is None else self._heard.usage
        if usage is not None and usage != self._told:
            self._tell(usage)
        self._heard = None

    def _tell(self, usage: Usage) -> None:
        self._told = usage
        self._report |= _reported(usage, self._model)

    def _restored(self, answer: JsonObject, without: str | None = None) -> bytes:
        """The answer with the client's name of the model in it."""
        named = bytes(answer.members.get("model", b"")).startswith(b'"')
        return answer.edited({"model": self._name} if named else {}, without=without)


def _ask_for_usage(request: Request, model: Model) -> dict[str, bytes]:
    """The member that makes a backend report the usage of a stream, unless the client asks for it already."""
    dialect = model.declared_dialect
    if not isinstance(request, ChatRequest) or (dialect and "stream_options" in dialect.drop):
        return {}
    try:
        if not request.stream or request.include_usage:
            return {}
        options = bytes(request.members.get("stream_options", b"null"))
        options = b"{}" if options == b"null" else options
        return {"stream_options": JsonObject.parse(options).edited({"include_usage": b"true"})}
    except InvalidRequest:
        return {}  # the backend will say what is wrong with it


def _heard(request: Request, model: Model) -> Heard:
    """What will be known of the answer's usage. Of other requests than chats nothing is estimated."""
    if not isinstance(request, ChatRequest):
        return Heard(0, Grant(NOTHING, None, 0), model)
    limits = (request.positive_or_none(name) for name in LIMITS)
    limit = next((limit for limit in limits if limit is not None), None)
    grant = Grant(NOTHING, limit, 0, request.positive_or_none("n") or 1)
    return Heard(request.prompt_tokens, grant, model)


def _reported(usage: Usage, model: Model) -> dict[str, int]:
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    report = {"prompt_tokens": prompt, "completion_tokens": completion}
    if usage.estimated:
        report["estimated_tokens"] = usage.estimated
    if model.price is not None:
        cost = prompt * model.price.input + completion * model.price.output
        report["cost_microusd"] = math.ceil(cost)
    return report


class Passage(Protocol):
    """A way for the pieces of an answer to reach the client."""

    @property
    def held(self) -> bytes:
        """What has come and not gone on yet."""
        ...

    @property
    def too_large(self) -> bool:
        """It was more than may be held, so from now on nothing is."""
        ...

    def feed(self, data: bytes, end_of_stream: bool) -> bytes:
        """What is to go on now. If this raises, nothing has: `held` and `data` are still to go."""
        ...


class Untouched:
    """Every piece goes on as it is."""

    held = b""
    too_large = False

    def feed(self, data: bytes, end_of_stream: bool) -> bytes:
        return data


class Events:
    """Server-sent events, each going on when it is complete; all but the data of an event stays as it is."""

    def __init__(self, edit: Edit) -> None:
        self._edit = edit
        self.held = b""
        self.too_large = False

    def feed(self, data: bytes, end_of_stream: bool) -> bytes:
        buffer = self.held + data
        passed: list[bytes] = []
        at = 0
        for end in self._ends(buffer, end_of_stream):
            if end - at > MAX_EVENT:
                break
            passed.append(self._edited(buffer[at:end]))
            at = end
        rest = buffer[at:]
        if len(rest) > MAX_EVENT:
            self.too_large = True
            passed.append(rest)
            rest = b""
        self.held = rest
        return b"".join(passed)

    def _ends(self, buffer: bytes, end_of_stream: bool) -> list[int]:
        searched = max(0, len(self.held) - _EVENT_END_BYTES)
        ends = [found.end() for found in _EVENT_END.finditer(buffer, searched)]
        return [*ends, len(buffer)] if end_of_stream else ends

    def _edited(self, event: bytes) -> bytes:
        lines = [found.span(1) for found in _DATA.finditer(event)]
        if len(lines) != 1:
            return event  # a comment; or JSON over several lines, which nobody sends
        ((start, stop),) = lines
        try:
            data = self._edit(event[start:stop])
        except InvalidJson:
            return event  # as `[DONE]` is
        return b"" if data is None else event[:start] + data + event[stop:]


class Whole:
    """One JSON object, which goes on when it is complete.

    That is not left to the end of the stream: where trailers follow, Envoy does not tell of it.
    """

    def __init__(self, edit: Edit) -> None:
        self._edit = edit
        self._pieces: list[bytes] = []
        self._size = 0
        self._done = False
        self._opened = False  # whether more than white space has come
        self._read = 0  # bytes that were read without finding the object complete
        self.too_large = False

    @property
    def held(self) -> bytes:
        return b"".join(self._pieces)

    def feed(self, data: bytes, end_of_stream: bool) -> bytes:
        if self._done:
            return data
        self.too_large = self._size + len(data) > MAX_WHOLE
        if self.too_large or not self._is_object(data):
            return self._let_go(self.held + data)
        if end_of_stream or self._may_be_complete(data):
            whole = self.held + data
            try:
                return self._let_go(self._edit(whole) or b"")
            except InvalidJson:
                self._read += len(whole)
            if end_of_stream:
                return self._let_go(whole)
        self._pieces.append(data)
        self._size += len(data)
        return b""

    def _is_object(self, data: bytes) -> bool:
        """What has come may be one, as far as it goes."""
        if not self._opened:
            begin = _SPACE.match(data)
            assert begin is not None
            self._opened = begin.end() < len(data)
            return data.startswith(b"{", begin.end()) or not self._opened
        return True

    def _may_be_complete(self, data: bytes) -> bool:
        # Each try reads all there is, so a long answer that seems to end with every piece is not tried each time.
        return data[-64:].rstrip().endswith(b"}") and self._read <= 4 * (self._size + (1 << 20))

    def _let_go(self, data: bytes) -> bytes:
        self._done = True
        self._pieces.clear()
        return data


class Watched:
    """Every piece goes on as it is; a copy of the whole is read."""

    held = b""

    def __init__(self, whole: Whole) -> None:
        self._whole = whole

    @property
    def too_large(self) -> bool:
        return self._whole.too_large

    def feed(self, data: bytes, end_of_stream: bool) -> bytes:
        self._whole.feed(data, end_of_stream)
        return data
