"""Of free texts, the one that all are most like."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

# Words; where a script writes none, characters.
_TOKEN = re.compile(
    r"[\u2e80-\ua4cf\uac00-\ud7af\uf900-\ufaff]|[^\W\u2e80-\ua4cf\uac00-\ud7af\uf900-\ufaff]+"
)
_LONGEST = 20_000
_ALTOGETHER = 200_000
"""Characters of all texts together that are compared, so that no team keeps the process from its other work."""
_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Text:
    """A candidate, what its likeness counts for, and its rating."""

    text: str
    weight: float = 1.0
    rating: float = 0.0


def similarity(a: str, b: str) -> float:
    """F1 of the two sets of words, 0..1. Of long texts the first and the last ten thousand characters count."""
    one, other = _tokens(a), _tokens(b)
    return _f1(len(one & other), len(one) + len(other))


def medoid(texts: Sequence[Text]) -> int:
    """The index of the text with the highest weighted mean similarity to all, itself included.

    So one that outweighs the others together is chosen, as it is in a vote. Equals go to the higher rating, then to the
    one that stands first. The more texts there are, the less of a long one counts.
    """
    longest = min(_LONGEST, _ALTOGETHER // max(1, len(texts)))
    alike = _pairs([_tokens(each.text, longest) for each in texts])
    return min(
        range(len(texts)), key=lambda at: (-_likeness(at, alike, texts), -texts[at].rating, at)
    )


def _likeness(at: int, alike: Sequence[Sequence[float]], texts: Sequence[Text]) -> float:
    weighed = math.fsum(
        each.weight * likeness for each, likeness in zip(texts, alike[at], strict=True)
    )
    return round(weighed, _DIGITS)


def _pairs(texts: Sequence[frozenset[str]]) -> list[list[float]]:
    """The similarity of each text to each."""
    sets = _as_bits(texts)
    alike = [[1.0] * len(texts) for _ in texts]
    for at, tokens in enumerate(texts):
        for other in range(at):
            common = (sets[at] & sets[other]).bit_count()
            alike[at][other] = alike[other][at] = _f1(common, len(tokens) + len(texts[other]))
    return alike


def _as_bits(texts: Sequence[frozenset[str]]) -> list[int]:
    """Sets of words as numbers with a bit for each word: what two have in common is found far quicker."""
    places: dict[str, int] = {}
    found = []
    for tokens in texts:
        bits = bytearray()
        for place in [places.setdefault(token, len(places)) for token in tokens]:
            bits.extend(bytes(max(0, place // 8 + 1 - len(bits))))
            bits[place // 8] |= 1 << place % 8
        found.append(int.from_bytes(bits, "little"))
    return found


def _tokens(text: str, longest: int = _LONGEST) -> frozenset[str]:
    if len(text) > longest:
        text = f"{text[: longest // 2]} {text[-longest // 2 :]}"
    return frozenset(_TOKEN.findall(text.casefold()))


def _f1(common: int, together: int) -> float:
    return 2 * common / together if together else 1.0
