"""Answers without calls of tools that were not asked for, or that name no tool; and which end as calls do."""

from collections.abc import Callable
from typing import Any

import msgspec

from looper.wire.chat import Choice, Completion, Reply

ToolCall = dict[str, Any]
_replace = msgspec.structs.replace


class ToolCalls:
    """Reads an answer, or the chunks of a streamed one in their order. Calls that are not `allowed` are left out."""

    def __init__(self, *, allowed: bool) -> None:
        self._allowed = allowed
        self._begun: set[tuple[int, int]] = set()
        self._called: set[int] = set()
        self._refused: set[int] = set()

    def read(self, completion: Completion) -> Completion:
        """The same with nothing in it but calls that are some. A choice that is left without any just stops, and one
        that just stops and has made some ends in calls, which its client is to answer."""
        if not any(map(self._is_calling, completion.choices)):
            return completion
        return _replace(completion, choices=[self._choice(each) for each in completion.choices])

    def _is_calling(self, choice: Choice) -> bool:
        reply = choice.message or choice.delta
        calls = reply is not None and reply.tool_calls is not None
        return calls or choice.finish_reason == "tool_calls" or choice.index in self._called

    def _choice(self, choice: Choice) -> Choice:
        message = choice.message and self._reply(choice.message, choice.index, _is_named)
        delta = choice.delta and self._reply(choice.delta, choice.index, _begins)
        finish = choice.finish_reason
        if finish == "tool_calls" and choice.index in self._refused - self._called:
            finish = "stop"
        elif finish == "stop" and choice.index in self._called:
            finish = "tool_calls"
        return _replace(choice, message=message, delta=delta, finish_reason=finish)

    def _reply(self, reply: Reply, choice: int, begins: Callable[[ToolCall], bool]) -> Reply:
        read: list[ToolCall] = []
        for at, call in enumerate(reply.tool_calls or ()):
            place = (choice, call.get("index", at))
            if self._allowed and (place in self._begun or begins(call)):
                self._begun.add(place)
                read.append(call)
        self._called |= {choice} if read else set()
        self._refused |= {choice} if reply.tool_calls and not read else set()
        return _replace(reply, tool_calls=read or None)


def _begins(call: ToolCall) -> bool:
    """Whether a bit of a stream is the first of a call, whose name may come in the next."""
    return isinstance(call.get("id"), str) or _is_named(call)


def _is_named(call: ToolCall) -> bool:
    """Whether it says which tool it calls, as every call does where it begins."""
    called = call.get("custom") if call.get("type") == "custom" else call.get("function")
    name = called.get("name") if isinstance(called, dict) else None
    return isinstance(name, str) and bool(name)
