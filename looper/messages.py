"""A conversation in an upstream's dialect: its names of roles, its rule for ids of tool calls, one turn at a time."""

import hashlib
import re
import string
from collections.abc import Callable
from typing import Any

import msgspec

from looper.dialects import Dialect, ToolCallIds

_ALPHABET = string.digits + string.ascii_letters
_ALNUM9 = re.compile(r"[A-Za-z0-9]{9}")
_list = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
Message = dict[str, Any]


def speak(messages: Any, dialect: Dialect) -> Any:
    """The messages as `dialect` wants them. What needs no change stays as it is, byte for byte."""
    if not dialect.roles and not dialect.merge and dialect.tool_call_ids == "any":
        return messages
    raw = messages if isinstance(messages, msgspec.Raw) else msgspec.json.encode(messages)
    read: list[Message] = [dict(message) for message in _list.decode(raw)]
    changed = False
    for message in read:
        changed |= _rename(message, dialect) | _map_ids(message, dialect.tool_call_ids)
    if dialect.merge:
        merged = _merge(read)
        changed |= len(merged) < len(read)
        read = merged
    return msgspec.Raw(msgspec.json.encode(read)) if changed else messages


def map_ids(messages: Any, rule: ToolCallIds) -> Any:
    """The messages with ids of tool calls that fit `rule`; the very same object if all of them do."""
    return speak(messages, Dialect(tool_call_ids=rule))


def _rename(message: Message, dialect: Dialect) -> bool:
    role = msgspec.json.decode(message["role"])
    if role not in dialect.roles:
        return False
    message["role"] = dialect.roles[role]
    return True


def _map_ids(message: Message, rule: ToolCallIds) -> bool:
    fits = _FITS[rule]
    changed = False
    if isinstance(answered := _value(message, "tool_call_id"), str) and not fits(answered):
        message["tool_call_id"] = short_id(answered, rule)
        changed = True
    calls = _value(message, "tool_calls")
    if isinstance(calls, list):
        long = [
            call for call in calls if isinstance(call, dict) and not fits(str(call.get("id", "")))
        ]
        for call in long:
            call["id"] = short_id(str(call.get("id", "")), rule)
        if long:
            message["tool_calls"] = calls
            changed = True
    return changed


def _value(message: Message, name: str) -> Any:
    return msgspec.json.decode(message[name]) if name in message else None


_FITS: dict[ToolCallIds, Callable[[str], bool]] = {
    "any": lambda _: True,
    "max40": lambda id: len(id) <= 40,
    "alnum9": lambda id: _ALNUM9.fullmatch(id) is not None,
}


def short_id(id: str, rule: ToolCallIds) -> str:
    """An id that fits `rule` and is the same for the same id, on every call, so that calls and results stay paired."""
    number = int.from_bytes(hashlib.sha256(id.encode("utf-8", "surrogatepass")).digest())
    digits = []
    for _ in range(9 if rule == "alnum9" else 22):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(digits) if rule == "alnum9" else f"call_{''.join(digits)}"


def _merge(messages: list[Message]) -> list[Message]:
    """Neighbours of the same role as one message. Those that call tools, or answer for one, stay by themselves."""
    merged: list[Message] = []
    for message in messages:
        before = merged[-1] if merged else None
        if before is not None and _alike(before, message):
            before["content"] = _join(before["content"], message["content"])
        else:
            merged.append(dict(message))
    return merged


def _alike(one: Message, other: Message) -> bool:
    plain = {"role", "content"}
    return (
        one.keys() == other.keys() == plain
        and _plain(one["role"]) == _plain(other["role"])
        and _plain(one["role"]) in ("system", "developer", "user", "assistant")
    )


def _plain(value: Any) -> Any:
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value


def _join(one: Any, other: Any) -> Any:
    first, second = _plain(one), _plain(other)
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    return [*_parts(first), *_parts(second)]


def _parts(content: Any) -> list[Any]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []
