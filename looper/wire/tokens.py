"""How many tokens a text has, estimated by script, and how a text is cut to a number of them."""

import math
import unicodedata
from collections.abc import Sequence

MARK = "\n[… cut …]\n"
"""Stands where something was left out."""

_HEAD = 0.6
"""Of what is kept, the part that comes from the beginning: questions and claims come first, results last."""


_LONG = 1 << 20
_STRETCH, _STRETCHES = 1 << 12, 64

IMAGE = 1000
"""Tokens that an image is taken for: vendors' counts go from under a hundred to some thousands, by its size."""

MESSAGE = 4
"""Tokens that a chat template puts around a message."""


def estimate(text: str) -> int:
    """About how many tokens `text` has, rather too many than too few."""
    return math.ceil(weigh(text))


def at_most(tokens: int) -> int:
    """How many tokens there may really be of so many that are estimated."""
    return math.ceil(tokens * _MARGIN)


def surely(tokens: int) -> int:
    """How many tokens may be estimated of what has to be no more than so many."""
    return max(0, int(tokens / _MARGIN))


_MARGIN = 1.25
"""By how much models' own counts may be above the estimate: they hardly are by more than a fifth."""


def weigh(text: str) -> float:
    """The same, not rounded, so that the pieces of a text weigh as much as the whole.

    Tokenisers take about four ASCII characters for a token, two of other alphabets, and one of scripts whose
    characters are three bytes of UTF-8 (Chinese, Japanese, Thai, Hindi); an emoji is about two tokens. Of a text of
    more than a million characters, stretches from all over it are looked at.
    """
    if text.isascii():  # which a string knows of itself
        return len(text) / 4
    if len(text) > _LONG:
        return weigh(_sampled(text)) * len(text) / (_STRETCHES * _STRETCH)
    data = text.encode("utf-8", "surrogatepass")
    two, three, four = (len(data) - len(data.translate(None, first)) for first in _FIRST_BYTES)
    ascii_ = len(text) - two - three - four
    return ascii_ / 4 + two / 2 + three + 2 * four


_FIRST_BYTES = (bytes(range(0xC0, 0xE0)), bytes(range(0xE0, 0xF0)), bytes(range(0xF0, 0x100)))
"""What characters of two, three and four bytes of UTF-8 begin with."""


def _sampled(text: str) -> str:
    step = (len(text) - _STRETCH) / (_STRETCHES - 1)
    starts = (int(number * step) for number in range(_STRETCHES))
    return "".join(text[start : start + _STRETCH] for start in starts)


def fit(text: str, tokens: int) -> str:
    """`text` cut to about `tokens`: head and tail are kept, with a mark between them, and no character is split."""
    size = estimate(text)
    if size <= max(0, tokens):
        return text
    keep = int(len(text) * max(0, tokens - estimate(MARK)) / size)
    while keep > 0:
        cut = _cut(text, keep)
        if estimate(cut) <= tokens:
            return cut
        keep = keep * 9 // 10
    return ""


def tail(text: str, tokens: int) -> str:
    """The last `tokens` or so of a text, behind a mark if something was cut: results come last."""
    size = estimate(text)
    if size <= tokens:
        return text
    keep = len(text) * tokens // size
    while keep > 0:
        kept = text[_boundary(text, len(text) - keep) :]
        if estimate(kept) <= tokens:
            return MARK.lstrip() + kept
        keep = keep * 9 // 10
    return ""


def fit_all(texts: Sequence[str], tokens: int) -> list[str]:
    """Texts cut so that together they have about `tokens`: the short ones stay whole, the long ones share the rest."""
    sizes = [estimate(text) for text in texts]
    share = tokens // max(1, len(texts))
    left, long = tokens, len(texts)
    for size in sorted(sizes):
        if size > left // max(1, long):
            share = left // long
            break
        left, long = left - size, long - 1
    else:
        return list(texts)
    return [
        fit(text, share) if size > share else text for text, size in zip(texts, sizes, strict=True)
    ]


def ends(text: str, size: int) -> str:
    """The first and last halves of `size` characters, each on a line of its own; a text no longer stays as it is."""
    if len(text) <= size:
        return text
    tail = len(text) - size // 2
    return text[: _boundary(text, size // 2)] + "\n" + text[_boundary(text, tail) :]


def _cut(text: str, keep: int) -> str:
    head = int(keep * _HEAD)
    tail = len(text) - (keep - head)
    return text[: _boundary(text, head)] + MARK + text[_boundary(text, tail) :]


def _boundary(text: str, at: int) -> int:
    """The next place from `at` that does not part a character from what belongs to it."""
    for place in range(at, min(len(text), at + _LONGEST_CHARACTER)):
        if not (_belongs(text[place]) or text[place - 1 : place] == _JOINER):
            return place
    return min(len(text), at + _LONGEST_CHARACTER)


_JOINER = "\u200d"
_LONGEST_CHARACTER = 32
"""Code points; what is longer is no character but an attempt at something."""


def _belongs(point: str) -> bool:
    """Whether a code point goes with the one before it: a mark, a joiner, or a tone of skin."""
    return (
        unicodedata.category(point)[0] == "M"
        or point == _JOINER
        or "\U0001f3fb" <= point <= "\U0001f3ff"
    )


class Correction:
    """By how much estimates differ from what models report: one factor for all, slow, and within bounds."""

    def __init__(self) -> None:
        self.factor = 1.0

    def learn(self, estimated: int, reported: int) -> None:
        """Take one prompt's count into account. Short ones say more of a model's template than of its tokens."""
        if estimated < _TELLING or reported < 1:
            return
        seen = min(max(reported / estimated, _LEAST), _MOST)
        self.factor = float(self.factor ** (1 - _WEIGHT) * seen**_WEIGHT)


_TELLING = 64
_LEAST, _MOST = 0.5, 2.0
_WEIGHT = 0.05
"""What a single report counts: about 14 of them make up half of what is known."""
