"""OpenAI's older API of functions, at the client's edge: whoever calls models knows tools only.

A request is put in the API of tools, and what a team answers in that of functions. A call has no id there: one of a
run that waits for it goes to the client, and comes back, as white space behind the function's arguments.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Annotated, Any, TypeVar

import msgspec

from looper.calling.trace import Trace
from looper.errors import InvalidField
from looper.patterns.workflows.pauses.ids import is_ours
from looper.patterns.workflows.pauses.white_space import read, written
from looper.patterns.workflows.tools import ONLY_ONE
from looper.run import Emit, Heartbeat
from looper.wire.chat import ChatRequest, Message, explain, says
from looper.wire.events import Delta, Event, Finish

T = TypeVar("T")
_encode = msgspec.json.encode
_array = msgspec.json.Decoder(list[msgspec.Raw])
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_Name = Annotated[str, msgspec.Meta(min_length=1)]


class _Named(msgspec.Struct, frozen=True):
    """A function that is offered or chosen, or a message with what came of one."""

    name: _Name


class _Called(msgspec.Struct, frozen=True):
    """The call of a function, in a message of the assistant."""

    name: _Name
    arguments: str


_named = msgspec.json.Decoder(_Named)
_called = msgspec.json.Decoder(_Called)


# The request...


def with_tools(request: ChatRequest) -> ChatRequest:
    """The same in the API of tools; the very same object if that is what it is in. Raises InvalidField."""
    if not _knows_functions(request):
        return request
    changes = {**_offered(request), **_conversation(request)}
    if not _knows_tools(request):
        changes["parallel_tool_calls"] = b"false"
    asked = ChatRequest.parse(request.edited(changes, ("functions", "function_call")))
    asked.fingerprint = request.fingerprint
    return asked


def goes_on(request: ChatRequest) -> bool:
    """Whether a conversation ends with what came of a function that a run of ours has asked for."""
    *_, call, result = (None, *request.messages)
    if result.role != "function" or call is None or not call.calls_function:
        return False
    try:
        return read(msgspec.json.decode(call.function_call, type=_Called).arguments)[1] is not None
    except msgspec.DecodeError:
        return False


def _knows_functions(request: ChatRequest) -> bool:
    offers = not request.members.keys().isdisjoint(("functions", "function_call"))
    return offers or _speaks_of_functions(request)


def _speaks_of_functions(request: ChatRequest) -> bool:
    return any(each.role == "function" or each.calls_function for each in request.messages)


def _knows_tools(request: ChatRequest) -> bool:
    return says(request.members.get("tools"))


def _offered(request: ChatRequest) -> dict[str, bytes]:
    """The functions, each the very bytes that came, and which of them may or must be called."""
    functions = request.read("functions", list[_Named] | None) or []
    choice = request.read("function_call", str | _Named | None)
    _check(choice, [each.name for each in functions])
    if not functions:
        return {}
    for name in ("tools", "tool_choice"):
        if says(request.members.get(name)):
            raise InvalidField(f"`functions` and `{name}` do not go together.", param=name)
    tools = [_tool(raw) for raw in _array.decode(request.members["functions"])]
    offered = {"tools": _list(tools)}
    if choice is not None:
        raw = request.members["function_call"]
        offered["tool_choice"] = bytes(raw) if isinstance(choice, str) else _tool(raw)
    return offered


def _check(choice: str | _Named | None, names: Iterable[str]) -> None:
    match choice:
        case None | "none" | "auto":
            return
        case _Named(name=name) if name in names:
            return
        case _Named():
            problem = "names a function that is not among `functions`"
        case _:
            problem = 'is neither "none" nor "auto", nor names a function'
    raise InvalidField(f"`function_call` {problem}.", param="function_call")


def _tool(function: msgspec.Raw) -> bytes:
    return b'{"type":"function","function":%b}' % bytes(function)


def _list(items: Iterable[bytes]) -> bytes:
    return b"[%b]" % b",".join(items)


# ... its conversation...


def _conversation(request: ChatRequest) -> dict[str, bytes]:
    """The messages, if any of them is of functions."""
    if not _speaks_of_functions(request):
        return {}
    raws = _array.decode(request.members["messages"])
    return {"messages": _list(_in_tools(request.messages, raws))}


def _in_tools(messages: list[Message], raws: list[msgspec.Raw]) -> Iterator[bytes]:
    """The messages, such that upstreams take them: behind every call its result, and before every result its call."""
    called: str | None = None
    followers = chain(messages[1:], (None,))
    for at, (message, raw, next_) in enumerate(zip(messages, raws, followers, strict=True)):
        if message.role == "function":
            if called is None:
                called = _id(at)
                yield _unknown_call(called, _decoded(_named, raw, f"messages[{at}]").name)
            yield _result(raw, called, at)
            called = None
            continue
        if called is not None:
            yield _no_result(called)
            called = None
        if message.calls_function:
            answered = next_ is not None and next_.role == "function"
            called, said = _call(message, raw, at, answered=answered)
            yield said
        else:
            yield bytes(raw)
    if called is not None:
        yield _no_result(called)


def _call(message: Message, raw: msgspec.Raw, at: int, *, answered: bool) -> tuple[str, bytes]:
    """The id of a call, and the message that makes it. An id of ours is that of a call which has a result."""
    place = f"messages[{at}].function_call"
    if says(message.tool_calls):
        raise InvalidField(f"`{place}` and `tool_calls` do not go together.", param="messages")
    arguments, hidden = read(_decoded(_called, message.function_call, place).arguments)
    id = hidden if hidden is not None and answered else _id(at)
    said = _members.decode(raw)
    function: Any = said.pop("function_call")
    if hidden is not None:
        function = {**_members.decode(function), "arguments": arguments}
    calls = [{"id": id, "type": "function", "function": function}]
    return id, _encode({**said, "tool_calls": calls})


def _result(raw: msgspec.Raw, id: str, at: int) -> bytes:
    """A message of a tool. Its content is a text there, and not null."""
    _decoded(_named, raw, f"messages[{at}]")
    said = _members.decode(raw)
    text: dict[str, Any] = {} if bytes(said.get("content", b"null")) != b"null" else {"content": ""}
    return _encode({**said, **text, "role": "tool", "tool_call_id": id})


def _unknown_call(id: str, name: str) -> bytes:
    function = {"name": name, "arguments": "{}"}
    calls = [{"id": id, "type": "function", "function": function}]
    return _encode({"role": "assistant", "content": None, "tool_calls": calls})


def _no_result(id: str) -> bytes:
    return _encode({"role": "tool", "tool_call_id": id, "content": ""})


def _id(at: int) -> str:
    """An id for a call that has none: the same in every turn, so that upstreams know the prompt's beginning again."""
    return f"call_function_{at}"


