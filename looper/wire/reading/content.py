"""A message's content in another form than a text: parts of it, which backends answer with as clients ask with them."""

from typing import Any

import msgspec

_THINKING = ("thinking", "reasoning", "thought", "reasoning_text", "summary_text")
_DEEPEST = 4


def content_of(raw: msgspec.Raw, *, thoughts: bool = False) -> tuple[str | None, str | None] | None:
    """The text, and the thoughts beside it, of what may be parts; None for what is neither text nor parts.

    With `thoughts` all of it are thoughts. An object that is no part stands for the JSON that was asked for.
    """
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if isinstance(value, dict) and not thoughts and not _is_part(value):
        return bytes(raw).decode(), None
    if not isinstance(value, list | dict):
        return None
    said: tuple[list[str], list[str]] = [], []
    understood = [_hear(part, said, depth=0) for part in _listed(value)]
    if understood and not any(understood):
        return None
    text, thought = ("".join(pieces) for pieces in said)
    return (text + thought, None) if thoughts else (text, thought or None)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _is_part(value: dict[str, Any]) -> bool:
    return isinstance(value.get("type"), str) or isinstance(value.get("text"), str)


def _hear(part: Any, said: tuple[list[str], list[str]], *, depth: int) -> bool:
    """Take a part to the texts or to the thoughts. False for what is no part; one of another kind says nothing here."""
    if isinstance(part, str):
        said[0].append(part)
        return True
    if not isinstance(part, dict) or not _is_part(part) or depth > _DEEPEST:
        return False
    if part.get("type") in _THINKING:
        inner: tuple[list[str], list[str]] = [], []
        for name in ("thinking", "reasoning", "thought", "text", "summary"):
            for each in _listed(part.get(name, [])):
                _hear(each, inner, depth=depth + 1)
        said[1].extend((*inner[0], *inner[1]))
        return True
    text = part.get("text")
    if isinstance(text, dict):
        text = text.get("value")
    if isinstance(text, str):
        said[0].append(text)
    return True
