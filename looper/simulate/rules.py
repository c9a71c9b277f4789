"""What a simulated model does not accept: unknown members and roles, long prompts, ids of tool calls."""

import math
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import msgspec

from looper.simulate.answers import ChatBody
from looper.simulate.models import SimulatedModel
from looper.simulate.shapes import Delivery, http_error, prompt_tokens

_MAX_ID = 40
_TEMPLATE = 4
"""Tokens around each message."""

_SHORT_ID = re.compile(r"[a-zA-Z0-9]{9}")
_INSTEAD = {
    "max_tokens": " Use 'max_completion_tokens' instead.",
    "max_completion_tokens": " Use 'max_tokens' instead.",
}


class _Called(msgspec.Struct, frozen=True):
    id: str = ""


class _Message(msgspec.Struct, frozen=True):
    role: str = ""
    tool_calls: tuple[_Called, ...] | None = None
    tool_call_id: str | None = None


class _History(msgspec.Struct, frozen=True):
    messages: tuple[_Message, ...] = ()

    @property
    def ids(self) -> Iterator[tuple[str, str]]:
        """Every id of a tool call, behind the place where it stands."""
        for at, message in enumerate(self.messages):
            for number, call in enumerate(message.tool_calls or ()):
                yield f"messages[{at}].tool_calls[{number}].id", call.id
            if message.tool_call_id is not None:
                yield f"messages[{at}].tool_call_id", message.tool_call_id


def objection(model: SimulatedModel, request: Mapping[str, Any]) -> Delivery | None:
    """The refusal of a request that breaks one of the model's rules."""
    rules = (_unsupported, _wrong_role, _too_long, _wrong_id)
    return next(filter(None, (rule(model, request) for rule in rules)), None)


def _unsupported(model: SimulatedModel, request: Mapping[str, Any]) -> Delivery | None:
    name = next((name for name in model.rejects if request.get(name) is not None), None)
    if name is None:
        return None
    message = f"Unsupported parameter: '{name}' is not supported with this model."
    message += _INSTEAD.get(name, "")
    return http_error(400, "unsupported_parameter", message, param=name)


def _wrong_role(model: SimulatedModel, request: Mapping[str, Any]) -> Delivery | None:
    """In vLLM's words for what a chat template raises."""
    roles = [message.role for message in msgspec.convert(request, _History).messages]
    if model.roles is not None and not {*roles} <= {*model.roles}:
        return _bad_request("Unexpected message role.")
    turns = [role for role in roles if role in ("user", "assistant")]
    if model.alternates and any(a == b for a, b in pairwise(turns)):
        return _bad_request(
            "After the optional system message, conversation roles must alternate "
            "user/assistant/user/assistant/..."
        )
    return None


def _bad_request(message: str) -> Delivery:
    """In vLLM's shape."""
    error = {"object": "error", "message": message, "type": "BadRequestError", "code": 400}
    return Delivery((msgspec.json.encode({**error, "param": None}),), status=400)


def _too_long(model: SimulatedModel, request: Mapping[str, Any]) -> Delivery | None:
    window = model.context_window
    if window is None or "messages" not in request:
        return None
    body = msgspec.convert(request, ChatBody)
    if model.token_length is not None:
        return _over(window, model.token_length, body)
    count = prompt_tokens(body.texts)
    message = (
        f"This model's maximum context length is {window} tokens. However, your messages "
        f"resulted in {count} tokens. Please reduce the length of the messages."
    )
    error = http_error(400, "context_length_exceeded", message, param="messages")
    return error if count > window else None


def _over(window: int, token_length: float, body: ChatBody) -> Delivery | None:
    """In vLLM's words."""
    characters = sum(len(text) for text in body.texts)
    count = math.ceil(characters / token_length) + _TEMPLATE * len(body.messages)
    wanted = body.max_completion_tokens or body.max_tokens or 1
    if count + wanted <= window:
        return None
    message = (
        f"This model's maximum context length is {window} tokens. However, you requested {count + wanted} "
        f"tokens ({count} in the messages, {wanted} in the completion). Please reduce the length of the "
        "messages or completion."
    )
    return _bad_request(message)


def _wrong_id(model: SimulatedModel, request: Mapping[str, Any]) -> Delivery | None:
    if model.id_rule is None:
        return None
    found = msgspec.convert(request, _History).ids
    if model.id_rule == "max40":
        return next((_long_id(*each) for each in found if len(each[1]) > _MAX_ID), None)
    return next((_odd_id(id) for _, id in found if not _SHORT_ID.fullmatch(id)), None)


def _long_id(place: str, id: str) -> Delivery:
    message = (
        f"Invalid '{place}': string too long. Expected a string with maximum length {_MAX_ID}, "
        f"but got a string with length {len(id)} instead."
    )
    return http_error(400, "string_above_max_length", message, param=place)


def _odd_id(id: str) -> Delivery:
    """In Mistral's shape, which is not OpenAI's."""
    message = f"Tool call id was {id} but must be a-z, A-Z, 0-9, with a length of 9."
    error = {"object": "error", "message": message, "type": "invalid_function_call", "code": "3280"}
    return Delivery((msgspec.json.encode(error),), status=400)
