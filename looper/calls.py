"""One call to one model: what is sent, and what may come of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import msgspec

from looper.chat import ChatRequest, Completion
from looper.models import Model

Role = Literal["panel", "judge", "final"]


@dataclass(frozen=True, slots=True)
class Call:
    """A request to a model, ready to be sent. `role` says what for, in statistics."""

    model: Model
    role: Role
    body: bytes


class Failure(Enum):
    """Why a call came to nothing."""

    CONNECT = "connect"
    TIMEOUT = "timeout"
    STATUS = "status"
    BROKEN = "broken"
    UNUSABLE = "unusable"
    BUDGET = "budget"


class CallFailed(Exception):
    """A call came to nothing. Never leaves the runtime: what the client reads is a LooperError."""

    def __init__(
        self, failure: Failure, *, status: int | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(failure.value if status is None else f"{failure.value} {status}")
        self.failure = failure
        self.status = status
        self.retry_after = retry_after


State = Literal["ok", "unusable", "failed", "timed_out", "cancelled", "not_started"]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a call."""

    call: Call
    state: State
    completion: Completion | None = None
    error: CallFailed | None = None

    @property
    def text(self) -> str:
        """The answer's content. Empty unless the call is `ok`."""
        if self.completion is None:
            return ""
        message = self.completion.choices[0].message
        return message.content or "" if message else ""


# Members that the runtime sets for itself, whatever the client asked for.
_OWN = ("model", "stream", "stream_options", "n", "logprobs", "top_logprobs")
_TOOLS = ("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call")
Members = dict[str, msgspec.Raw | Any]


def answering(
    request: ChatRequest,
    model: Model,
    role: Role,
    *,
    instruction: str | None = None,
    tools: bool = False,
    logprobs: bool = False,
    stream: bool = False,
) -> Call:
    """A call whose answer may be published: the client's wishes hold, and its members go on byte for byte.

    `instruction` is appended to the conversation as a message of its own. Without `tools` the client's tools are
    taken out; where the conversation already holds calls of tools they stay, as backends want to see them, but may
    not be called.
    """
    members: Members = {name: value for name, value in request.members.items() if name not in _OWN}
    if not tools:
        _disarm(request, members)
    if logprobs:
        members |= {name: request.members[name] for name in _OWN[-2:] if name in request.members}
    members["model"] = model.upstream
    if instruction is not None:
        members["messages"] = append_message(request.members["messages"], instruction)
    if stream:
        members |= {"stream": True, "stream_options": {"include_usage": True}}
    return Call(model, role, msgspec.json.encode(members))


def private(
    request: ChatRequest,
    model: Model,
    role: Role,
    *,
    instruction: str,
    schema: Mapping[str, Any] | None,
) -> Call:
    """A call whose answer is never published: the conversation, our instruction, and nothing else of the client's."""
    members: Members = {
        "model": model.upstream,
        "messages": append_message(request.members["messages"], instruction),
    }
    if _uses_tools(request):
        members |= {name: request.members[name] for name in _TOOLS if name in request.members}
        _disarm(request, members)
    if schema is not None and "json_schema" in model.capabilities:
        members["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": role, "schema": schema, "strict": False},
        }
    return Call(model, role, msgspec.json.encode(members))


def append_message(messages: msgspec.Raw, text: str) -> msgspec.Raw:
    """The client's messages with one more behind them, and every byte of theirs as it was."""
    array = bytes(messages).rstrip()
    appended = msgspec.json.encode({"role": "user", "content": text})
    return msgspec.Raw(array[:-1] + b"," + appended + b"]")


def _disarm(request: ChatRequest, members: Members) -> None:
    if _uses_tools(request):
        if "tools" in members:
            members["tool_choice"] = "none"
        if "functions" in members:
            members["function_call"] = "none"
        return
    for name in _TOOLS:
        members.pop(name, None)


def _uses_tools(request: ChatRequest) -> bool:
    return any(message.role in ("tool", "function") for message in request.messages)


def json_schema(type: type[Any]) -> dict[str, Any]:
    """The JSON schema of a pydantic model, as backends take it."""
    schema: dict[str, Any] = json.loads(json.dumps(type.model_json_schema()))
    return schema


def usable(completion: Completion) -> bool:
    """Whether there is anything in an answer that could be published."""
    if not completion.choices:
        return False
    message = completion.choices[0].message
    return message is not None and bool(
        (message.content and message.content.strip()) or message.tool_calls or message.refusal
    )


def successes(results: Sequence[Result]) -> list[Result]:
    """The results that are `ok`, in declared order."""
    return [result for result in results if result.state == "ok"]
