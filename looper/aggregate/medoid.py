"""Of free texts, the one that the others are most like."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

# Words; where a script writes none, characters.
_TOKEN = re.compile(
    r"[\u2e80-\ua4cf\uac00-\ud7af\uf900-\ufaff]|[^\W\u2e80-\ua4cf\uac00-\ud7af\uf900-\ufaff]+"
)
_LONGEST = 20_000
_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Text:
    """A candidate, what its likeness counts for, and its rating."""

    text: str
    weight: float = 1.0
    rating: float = 0.0


def similarity(a: str, b: str) -> float:
    """F1 of the two sets of words, 0..1. Of long texts the first and the last ten thousand characters count."""
    return _f1(_tokens(a), _tokens(b))


def medoid(texts: Sequence[Text]) -> int:
    """The index of the text with the highest weighted mean similarity to the others.

    Equals go to the higher rating, then to the one that stands first.
    """
    tokens = [_tokens(each.text) for each in texts]
    return min(
        range(len(texts)), key=lambda at: (-_likeness(at, tokens, texts), -texts[at].rating, at)
    )


def _likeness(at: int, tokens: Sequence[frozenset[str]], texts: Sequence[Text]) -> float:
    others = [other for other in range(len(texts)) if other != at]
    total = math.fsum(texts[other].weight for other in others)
    alike = math.fsum(texts[other].weight * _f1(tokens[at], tokens[other]) for other in others)
    return round(alike / total, _DIGITS) if total else 0.0


def _tokens(text: str) -> frozenset[str]:
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} {text[-_LONGEST // 2 :]}"
    return frozenset(_TOKEN.findall(text.casefold()))


def _f1(a: frozenset[str], b: frozenset[str]) -> float:
    return 2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0
