"""Do certain words occur in what the user wrote?"""

import re
import unicodedata
from typing import Literal, Self

from pydantic import Field, model_validator

from extproc.signals.base import Reading
from looper.chat import ChatRequest
from looper.settings import Setting


class KeywordConfig(Setting):
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

    def read(self, text: str, request: ChatRequest) -> Reading:
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

    The characters beside a hit are tested here because a regex's word boundary knows only ASCII in RE2. In time
    linear in the text: where a hit is refused, so is every other one in the same run of letters.
    """
    open_left, open_right = not _runs_on(word[0]), not _runs_on(word[-1])
    at = text.find(word)
    while at >= 0:
        end = at + len(word)
        if (open_left or at == 0 or not _runs_on(text[at - 1])) and (
            open_right or end == len(text) or not _runs_on(text[end])
        ):
            return True
        at = text.find(word, at + 1 if open_left else _end_of_run(text, at))
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
_RUN = re.compile(f"[^\\W{_UNSPACED}]+")


def _runs_on(character: str) -> bool:
    """Whether a word goes on with this character: a letter, a digit, or a mark that belongs to one."""
    if character.isascii():
        return character.isalnum() or character == "_"
    return _RUN.match(character) is not None or _is_mark(character)


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M" and not _SPACELESS.match(character)


_SPACELESS = re.compile(f"[{_UNSPACED}]")


def _end_of_run(text: str, at: int) -> int:
    while at < len(text):
        run = _RUN.match(text, at)
        if run is not None:
            at = run.end()
        elif _is_mark(text[at]):
            at += 1
        else:
            break
    return at
