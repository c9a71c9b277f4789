"""Whole words, in any script."""

import re
import unicodedata
from functools import lru_cache

_NOWHERE = -1


def occurs(word: str, text: str) -> bool:
    """Whether `word` stands in `text` as a whole; both are case-folded alike."""
    return find(word, text) != _NOWHERE


def count(word: str, text: str, most: int) -> int:
    """How often, one beside the other, as far as `most`."""
    found, end = 0, find(word, text)
    while end != _NOWHERE and found < most:
        found += 1
        end = find(word, text, end)
    return found


def find(word: str, text: str, at: int = 0) -> int:
    """The end of the first `word` from `at` with no letter or digit running on at an end that is one itself; else -1.

    The characters beside a hit are looked at here, because a word boundary of RE2's knows only ASCII.
    """
    first = text.find(word, at)
    if first < 0:  # which is nearly always so, and many times quicker to find out
        return _NOWHERE
    pattern = _whole(word)
    hit = pattern.search(text, first)
    while hit is not None:
        start, end = hit.span()
        before, behind = text[max(0, start - 1) : start], text[end : end + 1]
        if not _goes_on(word[0], before) and not _goes_on(word[-1], behind):
            return end
        hit = pattern.search(text, hit.start() + 1)
    return _NOWHERE


UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f"  # Burmese
    "\u1780-\u17ff"  # Khmer
    "\u3040-\u30ff"  # Hiragana, Katakana
    "\u3400-\u9fff"  # Han
    "\U00020000-\U0003ffff"  # Han, the further planes
)
"""Scripts written without spaces have no boundary to test: their words stand beside other letters."""

_LETTER = f"[^\\W{UNSPACED}]"
_ACCENT = "[\u0300-\u036f]"
_IS_LETTER, _IS_UNSPACED = re.compile(_LETTER), re.compile(f"[{UNSPACED}]")


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


_SPELT = re.compile(
    r"[\w"
    "\u0300-\u036f"  # accents
    "\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670"  # points of Hebrew and Arabic
    "\u0900-\u0dff"  # vowel signs of India's scripts
    "]+"
)


def spelling(text: str) -> list[str]:
    """The words of a text, in scripts that put spaces between them; in others whole clauses are one."""
    return _SPELT.findall(text)


def is_spelt(word: str) -> bool:
    """Whether this is one word of a script that puts spaces between words."""
    return _SPELT.fullmatch(word) is not None and not _IS_UNSPACED.search(word)


def similar(one: str, other: str, distance: int) -> bool:
    """Whether at most `distance` letters are wrong, missing or too many, or swapped with the next one."""
    if abs(len(one) - len(other)) > distance:
        return False
    at = _common(one, other)
    one, other = one[at:], other[at:]
    if not one or not other:
        return True  # by as much as the lengths differ
    if distance == 0:
        return False
    return (
        similar(one[1:], other[1:], distance - 1)
        or similar(one[1:], other, distance - 1)
        or similar(one, other[1:], distance - 1)
        or (one[:2] == other[1::-1] and similar(one[2:], other[2:], distance - 1))
    )


def _common(one: str, other: str) -> int:
    """How many letters at the beginning are the same."""
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return at
    return min(len(one), len(other))
