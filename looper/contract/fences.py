"""Fenced blocks of Markdown, found in one pass."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_FENCE = re.compile(r"^[ \t]{0,12}(?:[-*+>][ \t]{1,3})?(`{3,}|~{3,})[ \t]*([^`\n]*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language as written, in lower case, its content, where it stands, and whether it ends."""

    language: str
    content: str
    start: int
    stop: int
    closed: bool


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a text, in order. One that is never closed reaches to the end."""
    opening: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opening is None:
            opening = fence
        elif _closes(fence, opening):
            yield _block(text, opening, fence)
            opening = None
    if opening is not None:
        yield _block(text, opening, None)


def unfenced(text: str) -> str | None:
    """What a text holds that is one fenced block and nothing else; None for any other text."""
    stripped = text.strip()
    found = list(blocks(stripped)) if stripped.startswith(("```", "~~~")) else []
    if len(found) == 1 and found[0].stop == len(stripped):
        return found[0].content.strip("\n")
    return None


def _closes(fence: re.Match[str], opening: re.Match[str]) -> bool:
    mark = opening[1]
    return fence[1][0] == mark[0] and len(fence[1]) >= len(mark) and not fence[2].strip()


def _block(text: str, opening: re.Match[str], closing: re.Match[str] | None) -> Block:
    language = re.match(r"\{?\.?([\w+#.-]*)", opening[2].strip().lower())
    inside = text[opening.end() + 1 : closing.start() if closing else len(text)]
    stop = closing.end() if closing else len(text)
    name = language[1] if language else ""
    return Block(name, inside, opening.start(), stop, closing is not None)