def _decoded(decoder: msgspec.json.Decoder[T], raw: msgspec.Raw, place: str) -> T:
    try:
        return decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise InvalidField(explain(place, error), param="messages") from None


# ... and the answer.


def for_client(request: ChatRequest, emit: Emit, trace: Trace) -> Emit:
    """What takes a run's events, such that who sent this request reads of functions if those are what it knows."""
    if _knows_tools(request) or not _knows_functions(request):
        return emit
    return _Answer(emit, trace).add


@dataclass(slots=True)
class _Call:
    """The call that a choice makes, as far as it has come: the first one, if a model makes several."""

    index: int
    id: str = ""
    named: bool = False
    blank: bool = True

    def hear(self, bit: dict[str, Any]) -> Iterator[dict[str, str]]:
        """A bit of it, as clients of functions read it: first its name, and then its arguments."""
        self.id = bit.get("id") or self.id
        function = bit.get("function") or {}
        name, arguments = function.get("name"), function.get("arguments")
        if name and not self.named:
            self.named = True
            yield {"name": name, "arguments": ""}
        if arguments:
            self.blank = self.blank and not arguments.strip()
            yield {"arguments": arguments}

    def end(self) -> Iterator[dict[str, str]]:
        """What makes the call known again when its result comes, if a run waits for it."""
        if is_ours(self.id):
            yield {"arguments": ("{}" if self.blank else "") + written(self.id)}


@dataclass(slots=True)
class _Answer:
    """Hands on a team's answer with calls of functions in place of tools'."""

    emit: Emit
    trace: Trace
    calls: dict[int, _Call] = field(default_factory=dict)
    said: bool = False

    async def add(self, event: Event | Heartbeat) -> None:
        for each in self._in_functions(event):
            await self.emit(each)

    def _in_functions(self, event: Event | Heartbeat) -> Iterator[Event | Heartbeat]:
        match event:
            case Delta(kind="tool_calls"):
                for bit in self._of_the_first(event):
                    yield Delta("function_call", bit, event.choice)
            case Finish():
                call = self.calls.get(event.choice)
                for bit in call.end() if call is not None else ():
                    yield Delta("function_call", bit, event.choice)
                older = event.reason == "tool_calls"
                yield replace(event, reason="function_call") if older else event
            case _:
                yield event

    def _of_the_first(self, delta: Delta) -> Iterator[dict[str, str]]:
        for bit in delta.value:
            index = bit.get("index", 0)
            call = self.calls.setdefault(delta.choice, _Call(index))
            if index == call.index:
                yield from call.hear(bit)
            elif not self.said:
                self.said = True
                self.trace.note(ONLY_ONE)
