"""What a backend answers in OpenAI's older API of functions, read as the call of a tool that it is."""

import secrets
from typing import Any

import msgspec

from looper.chat import Choice, Completion, Reply

_replace = msgspec.structs.replace


class FunctionCalls:
    """Reads an answer, or the chunks of a streamed one in their order: each choice's call of a function gets an id."""

    def __init__(self) -> None:
        self._begun: set[int] = set()

    def read(self, completion: Completion) -> Completion:
        """The same in the API of tools. What is said in that already stays as it is."""
        if not any(map(_is_older, completion.choices)):
            return completion
        return _replace(completion, choices=[self._choice(each) for each in completion.choices])

    def _choice(self, choice: Choice) -> Choice:
        message, delta = choice.message, choice.delta
        return _replace(
            choice,
            message=message and self._reply(message, choice.index, {}),
            delta=delta and self._reply(delta, choice.index, {"index": 0}),
            finish_reason="tool_calls" if _ends_older(choice) else choice.finish_reason,
        )

    def _reply(self, reply: Reply, index: int, place: dict[str, Any]) -> Reply:
        if reply.tool_calls or not reply.function_call:
            return _replace(reply, function_call=None)
        call = {**place, **self._name(index), "function": reply.function_call}
        return _replace(reply, tool_calls=[call], function_call=None)

    def _name(self, index: int) -> dict[str, str]:
        """What a call begins with, and only that: clients put its bits together."""
        if index in self._begun:
            return {}
        self._begun.add(index)
        return {"id": f"call_{secrets.token_hex(12)}", "type": "function"}


def _is_older(choice: Choice) -> bool:
    reply = choice.message or choice.delta
    return _ends_older(choice) or (reply is not None and reply.function_call is not None)


def _ends_older(choice: Choice) -> bool:
    return choice.finish_reason == "function_call"
