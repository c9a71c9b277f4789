"""`code`: an answer that is a program in a fenced block."""

import re
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from looper.contract.base import Contract, Violation, quote, visible
from looper.contract.fences import Block, blocks
from looper.settings import Setting

_ALIASES = (
    ("python", "py", "python3", "py3"),
    ("javascript", "js", "node", "mjs"),
    ("typescript", "ts"),
    ("cpp", "c++", "cc", "cxx"),
    ("csharp", "c#", "cs"),
    ("bash", "sh", "shell", "zsh"),
    ("rust", "rs"),
    ("go", "golang"),
    ("kotlin", "kt"),
    ("ruby", "rb"),
    ("yaml", "yml"),
    ("diff", "patch"),
)
_NAMES = {alias: names[0] for names in _ALIASES for alias in names}

# How programs begin, and how sentences look: a text without fences is code if it has the one and little of the other.
_BEGINNING = re.compile(
    r"(?:from\s+[\w.]+\s+import\s|import\s+[\w.{*\"']|def\s+\w+\s*\(|class\s+\w+|async\s+def\s|#include\b|#!|package\s+\w"
    r"|func\s+\w*\(|fn\s+\w+|pub\s|use\s+[\w:]+|public\s+\w|const\s+\w+\s*=|let\s+\w+\s*=|var\s+\w+|function\s+\w+\s*\("
    r"|using\s+\w|namespace\s|SELECT\s|diff --git\s|--- a/|@\w+|<\?php|int\s+main\s*\()"
)
_SENTENCE = re.compile(r"\s*[A-Z][\w',-]*(?:\s+[\w',()-]+){3,200}[.:!?]\s*")
_LINES = 2_000


class CodeConfig(Setting):
    """`contract: {type: code, language: python}`"""

    type: Literal["code"]
    language: str | None = Field(default=None, pattern=r"^[A-Za-z0-9+#._-]{1,32}$")
    one_block: bool = Field(default=True, description="whether there may be one block of code only")

    def build(self) -> "Code":
        return Code(self)


class Code(Contract[str]):
    """A value is the code without blank lines around it and blanks behind its lines.

    Of several blocks the last one counts that is marked as the language; else the last that is not marked at all. Text
    without any block is code if it begins as programs do and has no sentences to speak of.
    """

    def __init__(self, config: CodeConfig) -> None:
        self._language = _name(config.language or "")
        self._tag = config.language or ""
        self._one_block = config.one_block

    def extract(self, text: str) -> str | None:
        content = visible(text)
        found = list(blocks(content))
        own = self._own(found)
        if own is not None:
            return _tidy(own.content)
        return _tidy(content) or None if not found and _looks_like_code(content) else None

    def _own(self, found: list[Block]) -> Block | None:
        """The block that holds the answer."""
        filled = [block for block in reversed(found) if block.content.strip()]
        if not self._language:
            return next(iter(filled), None)
        marked = (block for block in filled if _name(block.language) == self._language)
        return next(marked, None) or next((block for block in filled if not block.language), None)

    def render(self, value: str) -> str:
        longest = max((len(run) for run in re.findall(r"`{3,}|~{3,}", value)), default=2)
        fence = "`" * (longest + 1)
        return f"{fence}{self._tag}\n{value}\n{fence}"

    def check(self, text: str) -> Violation | None:
        content = visible(text)
        found = list(blocks(text))
        own = self._own(found if content == text else list(blocks(content)))
        if own is None:
            return Violation(
                f"The answer must have its {self._tag} code in a fenced block: {quote(text)}."
            )
        if self._one_block and len(found) != 1:
            return Violation(f"The answer must have one fenced block, not {len(found)}.")
        return None if own.closed else Violation("The fenced block must be closed.")

    def _mended(self, text: str) -> Iterator[str]:
        yield visible(text).strip()
        value = self.extract(text)
        if value is not None:
            yield self.render(value)


def _name(language: str) -> str:
    return _NAMES.get(language.lower(), language.lower())


def _tidy(code: str) -> str:
    lines = [line.rstrip() for line in code.replace("\r\n", "\n").split("\n")]
    return "\n".join(lines).strip("\n")


def _looks_like_code(text: str) -> bool:
    lines = [line for line in text.strip().split("\n")[:_LINES] if line.strip()]
    if not lines or not _BEGINNING.match(lines[0].lstrip()[:200]):
        return False
    sentences = sum(_SENTENCE.fullmatch(line[:400]) is not None for line in lines)
    return sentences * 10 <= len(lines)
