"""What has the conversation: turns, roles, tools, images, a question asked again?"""

from collections.abc import Callable
from itertools import takewhile
from typing import Literal

import msgspec
from pydantic import Field

from extproc.signals.base import Reading, Subject
from extproc.signals.bounds import Bounds
from looper.wire.chat import ChatRequest, Message
from looper.wire.folding import folded
from looper.wire.tokens import ends

Of = Literal["turns", "messages", "system", "tools", "tool_calls", "tool_loop", "images", "reask"]
_ALIKE = 0.8
_COMPARED = 4_096
_array = msgspec.json.Decoder(list[msgspec.Raw])


class ConversationConfig(Bounds):
    """`{type: conversation, of: turns, at_least: 8}`"""

    type: Literal["conversation"]
    of: Of = Field(
        description="turns: messages of the user; system: messages of system or developer; tools: those offered; "
        "tool_calls: those made; tool_loop: results of tools that wait for an answer; "
        "reask: how much the last turn is like the one before, 0 to 1, by default at least 0.8"
    )
    role: str | None = Field(default=None, description="with `messages`: only those of this role")

    @property
    def least(self) -> float:
        if self.of == "reask" and self.at_least is None and self.at_most is None:
            return _ALIKE
        return super().least

    def build(self) -> "Conversation":
        return Conversation(self)


class Conversation:
    """Reads a `conversation` signal."""

    def __init__(self, config: ConversationConfig) -> None:
        self._config = config
        self._measure = _measure(config)

    def read(self, subject: Subject) -> Reading:
        return self._config.reading(self._measure(subject.request))


def _measure(config: ConversationConfig) -> Callable[[ChatRequest], float]:  # noqa: C901  # an arm for each
    match config.of:
        case "turns":
            return lambda request: _of_roles(request, "user")
        case "messages" if config.role is not None:
            role = folded(config.role).strip()
            return lambda request: _of_roles(request, role)
        case "messages":
            return lambda request: len(request.messages)
        case "system":
            return lambda request: _of_roles(request, "system", "developer")
        case "tools":
            return _tools
        case "tool_calls":
            return _tool_calls
        case "tool_loop":
            return _tool_loop
        case "images":
            return lambda request: request.images
        case "reask":
            return _reask


def _of_roles(request: ChatRequest, *roles: str) -> int:
    return sum(message.speaker in roles for message in request.messages)


def _tools(request: ChatRequest) -> int:
    offered = (request.members.get(name) for name in ("tools", "functions"))
    return sum(_length(raw) for raw in offered)


def _tool_calls(request: ChatRequest) -> int:
    return sum(_length(message.tool_calls) + message.calls_function for message in request.messages)


def _length(raw: msgspec.Raw | None) -> int:
    """The length of what should be a list."""
    return len(_array.decode(raw)) if raw is not None and bytes(memoryview(raw)[:1]) == b"[" else 0


def _tool_loop(request: ChatRequest) -> int:
    """Results at the end of the conversation, behind which nobody has spoken yet."""
    return sum(1 for _ in takewhile(_is_result, reversed(request.messages)))


def _is_result(message: Message) -> bool:
    return message.speaker in ("tool", "function")


def _reask(request: ChatRequest) -> float:
    """How much the user's last turn is like the one before it: what their groups of three letters have in common."""
    turns = (message.text for message in reversed(request.messages) if message.speaker == "user")
    last, before = next(turns, ""), next(turns, "")
    if not last or not before:
        return 0.0
    one, other = _grams(last), _grams(before)
    return len(one & other) / max(1, len(one | other))


def _grams(text: str) -> set[tuple[str, ...]]:
    plain = f"  {' '.join(ends(text, _COMPARED).casefold().split())} "
    return set(zip(plain, plain[1:], plain[2:], strict=False)) if not plain.isspace() else set()
