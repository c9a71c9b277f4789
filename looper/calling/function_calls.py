"""A backend's calls of tools in the one form in which they are read: those of OpenAI's older API are of functions.

There are servers, too, that write what a tool is given as the object that it is the text of.
"""

import secrets
from typing import Any

import msgspec

from looper.calling.calls import CallFailed, Failure
from looper.wire.chat import Choice, Completion, Reply
from looper.wire.deltas import GIVEN

_replace = msgspec.structs.replace


_Given = str | dict[str, Any] | list[Any] | None


class _Function(msgspec.Struct, frozen=True):
    name: str | None = None
    arguments: _Given = None


class _Custom(msgspec.Struct, frozen=True):
    name: str | None = None
    input: _Given = None


class _Call(msgspec.Struct, frozen=True):
    """What is read of a call, or of a bit of one."""

    index: int | None = None
    id: str | None = None
    function: _Function | None = None
    custom: _Custom | None = None


class FunctionCalls:
    """Reads an answer, or the chunks of a streamed one in their order: each choice's call of a function gets an id."""

    def __init__(self) -> None:
        self._begun: set[int] = set()

    def read(self, completion: Completion) -> Completion:
        """The same, with calls of tools. Raises CallFailed for calls that nobody can make sense of."""
        if not any(map(_calls, completion.choices)):
            return completion
        try:
            choices = [self._choice(each) for each in completion.choices]
        except msgspec.ValidationError:
            raise CallFailed(Failure.UNUSABLE) from None
        return _replace(completion, choices=choices)

    def _choice(self, choice: Choice) -> Choice:
        message, delta = choice.message, choice.delta
        return _replace(
            choice,
            message=message and self._reply(message, choice.index, {}),
            delta=delta and self._reply(delta, choice.index, {"index": 0}),
            finish_reason="tool_calls" if _ends_older(choice) else choice.finish_reason,
        )

    def _reply(self, reply: Reply, index: int, place: dict[str, Any]) -> Reply:
        calls = reply.tool_calls
        if not calls and reply.function_call:
            calls = [{**place, **self._name(index), "function": reply.function_call}]
        return _replace(reply, tool_calls=calls and list(map(_sound, calls)), function_call=None)

    def _name(self, index: int) -> dict[str, str]:
        """What a call begins with, and only that: clients put its bits together."""
        if index in self._begun:
            return {}
        self._begun.add(index)
        return {"id": f"call_{secrets.token_hex(12)}", "type": "function"}


def _calls(choice: Choice) -> bool:
    reply = choice.message or choice.delta or Reply()
    return bool(reply.tool_calls) or reply.function_call is not None or _ends_older(choice)


def _ends_older(choice: Choice) -> bool:
    return choice.finish_reason == "function_call"


def _sound(call: dict[str, Any]) -> dict[str, Any]:
    """A call whose index is a number, and what its tool is given a text. Raises ValidationError."""
    read = msgspec.convert(call, _Call)
    if read.index is None:
        call = {name: value for name, value in call.items() if name != "index"}
    for kind, name in GIVEN.items():
        given = (call.get(kind) or {}).get(name)
        if not isinstance(given, str | None):
            text = msgspec.json.encode(given).decode()
            call = {**call, kind: {**call[kind], name: text}}
    return call
