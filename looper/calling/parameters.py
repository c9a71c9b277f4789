"""What a decision sets in a client's request, or bounds: done once, before any model sees it."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self, TypeVar, get_args

import msgspec
from pydantic import Field, model_validator

from looper.calling.drafts import LIMITS
from looper.settings import Setting, Tokens
from looper.wire.chat import ChatRequest, Message, Request
from looper.wire.json_object import JsonObject

Level = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
_LEVELS: tuple[Level, ...] = get_args(Level)
Heat = Annotated[float, Field(ge=0, le=2)]
T = TypeVar("T")
_INSTRUCTING = ("system", "developer")
_array = msgspec.json.Decoder(list[msgspec.Raw])


class TokenLimit(Setting):
    """`max_tokens: {default: 1k, cap: 4k}`"""

    default: Tokens | None = Field(default=None, description="for a client that names no limit")
    cap: Tokens | None = Field(default=None, description="for all; also for one that names none")

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.default is None and self.cap is None:
            raise ValueError("give at least one of `default` and `cap`")
        if self.default is not None and self.cap is not None and self.default > self.cap:
            raise ValueError("`default` is above `cap`")
        return self

    def of(self, said: int | None) -> int | None:
        """The limit that holds in place of what the client said. What is no limit, such as -1, is none said."""
        if said is None:
            return self.default or self.cap
        return said if self.cap is None else min(said, self.cap)


class Temperature(Setting):
    """`temperature: {set: 0}`, or a `default` and a `cap`"""

    set: Heat | None = Field(default=None, description="whatever the client says")
    default: Heat | None = Field(default=None, description="for a client that says nothing")
    cap: Heat | None = Field(default=None, description="for a client that says more")

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        _check(self.set, self.default, self.cap)
        if self.default is not None and self.cap is not None and self.default > self.cap:
            raise ValueError("`default` is above `cap`")
        return self

    def of(self, said: float | None) -> float | None:
        if self.set is not None:
            return self.set
        if said is None:
            return self.default
        return said if self.cap is None else min(said, self.cap)


class Effort(Setting):
    """`reasoning_effort: {set: low}`, or a `default` and a `cap`"""

    set: Level | None = Field(default=None, description="whatever the client says")
    default: Level | None = Field(default=None, description="for a client that says nothing")
    cap: Level | None = Field(default=None, description="for a client that says more")

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        _check(self.set, self.default, self.cap)
        if self.default and self.cap and _height(self.default) > _height(self.cap):
            raise ValueError("`default` is above `cap`")
        return self

    def of(self, said: str | None) -> str | None:
        if self.set is not None:
            return self.set
        if said is None:
            return self.default
        return self.cap if self.cap is not None and _height(said) > _height(self.cap) else said


def _check(set: object, default: object, cap: object) -> None:
    if set is None and default is None and cap is None:
        raise ValueError("give `set`, or at least one of `default` and `cap`")
    if set is not None and (default is not None or cap is not None):
        raise ValueError("`set` leaves nothing for `default` and `cap`")


def _height(level: str) -> int:
    """A level's place. A word that is none of ours may mean anything, so it counts as the highest."""
    return _LEVELS.index(level) if level in _LEVELS else len(_LEVELS)


class SystemPrompt(Setting):
    """`system_prompt: {text: …, mode: insert}`"""

    text: str = Field(min_length=1, max_length=32_000)
    mode: Literal["insert", "append", "replace"] = Field(
        default="insert", description="before the client's own, behind it, or in place of it"
    )

    def of(self, request: ChatRequest) -> bytes:
        """The conversation with this text in it, and every message that has no part in that byte for byte.

        There is one message of instructions where there was one or none: many models take no second one.
        """
        messages: list[bytes] = [bytes(raw) for raw in _array.decode(request.members["messages"])]
        roles = [message.role for message in request.messages]
        ours = [at for at, role in enumerate(roles) if role in _INSTRUCTING]
        leading = next(
            (at for at, role in enumerate(roles) if role not in _INSTRUCTING), len(roles)
        )
        if self.mode == "replace":
            both = zip(roles, messages, strict=True)
            messages = [raw for role, raw in both if role not in _INSTRUCTING]
        elif leading:
            at = 0 if self.mode == "insert" else leading - 1
            messages[at] = self._beside(request.messages[at], messages[at])
            return _join(messages)
        role = roles[ours[0]] if ours else "system"
        return _join([msgspec.json.encode({"role": role, "content": self.text}), *messages])

    def _beside(self, message: Message, raw: bytes) -> bytes:
        """A message with this text before or behind its own."""
        object = JsonObject.parse(raw)
        if isinstance(message.content, list):
            part = msgspec.json.encode({"type": "text", "text": self.text})
            parts = [bytes(each) for each in _array.decode(object.members["content"])]
            return object.edited({"content": _join(self._ordered(part, parts))})
        texts = self._ordered(self.text, [message.text] if message.text else [])
        return object.edited({"content": msgspec.json.encode("\n\n".join(texts))})

    def _ordered(self, ours: T, theirs: list[T]) -> list[T]:
        return [ours, *theirs] if self.mode == "insert" else [*theirs, ours]


def _join(values: list[bytes]) -> bytes:
    return b"[" + b",".join(values) + b"]"


class Parameters(Setting):
    """What a decision sets in a client's request, or bounds. What it leaves alone stays as it came."""

    max_tokens: TokenLimit | None = None
    temperature: Temperature | None = None
    reasoning_effort: Effort | None = None
    system_prompt: SystemPrompt | None = None

    @property
    def governed(self) -> frozenset[str]:
        """The members that are ours to leave out, where a model does not take them."""
        names = ("temperature", "reasoning_effort")
        return frozenset(name for name in names if getattr(self, name) is not None)

    def applied(self, request: ChatRequest) -> ChatRequest:
        """The request as models are to see it. Raises InvalidField for a value that cannot be bounded."""
        changes = dict(self._changes(request))
        return request.changed(changes) if changes else request

    def _changes(self, request: ChatRequest) -> Iterator[tuple[str, bytes]]:
        if self.max_tokens is not None:
            yield from _limits(self.max_tokens, request)
        if self.temperature is not None:
            heat = request.read("temperature", float | None)
            if (wanted := self.temperature.of(heat)) != heat:
                yield "temperature", msgspec.json.encode(wanted)
        if self.reasoning_effort is not None:
            effort = request.read("reasoning_effort", str | None)
            if (level := self.reasoning_effort.of(effort)) != effort:
                yield "reasoning_effort", msgspec.json.encode(level)
        if self.system_prompt is not None:
            yield "messages", self.system_prompt.of(request)


def _limits(limit: TokenLimit, request: Request) -> Iterator[tuple[str, bytes]]:
    """The limit under the names that the client uses, or under the older one, which most backends know."""
    written = [name for name in LIMITS if bytes(request.members.get(name, b"null")) != b"null"]
    for name in written or [LIMITS[-1]]:
        said = request.positive_or_none(name)
        if (wanted := limit.of(said)) is not None and wanted != said:
            yield name, msgspec.json.encode(wanted)
