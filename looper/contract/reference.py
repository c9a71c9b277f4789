"""`reference`: an answer that chooses one of the texts a model was shown."""

import re
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from looper.contract.extraction import (
    AMBIGUOUS,
    Ambiguous,
    Extracting,
    Extraction,
    check_round_trip,
    check_template,
    plain_characters,
)
from looper.settings import Setting

_PLACEHOLDER = "{reference}"
_MOST = 10_000
_ORDINALS = (
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
)


class ReferenceConfig(Setting):
    """`contract: {type: reference, labels: [reference, candidate]}`"""

    type: Literal["reference"]
    labels: tuple[str, ...] = Field(
        default=("reference", "candidate", "response", "answer", "option", "solution"),
        min_length=1,
        description="what the texts are called, as in: reference 2",
    )
    extract: Extraction = Extraction()
    render: str | None = Field(default=None, description="how a published answer has to end")

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if not all(re.fullmatch(r"\w[\w ]{0,30}", label) for label in self.labels):
            raise ValueError("a label is a word or two")
        check_template(self.render, _PLACEHOLDER)
        check_round_trip(self.build(), (1, 12))
        return self

    def build(self) -> "Reference":
        return Reference(self)


_BEST = r"\b(?:best|better|choose|chosen|pick|picked|select|selected|selection|prefer|preferred|winner|strongest)\b"
_COUNTED = r"(?:no\.|number|nr\.?|#|№)"
_SAID_OF = (
    r"[\s*_`\"']{0,4}(?:(?:[:=,]|[-–—]\s|\bis\b)[\s*_`\"']{0,4})?"
    rf"(?:no\.?|{_COUNTED})?[\s#*_`\[({{]{{0,4}}"
)
"""What models write between the name of a text, or the word that it is the best, and its number."""

_NUMBER = r"(?P<number>\d{1,5})(?!\w|\.\d)"
_LEADING = re.compile(rf"[*_`\[(#]{{0,4}}{_NUMBER}[*_`\])]{{0,4}}\s?[:–—-]\s")
"""A number at the beginning, with its reason behind it."""

_WORSE = re.compile(r"\b(?:not|than|over|worse|unlike|beats?|rather)\b|n't\b", re.IGNORECASE)
_TAIL = 4_000
_LONGEST = 100


class Reference(Extracting[int]):
    """A value is the number of a text, counted from 1 as prompts do it.

    `last_match` reads, in this order: the last marker or box; the last text that is called the best or chosen; the one
    text that is named at all.
    """

    placeholder = _PLACEHOLDER

    def __init__(self, config: ReferenceConfig, references: Sequence[str] | None = None) -> None:
        super().__init__(config.extract, config.render)
        self._config = config
        self._label = config.labels[0]
        self._references = references
        labels = "|".join(sorted(map(re.escape, config.labels), key=len, reverse=True))
        ordinal = rf"(?P<ordinal>{'|'.join(_ORDINALS)})\s{{1,4}}(?:{labels})\b"
        self._named = re.compile(rf"\b(?:{labels})s?{_SAID_OF}{_NUMBER}|\b{ordinal}", re.IGNORECASE)
        self._bare = re.compile(rf"[\s*_`\"'“([{{<#$:.-]{{0,12}}(?<![-–]){_NUMBER}")
        self._numbered = re.compile(rf"\b{_COUNTED}\s{{0,2}}{_NUMBER}", re.IGNORECASE)
        self._best = re.compile(_BEST, re.IGNORECASE)
        self._best_is = re.compile(rf"{_BEST}{_SAID_OF}{_NUMBER}", re.IGNORECASE)

    def among(self, references: Sequence[str]) -> "Reference":
        """The same contract about the texts that a prompt shows: other numbers are no answers."""
        return Reference(self._config, tuple(references))

    def resolve(self, text: str) -> str | None:
        """The text that an answer chooses. Only of a contract made with `among`."""
        number = self.extract(text)
        return None if number is None or self._references is None else self._references[number - 1]

    def _wanted(self) -> str:
        most = "" if self._references is None else f" from 1 to {len(self._references)}"
        return f"the number of one {self._label}{most}"

    def _write(self, value: int) -> str:
        return f"{self._label} {value}"

    def _number(self, found: re.Match[str]) -> int | None:
        ordinal = found.groupdict().get("ordinal")
        number = _ORDINALS.index(ordinal.lower()) + 1 if ordinal else int(found["number"])
        most = _MOST if self._references is None else len(self._references)
        return number if 1 <= number <= most else None

    def _whole(self, text: str) -> int | None:
        plain = plain_characters(text).strip(" *_`\"'([{#\n") if len(text) <= _LONGEST else ""
        tries = (
            pattern.match(plain)
            for pattern in (self._named, self._numbered, self._best_is, self._bare)
        )
        found = next((each for each in tries if each and _is_end(each)), None)
        return self._number(found) if found else None

    def _read(self, place: str) -> int | Ambiguous | None:
        named = [number for found in self._named.finditer(place) if (number := self._number(found))]
        if named:
            return named[0] if len(set(named)) == 1 else AMBIGUOUS
        found = self._bare.match(place)
        other = (
            re.match(r"[\s)\]]{0,4}(?:or|and|/|,|&)[\s#(\[]{0,4}\d", place[found.end() :])
            if found
            else None
        )
        if other:
            return AMBIGUOUS
        return self._number(found) if found else None

    def _search(self, text: str) -> int | Ambiguous | None:
        plain = plain_characters(text)
        declared = self._declared(plain)
        if declared is not None:
            return declared
        whole = self._whole(plain.strip())
        return whole if whole is not None else self._from_prose(plain[-_TAIL:])

    def _from_prose(self, text: str) -> int | None:
        sentences = re.split(r"(?<=[.!?])\s|\n", text)
        for sentence in reversed(sentences):
            if self._best.search(sentence) and (chosen := self._chosen(sentence)):
                return chosen
        named = {self._number(found) for found in self._named.finditer(text)}
        if not named and (leading := _LEADING.match(text.lstrip())):
            named = {self._number(leading)}
        return named.pop() if len(named) == 1 else None

    def _chosen(self, sentence: str) -> int | None:
        """The one text a sentence speaks for: what stands behind "than" or "not" is what it is compared with."""
        other = _WORSE.search(sentence)
        before = sentence[: other.start() if other else None]
        for pattern in (self._named, self._numbered, self._best_is):
            if named := {self._number(found) for found in pattern.finditer(before)}:
                return named.pop() if len(named) == 1 else None
        return None


def _is_end(found: re.Match[str]) -> bool:
    return re.fullmatch(r"[\s*_`\"'”)\]}.!:]*", found.string[found.end() :]) is not None
