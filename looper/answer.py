"""Turns a run's events into what an OpenAI client reads: one completion, or a stream of chunks."""

import secrets
import time
from typing import Any

import msgspec

from looper.chat import ChatRequest, Usage
from looper.errors import LooperError
from looper.events import Delta, Done, Event, Finish, Progress
from looper.sse import DONE, encode_comment, encode_event

_encode = msgspec.json.encode


def completion_id() -> str:
    """A new id, unlike any other."""
    return f"chatcmpl-{secrets.token_urlsafe(18)}"


class Whole:
    """Gathers events into one completion."""

    def __init__(self, request: ChatRequest) -> None:
        self._request = request
        self._message: dict[str, Any] = {"role": "assistant", "content": None}
        self._calls: dict[int, dict[str, Any]] = {}
        self._logprobs: dict[str, Any] | None = None
        self._finish: str | None = None
        self._usage = Usage()

    def add(self, event: Event) -> None:
        match event:
            case Delta(kind="tool_calls"):
                for delta in event.value:
                    _merge_tool_call(self._calls, delta)
            case Delta(kind="logprobs"):
                self._logprobs = _merge_logprobs(self._logprobs, event.value)
            case Delta():
                self._message[event.kind] = (self._message.get(event.kind) or "") + event.value
            case Finish():
                self._finish = event.reason
            case Done():
                self._usage = event.usage
            case Progress():
                pass

    def to_json(self) -> bytes:
        if self._calls:
            self._message["tool_calls"] = [self._calls[index] for index in sorted(self._calls)]
        choice = {
            "index": 0,
            "message": self._message,
            "logprobs": self._logprobs,
            "finish_reason": self._finish or "stop",
        }
        return _encode(
            {
                "id": completion_id(),
                "object": "chat.completion",
                "created": int(time.time()),
                "model": self._request.model,
                "choices": [choice],
                "usage": self._usage.to_dict(),
            }
        )


def _merge_tool_call(calls: dict[int, dict[str, Any]], delta: dict[str, Any]) -> None:
    index = delta.get("index", 0)
    call = calls.setdefault(index, {})
    for key, value in delta.items():
        if key == "function" and isinstance(value, dict):
            function = call.setdefault("function", {"arguments": ""})
            function["arguments"] += value.get("arguments") or ""
            function |= {name: part for name, part in value.items() if name != "arguments"}
        elif key != "index":
            call[key] = value


def _merge_logprobs(known: dict[str, Any] | None, delta: dict[str, Any]) -> dict[str, Any]:
    merged = dict(known or {})
    for key, value in delta.items():
        merged[key] = [*(merged.get(key) or []), *value] if isinstance(value, list) else value
    return merged


class Chunks:
    """Writes events as the frames of a stream: role first, one finish, usage only if asked for, one [DONE]."""

    def __init__(self, request: ChatRequest) -> None:
        self._include_usage = request.include_usage
        self._head = {
            "id": completion_id(),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": request.model,
        }

    def opening(self) -> bytes:
        """The first frame: the role."""
        return self._frame({"role": "assistant", "content": ""})

    def comment(self) -> bytes:
        """A frame that says nothing, but shows that something is still going on."""
        return encode_comment("working")

    def frames(self, event: Event) -> bytes:
        match event:
            case Delta(kind="logprobs"):
                return self._frame({}, logprobs=event.value)
            case Delta():
                return self._frame({event.kind: event.value})
            case Finish():
                return self._frame({}, finish=event.reason)
            case Done():
                return self._usage(event.usage) + encode_event(DONE)
            case Progress():
                return b""

    def failed(self, error: LooperError) -> bytes:
        """What ends a stream that was begun and cannot be finished."""
        return encode_event(error.to_json()) + encode_event(DONE)

    def _frame(
        self, delta: dict[str, Any], *, finish: str | None = None, logprobs: Any = None
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        chunk = {**self._head, "choices": [choice]}
        if self._include_usage:
            chunk["usage"] = None
        return encode_event(_encode(chunk))

    def _usage(self, usage: Usage) -> bytes:
        if not self._include_usage:
            return b""
        return encode_event(_encode({**self._head, "choices": [], "usage": usage.to_dict()}))
