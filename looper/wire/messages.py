"""A conversation in an upstream's dialect: its names of roles, its rule for ids of tool calls, one turn at a time."""

import hashlib
import re
import string
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import msgspec

from looper.errors import InvalidJson
from looper.wire.dialects import Dialect, ToolCallIds
from looper.wire.json_object import JsonObject

_ALPHABET = string.digits + string.ascii_letters
_ALNUM9 = re.compile(r"[A-Za-z0-9]{9}")
_list = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_content = msgspec.json.Decoder(str | list[msgspec.Raw] | None)
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


def message(role: str, text: str) -> msgspec.Raw:
    """A message of ours."""
    return msgspec.Raw(msgspec.json.encode({"role": role, "content": text}))


def with_ours(messages: Any, ours: Sequence[msgspec.Raw], *, apart: bool = False) -> Any:
    """A conversation with others' messages behind it, and every byte of it as it was.

    What would be a second message of the user's in a row goes on the one before, as many chat templates want roles to
    alternate; unless it is to stand `apart`.
    """
    if not ours:
        return messages
    before = bytes(messages).rstrip()[:-1].rstrip()
    last: msgspec.Raw = _array.decode(messages)[-1]
    said = [last]
    for each in ours:
        joined = None if apart else _joined(said[-1], each)
        said[-1:] = [said[-1], each] if joined is None else [joined]
    return msgspec.Raw(before[: -len(bytes(last))] + b",".join(map(bytes, said)) + b"]")


def _joined(before: msgspec.Raw, more: msgspec.Raw) -> msgspec.Raw | None:
    """A user's message with the words of another one behind its own, whatever else it has; None if both are not."""
    first, second = _Turn.of(before), _Turn.of(more)
    if first is None or second is None or first.role != "user" or second.role != "user":
        return None
    try:
        object = JsonObject.parse(bytes(before))
    except InvalidJson:
        return None
    both = _longer(bytes(first.content).strip(), bytes(second.content).strip())
    return msgspec.Raw(object.edited({"content": both}))


def _longer(content: bytes, more: bytes) -> bytes:
    """A content with a text behind it. Texts and parts stay as they came, byte for byte."""
    if content.startswith(b"["):
        part = b'{"type":"text","text":' + more + b"}"
        parts = content[1:-1].strip()
        return b"[" + (parts + b"," if parts else b"") + part + b"]"
    if content.startswith(b'"') and content != b'""':
        return content[:-1] + b"\\n\\n" + more[1:]
    return more


class _Turn(msgspec.Struct, frozen=True):
    """As much of a message as it takes to write behind it."""

    role: str
    content: msgspec.Raw = msgspec.Raw(b"null")

    @classmethod
    def of(cls, raw: msgspec.Raw) -> "_Turn | None":
        try:
            return _turn.decode(raw)
        except msgspec.DecodeError:
            return None


_turn = msgspec.json.Decoder(_Turn)
_array = msgspec.json.Decoder(list[msgspec.Raw])


def _rename(message: Message, dialect: Dialect) -> bool:
    role = plain(message.get("role"))
    if not isinstance(role, str) or role not in dialect.roles:
        return False
    message["role"] = dialect.roles[role]
    return True


def _map_ids(message: Message, rule: ToolCallIds) -> bool:
    """Give every id that does not fit one that does. All else of a call stays as it came, byte for byte."""
    if message.keys().isdisjoint(("tool_call_id", "tool_calls")):
        return False  # as most of a long conversation
    changed = _map_id(message, "tool_call_id", rule)
    calls = _calls(message)
    mapped = sum(_map_id(call, "id", rule) for call in calls)  # each of them, not the first alone
    if mapped:
        message["tool_calls"] = calls
    return changed or mapped > 0


def _map_id(holder: dict[str, Any], name: str, rule: ToolCallIds) -> bool:
    id = plain(holder.get(name))
    # What is no text cannot be paired by its text; the upstream may say what it thinks of it.
    if not isinstance(id, str) or _FITS[rule](id):
        return False
    holder[name] = short_id(id, rule)
    return True


def _calls(message: Message) -> list[dict[str, Any]]:
    if "tool_calls" not in message:
        return []
    try:
        calls = _list.decode(message["tool_calls"])
    except msgspec.ValidationError:  # not a list of objects
        return []
    return [dict(call) for call in calls]


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
    groups: list[list[Message]] = []
    before: str | None = None
    for message in messages:
        role = _speaker(message)
        if role is not None and role == before:
            groups[-1].append(message)
        else:
            groups.append([message])
        before = role
    return [_as_one(group) for group in groups]


def _speaker(message: Message) -> str | None:
    """The role of a message that says nothing but its words and who says them; None for one that says more."""
    if message.keys() - {"name"} != {"role", "content"}:
        return None
    role = plain(message["role"])
    return role if role in ("system", "developer", "user", "assistant") else None


def _as_one(group: list[Message]) -> Message:
    if len(group) == 1:
        return group[0]
    names = {bytes(each.get("name", b"null")) for each in group}
    first = {name: said for name, said in group[0].items() if name != "name" or len(names) == 1}
    said = [_content.decode(message["content"]) for message in group]
    texts = list(takewhile(lambda content: isinstance(content, str), said))
    text = "\n\n".join(map(str, texts))
    if len(texts) < len(said):
        parts = [part for content in (text, *said[len(texts) :]) for part in _parts(content)]
        return {**first, "content": parts}
    return {**first, "content": text}


def _parts(content: str | list[msgspec.Raw] | None) -> list[Any]:
    """A content as parts; those that came as such stay as they came, byte for byte."""
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


def plain(value: Any) -> Any:
    """A value that came as JSON; None for one that is no plain value to us, such as 1e400."""
    try:
        return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value
    except (msgspec.DecodeError, RecursionError):
        return None
