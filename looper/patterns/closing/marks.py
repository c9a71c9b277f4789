"""Marks of fences in what others write: whoever has read evidence can be made to write its mark."""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from looper.wire.folding import INVISIBLE

_IN_ITS_PLACE = "***"


def masked(text: str, marks: Sequence[str]) -> str:
    """A text without these marks, however they are written."""
    signs = _signs(text)
    for mark in marks:
        # A mark is of one run, and what finds all its forms takes long to make: nearly no text has any of them.
        if _signs(mark) in signs:
            text = _written(mark).sub(_IN_ITS_PLACE, text)
    return text


def _signs(text: str) -> bytes:
    """The letters and digits of a text, of those that a mark may be written with, and nothing between them."""
    if not text.isascii() and _STYLED_SIGN.search(text):
        text = _STYLED_SIGN.sub(lambda found: _FOLDED.get(found[0], ""), text)
    return text.encode("utf-8", "surrogatepass").lower().translate(None, _BETWEEN)


_BETWEEN = bytes(point for point in range(256) if point > 127 or not chr(point).isalnum())


@lru_cache(maxsize=64)
def _written(mark: str) -> re.Pattern[str]:
    """Finds a mark in any case and width, and with other signs than letters and digits between its own."""
    apart = f"(?:[^\\w{_LETTERS}]|[_{INVISIBLE}]){{0,{_APART}}}+"
    return re.compile(apart.join(f"[{re.escape(_alike(each))}]" for each in mark))


def _alike(character: str) -> str:
    """Everything that is read as this character."""
    folded = character.casefold()
    return "".join(dict.fromkeys((folded, folded.upper(), *_ALIKE.get(folded, ()))))


_APART = 8
"""So many signs between two letters may still be read over."""

_STYLED = (
    (0x00B2, 0x00BB),
    (0x1D2C, 0x1DC0),
    (0x2070, 0x20A0),
    (0x2100, 0x2190),
    (0x2460, 0x2500),
    (0xFF10, 0xFF5B),
    (0x1D400, 0x1D800),
    (0x1F130, 0x1F14A),
    (0x1FBF0, 0x1FBFA),
)
"""Where Unicode keeps letters and digits in other widths and styles, raised, lowered, and in circles."""


def _styled() -> dict[str, list[str]]:
    alike: dict[str, list[str]] = {}
    for start, stop in _STYLED:
        for point in map(chr, range(start, stop)):
            alike.setdefault(unicodedata.normalize("NFKC", point).casefold(), []).append(point)
    return alike


_ALIKE = _styled()
_FOLDED = {point: plain for plain, points in _ALIKE.items() if plain.isascii() for point in points}
_STYLED_SIGN = re.compile(
    f"[{''.join(f'{chr(start)}-{chr(stop - 1)}' for start, stop in _STYLED)}]"
)
_LETTERS = "".join(point for text in _ALIKE for point in _ALIKE[text] if text.isalnum())
"""Signs that are letters all the same, such as those in circles."""
