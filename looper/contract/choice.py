"""`choice`: an answer that is one of a few values."""

import re
import unicodedata
from collections.abc import Iterator
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
from looper.contract.grammar import Grammar
from looper.settings import Setting

_PLACEHOLDER = "{choice}"


class ChoiceConfig(Setting):
    """`contract: {type: choice, values: [A, B, C, D], render: "ANSWER: {choice}"}`"""

    type: Literal["choice"]
    values: tuple[str, ...] = Field(min_length=1, max_length=100)
    extract: Extraction = Extraction()
    render: str | None = Field(default=None, description="how a published answer has to end")

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if not all(0 < len(_key(value)) <= 100 for value in self.values):
            raise ValueError("a value has 1 to 100 characters")
        if len(set(map(_key, self.values))) < len(self.values):
            raise ValueError("values differ in more than case, width and blanks")
        check_template(self.render, _PLACEHOLDER)
        check_round_trip(self.build(), self.values)
        return self

    def build(self) -> "Choice":
        return Choice(self)


def _key(value: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", value).casefold().split())


# What may stand before a value at its place, and between two of them that are both meant.
_MARKS = (
    r"[\s*_`\"'“”‘’«»(\[{<$:>#=→.-]|\\[(\[ ,;!]"
    r"|\\(?:boxed|fbox|text|textbf|textit|mathbf|mathrm|mathit|displaystyle)\b\s?\{?"
)
_LABELLED = rf"(?:{_MARKS}|\b(?:option|choice|letter|answer)\b){{0,12}}?"
_OPENING = rf"(?:{_MARKS}|\b(?:option|choice|letter|answer|is|the|be)\b){{0,12}}?"
_CLOSING = r"[\s)\]}>*_`\"'“”‘’».,;:!$\\]{0,12}"
_JOINT = (
    r"[\s)\]}*_`\"'.(]{0,8}(?:and/or|or|and|vs\.?|versus|[/,|&+;])[\s(\[{*_`\"'\\$]{0,8}"
    r"(?:(?:option|choice)\s)?[\s(\[{*_`\"'\\$]{0,8}"
)
_RIGHT = re.compile(
    r"\b(?:is|seems|must be)\s{1,3}(?:therefore\s|clearly\s|thus\s)?(?:the\s{1,3})?(?:only\s|most\s|single\s)?"
    r"(?:correct|right|best)\b",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    r"\b(?:not|never|neither|nor|cannot|except|incorrect|wrong|eliminated?|rule[sd]? out)\b|n't\b",
    re.IGNORECASE,
)
_CUE = re.compile(
    r"(?:\b(?:option|choice|with|is|be|for|answer|choose|pick|select)|[(:])\s{0,2}$", re.IGNORECASE
)
# What is bold, unless it is the label of an option, as in **B)** …
_BOLD = re.compile(
    r"\*\*(\([^*\n]{1,120}|[^*\n]{1,120}[^*\n):])\*\*|__([^_\n]{1,120})__|\*\*(\w)\*\*"
)
_FENCE = ("```", "~~~")
_LINES = 200
_TAIL = 20_000
_LONGEST_LINE = 400


def _pattern(value: str) -> str:
    """Finds a value as a word of its own, however its blanks are written."""
    words = r"\s{1,4}".join(map(re.escape, plain_characters(value).split()))
    start = r"(?<!\w)(?<!\w['’])" if _is_word(value.strip()[0]) else ""
    end = r"(?!\w|['’-]\w)" if _is_word(value.strip()[-1]) else ""
    return f"{start}{words}{end}"


def _is_word(character: str) -> bool:
    """Whether words in this script are set apart by blanks."""
    return (character.isalnum() and ord(character) < 0x2E80) or (
        character.isascii() and character.isalnum()
    )


class Choice(Extracting[str]):
    """A value is one of the configured ones, as it is written there.

    `last_match` reads, in this order: the last marker or box; the last "the answer is …" or "… is correct"; a line that
    is nothing but a value, or begins with one as a label; a value in bold; the last line, if one value is named there.
    """

    placeholder = _PLACEHOLDER

    def __init__(self, config: ChoiceConfig) -> None:
        super().__init__(config.extract, config.render)
        self._values = config.values
        self._spelling = {_key(value): value for value in config.values}
        longest_first = sorted(config.values, key=len, reverse=True)
        value = f"(?P<value>{'|'.join(map(_pattern, longest_first))})"
        self._named = re.compile(value, re.IGNORECASE)
        self._leading = re.compile(_OPENING + value, re.IGNORECASE)
        self._joined = re.compile(_JOINT + value, re.IGNORECASE)
        self._alone = re.compile(_LABELLED + value + _CLOSING + r"\Z", re.IGNORECASE)
        self._label = re.compile(_LABELLED + value + r"[*_`\"']{0,4}[).:,;!—–-]", re.IGNORECASE)

    @property
    def options(self) -> int | None:
        return len(self._values)

    @property
    def grammar(self) -> Grammar:
        return Grammar(self._mode == "exact", choices=tuple(map(self.render, self._values)))

    def _wanted(self) -> str:
        return f"exactly one of {', '.join(self._values)}"[:200]

    def _write(self, value: str) -> str:
        return value

    def _spell(self, found: re.Match[str]) -> str:
        return self._spelling[_key(found["value"])]

    def _whole(self, text: str) -> str | None:
        found = self._alone.match(plain_characters(text)) if len(text) <= _LONGEST_LINE else None
        return self._spell(found) if found else None

    def _read(self, place: str) -> str | Ambiguous | None:
        found = self._leading.match(place)
        if found is None or _is_pronoun(found):
            return None
        other = self._joined.match(place, found.end())
        if other and not _is_pronoun(other) and self._spell(other) != self._spell(found):
            return AMBIGUOUS
        return self._spell(found)

    def _search(self, text: str) -> str | Ambiguous | None:
        plain = plain_characters(text)
        declared = self._declared(plain)
        if declared is None:
            declared = self._called_right(plain)
        return declared if declared is not None else self._from_lines(plain)

    def _called_right(self, text: str) -> str | Ambiguous | None:
        """The value of which the text says that it is the correct one."""
        text = text[-_TAIL:]
        cues = list(_RIGHT.finditer(text))[-_LINES:]
        before = [text[max(cue.start() - 60, 0) : cue.start()].rpartition("\n")[2] for cue in cues]
        said = {self._spell(named[-1]) for each in before if (named := self._names(each))}
        return _only(said)

    def _from_lines(self, text: str) -> str | None:
        lines = list(_last_lines(text))
        if not lines:
            return None
        alone = [self._whole(line) for line in lines[-2:]]
        if alone[-1] is not None:
            return alone[-1] if alone[0] in (None, alone[-1]) else None
        labels = [self._labelled(line) for line in [text.lstrip()[:_LONGEST_LINE], *lines]]
        said = {label for label in labels if label is not None}
        mentioned = self._from_last_line(lines[-1])
        if len(said) == 1 and (labels[0] or labels[-1]):
            return _one(said | ({mentioned} - {None}))
        if labels[-1] is not None:
            return None  # a list of the options, and nothing said about them
        bold = {
            self._whole(each[each.lastindex or 0]) for each in _BOLD.finditer(text[-_TAIL:])
        } - {None}
        return _one(bold) or mentioned

    def _labelled(self, line: str) -> str | None:
        found = self._label.match(line)
        return self._spell(found) if found else None

    def _from_last_line(self, line: str) -> str | None:
        if _NEGATION.search(line):
            return None
        return _one({self._spell(found) for found in self._names(line)})

    def _names(self, line: str) -> list[re.Match[str]]:
        """Where a line names values, as opposed to using the same letters or words for something else."""
        return [found for found in self._named.finditer(line) if _is_name(found)]


def _is_pronoun(found: re.Match[str]) -> bool:
    """Whether a value is rather the article "a" or the pronoun "I", by what follows."""
    text, value = found.string, found["value"]
    return value in ("a", "i", "I") and re.match(r"\s+[^\W\d]", text[found.end() :]) is not None


def _is_name(found: re.Match[str]) -> bool:
    text, value = found.string, found["value"]
    before, after = text[: found.start()], text[found.end() :]
    ends = re.fullmatch(_CLOSING, after) is not None
    if len(value) > 1:
        return ends
    return (
        value.isupper()
        and (ends or _CUE.search(before[-12:]) is not None)
        and not _is_pronoun(found)
    )


def _last_lines(text: str) -> Iterator[str]:
    """The last lines that say something."""
    for line in text[-_TAIL:].splitlines()[-_LINES:]:
        if line.strip() and not line.strip().startswith(_FENCE):
            yield line.strip()[-_LONGEST_LINE:]


def _one(values: set[str | None] | set[str]) -> str | None:
    return next(iter(values)) if len(values) == 1 else None


def _only(values: set[str]) -> str | Ambiguous | None:
    return AMBIGUOUS if len(values) > 1 else _one(values)
