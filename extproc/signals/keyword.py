"""Do certain words occur in what the user wrote?"""

import re
import unicodedata
from functools import lru_cache
from typing import Literal, Self

from pydantic import Field, model_validator

from extproc.signals.base import Reading, SignalSetting, Subject


class KeywordConfig(SignalSetting):
    """Literals, compared without regard to case and, where they begin or end with a letter or digit, as whole words."""

    type: Literal["keyword"]
    any: tuple[str, ...] = Field(default=(), description="at least one of these occurs")
    all: tuple[str, ...] = Field(default=(), description="each of these occurs")
    none: tuple[str, ...] = Field(default=(), description="none of these occurs")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        words = (*self.any, *self.all, *self.none)
        if not words:
            raise ValueError("give at least one of `any`, `all` and `none`")
        if any(not word.strip() for word in words):
            raise ValueError("a keyword must not be blank: it would match everything")
        return self

    def build(self) -> "Keyword":
        return Keyword(self)


class Keyword:
    """Reads a `keyword` signal."""

    def __init__(self, config: KeywordConfig) -> None:
        self._any = [(word, word.casefold()) for word in config.any]
        self._all = [(word, word.casefold()) for word in config.all]
        self._none = [word.casefold() for word in config.none]

    def read(self, subject: Subject) -> Reading:
        text = subject.text
        if any(occurs(word, text) for word in self._none):
            return Reading(match=False, score=0.0)
        needed = [word for word, folded in self._all if occurs(folded, text)]
        if len(needed) < len(self._all):
            return Reading(match=False, score=0.0)
        found = [word for word, folded in self._any if occurs(folded, text)]
        match = bool(found) or not self._any
        return Reading(match=match, score=float(match), hits=(*needed, *found) if match else ())


def occurs(word: str, text: str) -> bool:
    """Whether `word` stands in `text` with no letter or digit running on at an end that is one itself.

    The characters beside a hit are looked at here, because a word boundary of RE2's knows only ASCII.
    """
    first = text.find(word)
    if first < 0:  # which is nearly always so, and many times quicker to find out
        return False
    pattern = _whole(word)
    hit = pattern.search(text, first)
    while hit is not None:
        start, end = hit.span()
        before, behind = text[max(0, start - 1) : start], text[end : end + 1]
        if not _goes_on(word[0], before) and not _goes_on(word[-1], behind):
            return True
        hit = pattern.search(text, hit.start() + 1)
    return False


# Scripts written without spaces have no boundary to test: their words stand beside other letters.
_UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f"  # Burmese
    "\u1780-\u17ff"  # Khmer
    "\u3040-\u30ff"  # Hiragana, Katakana
    "\u3400-\u9fff"  # Han
    "\U00020000-\U0003ffff"  # Han, the further planes
)
_LETTER = f"[^\\W{_UNSPACED}]"
_ACCENT = "[\u0300-\u036f]"
_IS_LETTER, _IS_UNSPACED = re.compile(_LETTER), re.compile(f"[{_UNSPACED}]")


@lru_cache(maxsize=4096)
def _whole(word: str) -> re.Pattern[str]:
    """Finds a word with nothing running on that a character class can name: nearly all there is, in linear time."""
    left = f"(?<!{_LETTER})(?<!{_ACCENT})" if _runs_on(word[0]) else ""
    right = f"(?!{_LETTER}|{_ACCENT})" if _runs_on(word[-1]) else ""
    return re.compile(left + re.escape(word) + right)


def _goes_on(end: str, beside: str) -> bool:
    """Whether a word that ends in `end` goes on with the mark beside it, of whatever script that is."""
    return beside != "" and _is_mark(beside) and _runs_on(end)


def _runs_on(character: str) -> bool:
    """Whether a word goes on with this character: a letter, a digit, or a mark that belongs to one."""
    return _IS_LETTER.match(character) is not None or _is_mark(character)


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M" and not _IS_UNSPACED.match(character)
