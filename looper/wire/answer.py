"""Turns a run's events into what an OpenAI client reads: one completion, or a stream of chunks."""

import secrets
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from looper.errors import LooperError
from looper.wire.chat import ChatRequest, Usage
from looper.wire.deltas import merge_logprobs, merge_members, merge_tool_call
from looper.wire.events import Delta, Done, Event, Finish, Progress, Speaker
from looper.wire.sse import DONE, encode_comment, encode_event

_encode = msgspec.json.encode


Count = Literal["sum", "final"]
"""What an answer's usage counts: every call of the run, or the one that wrote the answer."""


def _counted(done: Done, count: Count) -> dict[str, object]:
    """The usage, with what it leaves out beside it."""
    beside: dict[str, object] = {}
    counted, other = done.usage, done.final
    if count == "final" and done.final is not None:
        counted, other = done.final, done.usage
    if other is not None:
        beside |= {"final" if count == "sum" else "sum": other.to_dict()}
    if counted.estimated:
        beside |= {"estimated_tokens": counted.estimated}
    return {**counted.to_dict(), "looper": beside} if beside else counted.to_dict()


def completion_id() -> str:
    """A new id, unlike any other."""
    return f"chatcmpl-{secrets.token_urlsafe(18)}"


@dataclass(slots=True)
class _Choice:
    """One choice of the answer, as far as it has come."""

    message: dict[str, Any] = field(default_factory=lambda: {"role": "assistant", "content": None})
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    logprobs: dict[str, Any] | None = None
    members: dict[str, Any] = field(default_factory=dict)
    finish: str = "stop"
    native: str | None = None
    model: str | None = None

    def add(self, delta: Delta) -> None:
        match delta.kind:
            case "tool_calls":
                for call in delta.value:
                    merge_tool_call(self.calls, call)
            case "function_call":
                call = self.message.setdefault("function_call", {"name": "", "arguments": ""})
                for name, part in delta.value.items():
                    call[name] += part
            case "members":
                merge_members(self.members, delta.value)
            case "logprobs":
                self.logprobs = merge_logprobs(self.logprobs, delta.value)
            case kind:
                self.message[kind] = (self.message.get(kind) or "") + delta.value

    def to_dict(self, index: int) -> dict[str, Any]:
        if self.calls:
            self.message["tool_calls"] = [self.calls[at] for at in sorted(self.calls)]
        return {
            "index": index,
            **({} if self.model is None else {"model": self.model}),
            "message": {**self.members, **self.message},
            "logprobs": self.logprobs,
            "finish_reason": self.finish,
            **({} if self.native is None else {"native_finish_reason": self.native}),
        }


class Whole:
    """Gathers events into one completion."""

    def __init__(self, request: ChatRequest, count: Count = "sum") -> None:
        self._request = request
        self._count = count
        self._choices: defaultdict[int, _Choice] = defaultdict(_Choice)
        self._usage: dict[str, object] = Usage().to_dict()

    def add(self, event: Event) -> None:
        match event:
            case Speaker():
                self._choices[event.choice].model = event.model
            case Delta():
                self._choices[event.choice].add(event)
            case Finish():
                choice = self._choices[event.choice]
                choice.finish, choice.native = event.reason, event.native
            case Done():
                self._usage = _counted(event, self._count)
            case Progress():
                pass

    def to_json(self) -> bytes:
        choices = self._choices or {0: _Choice()}
        return _encode(
            {
                "id": completion_id(),
                "object": "chat.completion",
                "created": int(time.time()),
                "model": self._request.model,
                "choices": [choices[index].to_dict(index) for index in sorted(choices)],
                "usage": self._usage,
            }
        )


class Chunks:
    """Writes events as the frames of a stream: role first, one finish, usage only if asked for, one [DONE]."""

    def __init__(self, request: ChatRequest, count: Count = "sum") -> None:
        self._include_usage = request.include_usage
        self._count = count
        self._speakers: dict[int, str] = {}
        self._head = {
            "id": completion_id(),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": request.model,
        }

    def opening(self) -> bytes:
        """The first frame: the role."""
        return self._frame({"role": "assistant", "content": ""}, 0)

    def comment(self) -> bytes:
        """A frame that says nothing, but shows that something is still going on."""
        return encode_comment("working")

    def frames(self, event: Event) -> bytes:
        match event:
            case Speaker():
                self._speakers[event.choice] = event.model
                # The first choice's role opened the stream.
                role = {"role": "assistant", "content": ""}
                return self._frame(role, event.choice) if event.choice else b""
            case Delta(kind="logprobs"):
                return self._frame({}, event.choice, logprobs=event.value)
            case Delta(kind="members"):
                return self._frame(event.value, event.choice)
            case Delta():
                return self._frame({event.kind: event.value}, event.choice)
            case Finish():
                return self._frame({}, event.choice, finish=event.reason, native=event.native)
            case Done():
                return self._usage(event) + encode_event(DONE)
            case Progress():
                return b""

    def failed(self, error: LooperError, facts: Mapping[str, Any] | None = None) -> bytes:
        """What ends a stream that was begun and cannot be finished."""
        return encode_event(error.to_json(facts)) + encode_event(DONE)

    def _frame(
        self,
        delta: dict[str, Any],
        index: int,
        *,
        finish: str | None = None,
        native: str | None = None,
        logprobs: Any = None,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        if native is not None:
            choice["native_finish_reason"] = native
        if index in self._speakers:
            choice["model"] = self._speakers[index]
        chunk = {**self._head, "choices": [choice]}
        if self._include_usage:
            chunk["usage"] = None
        return encode_event(_encode(chunk))

    def facts(self, facts: dict[str, Any]) -> bytes:
        """A frame for clients that asked what their run did."""
        return encode_event(_encode({**self._head, "choices": [], "looper": facts}))

    def _usage(self, done: Done) -> bytes:
        if not self._include_usage:
            return b""
        usage = _counted(done, self._count)
        return encode_event(_encode({**self._head, "choices": [], "usage": usage}))
