"""Fenced blocks of Markdown, found in one pass."""

import re
from collections.abc import Iterator
from typing import NamedTuple

_FENCE = re.compile(r"^[ \t]{0,12}(?:[-*+>][ \t]{1,3})?(`{3,}|~{3,})[ \t]*([^`\n]*)$", re.MULTILINE)

_LANGUAGE = re.compile(r"\{?\.?([\w+#.-]*)")


class Block(NamedTuple):
    """A fenced block: what stands behind its opening fence, its content, where it ends, and whether it is closed."""

    info: str
    content: str
    stop: int
    closed: bool

    @property
    def language(self) -> str:
        """The language as it is written, in lower case; empty if there is none."""
        found = _LANGUAGE.match(self.info.strip().lower())
        return found[1] if found else ""


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
    first = next(blocks(stripped), None) if stripped.startswith(("```", "~~~")) else None
    return first.content.strip("\n") if first and first.stop == len(stripped) else None


def _closes(fence: re.Match[str], opening: re.Match[str]) -> bool:
    mark = opening[1]
    return fence[1][0] == mark[0] and len(fence[1]) >= len(mark) and not fence[2].strip()


def _block(text: str, opening: re.Match[str], closing: re.Match[str] | None) -> Block:
    inside = text[opening.end() + 1 : closing.start() if closing else len(text)]
    return Block(opening[2], inside, closing.end() if closing else len(text), closing is not None)
