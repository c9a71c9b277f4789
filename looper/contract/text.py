"""`text`: free text that has to have, or must not have, certain things in it."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from looper.contract.base import Contract, Violation, quote, visible
from looper.contract.fences import unfenced
from looper.contract.patterns import Pattern, PatternSource
from looper.settings import Setting

Patterns = PatternSource | tuple[PatternSource, ...]


class TextConfig(Setting):
    """`contract: {type: text, must_not_match: "(?i)as an ai", max_chars: 2000}`"""

    type: Literal["text"]
    must_match: Patterns = ()
    must_not_match: Patterns = ()
    max_chars: int | None = Field(default=None, ge=1)

    def build(self) -> "Text":
        return Text(self)


class Text(Contract[str]):
    """A value is the visible text. What is required must be in it; what is forbidden, also not in its reasoning."""

    comparable = False

    def __init__(self, config: TextConfig) -> None:
        self._required = _compiled(config.must_match)
        self._forbidden = _compiled(config.must_not_match)
        self._max_chars = config.max_chars

    def extract(self, text: str) -> str | None:
        content = visible(text).strip()
        return content if self.check(content) is None else None

    def allows(self, wanted: Contract[str]) -> bool:
        return True

    def render(self, value: str) -> str:
        return value

    def check(self, text: str) -> Violation | None:
        content = visible(text).strip()
        if not content:
            return Violation("The answer is empty.")
        if self._max_chars is not None and len(text) > self._max_chars:
            return Violation(
                f"The answer has {len(text)} characters, and may have {self._max_chars}."
            )
        if missing := next((each for each in self._required if not each.found(content)), None):
            return Violation(
                f"The answer must match {missing.source[:80]}, and does not: {quote(content)}."
            )
        if present := next((each for each in self._forbidden if each.found(text)), None):
            return Violation(f"The answer must not match {present.source[:80]}, and does.")
        return None

    def _mended(self, text: str) -> Iterator[str]:
        content = visible(text).strip()
        yield content
        if (inside := unfenced(content)) is not None:
            yield inside.strip()


def _compiled(sources: str | tuple[str, ...]) -> tuple[Pattern, ...]:
    return tuple(map(Pattern, (sources,) if isinstance(sources, str) else sources))
