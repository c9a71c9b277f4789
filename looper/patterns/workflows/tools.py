"""The client's tools, as agents call them: whose call is whose, and what is said of them upstream and to the client."""

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import msgspec

from looper.calling.trace import Trace
from looper.run import Pauses
from looper.wire.chat import ChatRequest, Completion, Reply
from looper.wire.deltas import merge_tool_call
from looper.wire.dialects import Dialect
from looper.wire.events import Delta
from looper.wire.messages import plain
from looper.wire.reading.call_bits import GIVEN

ToolCall = dict[str, Any]


ONLY_ONE = (
    "a model called several tools at once: the client, who takes one at a time, gets the first"
)
"""What a trace says of an answer that has more calls than its client takes."""


def calls_of(completion: Completion, request: ChatRequest, trace: Trace) -> list[ToolCall]:
    """The calls that an answer makes, each with an id that no other one has, and as many as the client takes."""
    reply = completion.choices[0].message or Reply()
    calls = with_ids(reply.tool_calls or [])
    if len(calls) > 1 and one_at_a_time(request):
        trace.note(ONLY_ONE)
        return calls[:1]
    return calls


def with_ids(calls: Iterable[ToolCall]) -> list[ToolCall]:
    """Calls whose ids can be told apart, whatever their backend sends."""
    seen: set[str] = set()
    known: list[ToolCall] = []
    for call in calls:
        id = call.get("id")
        if not isinstance(id, str) or not id or id in seen:
            id = f"call_{secrets.token_hex(12)}"
        seen.add(id)
        type = "custom" if call.get("type") == "custom" else "function"
        known.append({**call, "id": id, "type": type})
    return known


def as_said(
    texts: Mapping[str, str | None], calls: Sequence[ToolCall], dialect: Dialect
) -> msgspec.Raw:
    """The message with which a model called tools, for its own history; with its thoughts, if it may read them."""
    content, thoughts = texts.get("content") or None, texts.get("reasoning_content")
    message: dict[str, Any] = {"role": "assistant", "content": content, "tool_calls": calls}
    if thoughts and dialect.open:
        message["reasoning_content"] = thoughts
    return msgspec.Raw(msgspec.json.encode(message))


def as_shown(call: ToolCall, id: str, index: int) -> ToolCall:
    """A call as the client sees it: under an id of ours, with nothing of a vendor's in it."""
    ((type, called),) = _called(call).items()
    return {"index": index, "id": id, "type": type, type: {GIVEN[type]: "", **called}}


def _called(call: Mapping[str, Any]) -> dict[str, Any]:
    """Which tool a call names, and what it tells it; of a bit of a call, what of that is in it."""
    type = "custom" if call.get("type") == "custom" or "custom" in call else "function"
    said = call.get(type) or {}
    return {type: {part: said[part] for part in ("name", GIVEN[type]) if said.get(part)}}


class Outgoing:
    """The calls of an answer on its way out: the client gets ids of ours as they come, the model's own stay here."""

    def __init__(self, pauses: Pauses, request: ChatRequest, trace: Trace) -> None:
        self._pauses = pauses
        self._trace = trace
        self._one = one_at_a_time(request)
        self._more = False
        self._calls: dict[int, ToolCall] = {}
        self.ids: list[str] = []
        """What the client has for them, in their order."""

    def rewrite(self, delta: Delta) -> Iterator[Delta]:
        """What the client gets of a bit: nothing of a second call, if it takes one at a time."""
        shown = [self._call(call) for call in delta.value if self._takes(call.get("index", 0))]
        if shown:
            yield replace(delta, value=shown)

    def _takes(self, index: int) -> bool:
        if not self._one or not self._calls or index in self._calls:
            return True
        if not self._more:
            self._trace.note(ONLY_ONE)
        self._more = True
        return False

    def _call(self, call: Mapping[str, Any]) -> ToolCall:
        index = call.get("index", 0)
        new = index not in self._calls
        merge_tool_call(self._calls, call)
        if not new:
            return {"index": index, **_called(call)}
        self.ids.append(self._pauses.call())
        (type,) = called = _called(call)
        return {"index": index, "id": self.ids[-1], "type": type, **called}

    @cached_property
    def calls(self) -> list[ToolCall]:
        """What has been called, now that the answer is complete, in the order of `ids`."""
        return with_ids(self._calls.values())

    def owners(self, agent: str) -> dict[str, tuple[str, str]]:
        """By the id that the client has: whose call it was, which is this agent's, and its own id."""
        own = [(agent, call["id"]) for call in self.calls]
        return dict(zip(self.ids, own, strict=True))


def relaxed(request: ChatRequest) -> dict[str, bytes]:
    """What changes in a request whose tools have answered: a call that was wanted once is not wanted for ever."""
    match plain(request.members.get("tool_choice")):
        case "required" | {"type": "function" | "custom"}:
            return {"tool_choice": b'"auto"'}
        case {"type": "allowed_tools", "allowed_tools": {"mode": "required"} as allowed}:
            free = {"type": "allowed_tools", "allowed_tools": {**allowed, "mode": "auto"}}
            return {"tool_choice": msgspec.json.encode(free)}
        case _:
            return {}


def one_at_a_time(request: ChatRequest) -> bool:
    """Whether the client takes no more than one call in a turn."""
    return bytes(request.members.get("parallel_tool_calls", b"")) == b"false"
