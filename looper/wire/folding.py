"""Texts as a reader takes them, whatever their case, their width, and what cannot be seen in them."""

import re
import unicodedata

INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""Of a character class: what Unicode lets nobody see, which models read past."""

_INVISIBLE = re.compile(f"[{INVISIBLE}]+")
_STRETCH = 256
"""Characters that are normalised at a time: for marks in a row it takes as long as their number squared."""

_LONGEST_CHARACTER = 32
_JAMO = range(0x1100, 0x1200)


def plain(text: str) -> str:
    """The text without what cannot be seen, and in one width: case stays."""
    if text.isascii():
        return text
    text = _INVISIBLE.sub("", text)
    return "".join(_normal(part) for part in _stretches(text))


def folded(text: str) -> str:
    """The same without regard to case."""
    if text.isascii():
        return text.lower()
    once = plain(text).casefold()
    return once if once.isascii() else plain(once)


def _normal(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFKC", text)


def _stretches(text: str) -> list[str]:
    """Parts of a text that are no longer than it takes, none of which begins with what belongs to the one before."""
    parts: list[str] = []
    start = 0
    while start < len(text):
        stop = start + _STRETCH
        latest = stop + _LONGEST_CHARACTER
        while stop < min(latest, len(text)) and _belongs(text[stop]):
            stop += 1
        parts.append(text[start:stop])
        start = stop
    return parts


def _belongs(point: str) -> bool:
    """Whether a character may make one with what stands before it: a mark, or a letter of a Korean syllable."""
    return unicodedata.category(point)[0] == "M" or ord(point) in _JAMO or point in _WIDE_MARKS


_WIDE_MARKS = "\uff9e\uff9f"
"""The marks of half-width kana, which are letters until they are normalised."""
