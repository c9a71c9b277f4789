"""Models, each asked something tiny by the way that live calls take: does it answer, and can it do what it should?"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from extproc.cli.doctor.findings import Finding, State
from extproc.cli.doctor.habits import ends_streams, takes_roles
from looper.calling.calls import Answer, CallFailed, Failure
from looper.calling.drafts import answering
from looper.calling.heard import can_be
from looper.calling.models import Model
from looper.run import Client
from looper.wire.chat import Capability, ChatRequest, Choice, Completion

_MAX_TOKENS = 64
"""Enough for a word and, with most, for the thought that comes before it."""

_PIXEL = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4"
    "z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
"""An image of one red pixel."""

_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
_TOOL = {"name": "note_city", "description": "Notes a city.", "parameters": _SCHEMA}


def _user(content: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


_HELLO = _user("Say OK.")
_REQUESTS: Mapping[Capability, dict[str, Any]] = {
    "logprobs": {**_HELLO, "logprobs": True, "top_logprobs": 1},
    "tools": {
        **_user("Note the city of Paris with note_city."),
        "tools": [{"type": "function", "function": _TOOL}],
        "tool_choice": {"type": "function", "function": {"name": "note_city"}},
    },
    "json_schema": {
        **_user("Which city is the capital of France?"),
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "city", "strict": True, "schema": _SCHEMA},
        },
    },
    "vision": _user(
        [
            {"type": "text", "text": "Which colour is this? One word."},
            {"type": "image_url", "image_url": {"url": _PIXEL}},
        ]
    ),
}
_NOT_SHOWN = {
    "logprobs": "the answer has no log probabilities",
    "tools": "the tool was not called, although it had to be",
    "json_schema": "the answer does not follow the schema",
    "vision": "the answer is empty",
}


class _Tokens(msgspec.Struct):
    content: list[dict[str, Any]] = []


class _City(msgspec.Struct, forbid_unknown_fields=True):
    city: str


class _Advice(NamedTuple):
    state: State
    found: str
    advice: str


@dataclass(frozen=True, slots=True)
class Examination:
    """Asks one model after another question, each with `seconds` to answer."""

    client: Client
    seconds: float
    _unread: dict[str, dict[str, None]] = field(default_factory=dict)
    """By model: the members of its answers that were not understood."""

    async def of(self, model: Model) -> list[Finding]:
        """Whether it answers and, if so, whether it has the capabilities that are declared."""
        return [finding async for finding in self._look_at(model)]

    async def _look_at(self, model: Model) -> AsyncIterator[Finding]:
        answers = await self._answers(model)
        yield answers
        for capability in sorted(model.capabilities or ()):
            if answers.state == "fail":
                yield Finding(model.name, capability, "skipped", "it does not answer at all")
            else:
                yield await self._can(model, capability)
        if answers.state != "fail":
            yield await takes_roles(self.client, model, self.seconds)
            yield await ends_streams(self.client, model, self.seconds)
        if unread := self._unread.get(model.name):
            found = f"not understood, and left out: {', '.join(unread)}"
            yield Finding(model.name, "members", "warn", found, _STRANGE)

    async def _answers(self, model: Model) -> Finding:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            answer = await self._ask(model, _HELLO)
        except CallFailed as error:
            return Finding(model.name, "answers", *_why(error, self.seconds))
        if not answer.completion.choices:
            return Finding(model.name, "answers", "fail", "an answer without choices", _NO_CHAT)
        seconds = loop.time() - began
        took = f"after {seconds:.2f} s"
        if seconds > _SLOW_FROM:
            return Finding(model.name, "answers", "warn", f"slow: {took}", _SLOW)
        if answer.attempts > 1:
            return Finding(
                model.name, "answers", "warn", f"{took}, at attempt {answer.attempts}", _UNSTEADY
            )
        usage = answer.completion.usage
        if usage is None or not can_be(usage.prompt_tokens, model):
            return Finding(model.name, "answers", "warn", f"{took}, without its usage", _NO_USAGE)
        return Finding(model.name, "answers", "ok", took)

    async def _can(self, model: Model, capability: Capability) -> Finding:
        try:
            answer = await self._ask(model, _REQUESTS[capability])
        except CallFailed as error:
            state, found, advice = _why(error, self.seconds)
            if error.failure is Failure.STATUS and error.status in (400, 404, 415, 422, 501):
                state, advice = "fail", f"take `{capability}` out of its `capabilities`"
            if error.failure is Failure.TIMEOUT:
                state = "warn"  # it did answer: that it is slow with this says nothing of what it can do
            return Finding(model.name, capability, state, found, advice)
        if _shows(capability, answer.completion):
            return Finding(model.name, capability, "ok", "works")
        advice = f"take `{capability}` out of its `capabilities`, or see what its server lacks"
        return Finding(model.name, capability, "fail", _NOT_SHOWN[capability], advice)

    async def _ask(self, model: Model, members: Mapping[str, Any]) -> Answer:
        body = msgspec.json.encode({"model": model.name, **members})
        request = ChatRequest.parse(body)
        draft = answering(request, model, "single", tools=True, logprobs=True)
        deadline = asyncio.get_running_loop().time() + self.seconds
        call = draft.call(min(_MAX_TOKENS, model.max_output or _MAX_TOKENS))
        answer = await self.client.complete(call, {}, deadline=deadline)
        self._unread.setdefault(model.name, {}).update(dict.fromkeys(answer.unread))
        return answer


_NO_CHAT = "is what `url` leads to an OpenAI-compatible chat API?"
_NO_USAGE = "budgets and costs are then estimates: have its server report usage"
_STRANGE = (
    "no answer is lost over it; its server's version, or a gateway before it, may be to blame"
)
_SLOW_FROM = 10.0
"""Seconds for a few words from which on a team's clocks have to be set for a model."""
_SLOW = "deadlines, `round_timeout` and `timeout` have to leave it the time"
_UNSTEADY = "it was refused or unreachable at first"
_KEY = "is its `api_key` the right one, and can Envoy read it?"


def _why(error: CallFailed, seconds: float) -> _Advice:
    """What a failure means for whoever has to mend it."""
    match error.failure:
        case Failure.STATUS:
            return _refused(error.status or 0)
        case Failure.TIMEOUT:
            found = f"slow: no answer within {seconds:g} s"
            return _Advice("fail", found, "is it loaded? give it more with --timeout")
        case Failure.CONNECT if error.status is not None:
            return _Advice(
                "fail", "Envoy cannot reach it", "is `url` right, and does its server run?"
            )
        case Failure.CONNECT:
            return _Advice(
                "fail",
                "the egress cannot be reached",
                "does Envoy run, and is `egress` where its egress listener is?",
            )
        case _:
            return _Advice("fail", "the answer is no chat completion", _NO_CHAT)


def _refused(status: int) -> _Advice:
    found = f"status {status}"
    match status:
        case 401 | 403:
            return _Advice("fail", found, _KEY)
        case 404:
            return _Advice("fail", found, "are `url` and `upstream_model` right, and is it routed?")
        case 429:
            return _Advice("warn", found, "it is rate-limited just now")
        case 503:
            return _Advice(
                "fail", found, "is its server still loading, or does Envoy lack its key?"
            )
        case 502 | 504:
            return _Advice("fail", found, "what is behind `url` does not reach the model")
        case _:
            return _Advice("fail", found, "its server refuses a plain request: is `dialect` right?")


def _shows(capability: Capability, completion: Completion) -> bool:
    if not completion.choices:
        return False
    choice = completion.choices[0]
    content = (choice.message.content if choice.message else None) or ""
    match capability:
        case "logprobs":
            return _has_logprobs(choice)
        case "tools":
            return bool(choice.message and choice.message.tool_calls)
        case "json_schema":
            return _follows(content)
        case "vision":
            # A model that thinks may have used all its tokens for that.
            return bool(content) or choice.finish_reason == "length"


def _has_logprobs(choice: Choice) -> bool:
    try:
        found = msgspec.json.decode(choice.logprobs, type=_Tokens | None)
    except msgspec.MsgspecError:
        return False
    return found is not None and bool(found.content)


def _follows(content: str) -> bool:
    try:
        msgspec.json.decode(content, type=_City)
    except msgspec.MsgspecError:
        return False
    return True
