"""What shape has the text: how often does something stand in it, how densely, or in which order?"""

import re
from dataclasses import replace
from itertools import islice, pairwise
from typing import Annotated, Literal, Protocol, Self

from pydantic import AfterValidator, Field, model_validator

from extproc.signals.base import Reading, Subject
from extproc.signals.bounds import Bounds
from extproc.signals.words import count, find
from looper.contract.patterns import Pattern, PatternSource
from looper.wire.folding import folded
from looper.wire.tokens import estimate

MOST = 1_000
"""Occurrences that are counted; there is no telling more."""


def _visible(word: str) -> str:
    if not folded(word):
        raise ValueError("nobody can see it")
    return word


Word = Annotated[str, Field(min_length=1), AfterValidator(_visible)]
Step = Word | Annotated[tuple[Word, ...], Field(min_length=1)]


class StructureConfig(Bounds):
    """`{type: structure, of: options, at_least: 3}`"""

    type: Literal["structure"]
    of: Literal["options", "fences", "questions"] | None = Field(
        default=None, description="the options of a list, fenced blocks of code, or questions"
    )
    regex: PatternSource | None = Field(
        default=None, description="matches of a regular expression of RE2's; case counts"
    )
    words: tuple[Word, ...] = Field(default=(), description="occurrences of whole words")
    sequence: tuple[Step, ...] = Field(
        default=(), description="words, or alternatives, one after the other; default: all of them"
    )
    measure: Literal["count", "density"] = Field(
        default="count", description="density: for each 100 tokens"
    )

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        things = (self.of is not None, self.regex is not None, self.words, self.sequence)
        if sum(map(bool, things)) != 1:
            raise ValueError("give exactly one of `of`, `regex`, `words` and `sequence`")
        if self.sequence and self.measure != "count":
            raise ValueError("of a sequence, steps are counted")
        if self.at_least is not None and self.measure == "count" and self.at_least > MOST:
            raise ValueError(f"no more than {MOST} are counted")
        return self

    @property
    def least(self) -> float:
        if self.sequence and self.at_least is None and self.at_most is None:
            return float(len(self.sequence))
        return super().least

    def build(self) -> "Structure":
        return Structure(self)


class Structure:
    """Reads a `structure` signal."""

    def __init__(self, config: StructureConfig) -> None:
        self._config = config
        self._counted = _counted(config)

    def read(self, subject: Subject) -> Reading:
        value = float(self._counted.count(subject))
        if self._config.measure == "density":
            value *= 100 / max(1, estimate(subject.user.written))
        reading = self._config.reading(value)
        return replace(reading, partial=not (subject.user.is_whole or self._is_sure(reading)))

    def _is_sure(self, reading: Reading) -> bool:
        """Whether more text could not change it: there may only be more of what is counted."""
        counted = self._config.measure == "count"
        if reading.match:
            return counted and self._config.at_most is None
        return counted and reading.value is not None and reading.value > self._config.most


class Counted(Protocol):
    """Something that can stand in a text more than once."""

    def count(self, subject: Subject) -> int: ...


def _counted(config: StructureConfig) -> Counted:
    if config.words:
        return Words(config.words)
    if config.sequence:
        return Sequence(config.sequence)
    if config.regex is not None:
        # Whether there is any needs one look, in which a match may reach over as many lines as it likes.
        presence = config.measure == "count" and config.least == 1 and config.at_most is None
        return Regex(config.regex, presence=presence)
    match config.of:
        case "fences":
            return Fences()
        case "questions":
            return Questions()
        case _:
            return Options()


class Words:
    """Whole words, without regard to case."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self._words = tuple(dict.fromkeys(folded(word) for word in words))

    def count(self, subject: Subject) -> int:
        return min(MOST, sum(count(word, subject.user.folded, MOST) for word in self._words))


class Sequence:
    """Steps, each of them one of several words, as many as come one after the other."""

    def __init__(self, steps: tuple[Step, ...]) -> None:
        self._steps = [
            [folded(word) for word in ((step,) if isinstance(step, str) else step)]
            for step in steps
        ]

    def count(self, subject: Subject) -> int:
        at = 0
        for number, step in enumerate(self._steps):
            ends = [end for word in step if (end := find(word, subject.user.folded, at)) >= 0]
            if not ends:
                return number
            at = min(ends)
        return len(self._steps)


class Regex:
    """Matches of a pattern."""

    def __init__(self, source: str, *, presence: bool) -> None:
        self._pattern = Pattern(source)
        self._presence = presence

    def count(self, subject: Subject) -> int:
        if self._presence:
            return int(self._pattern.found(subject.user.utf8))
        return self._pattern.count(subject.user.utf8, MOST)


_FENCE = re.compile(r"^[ >]{0,8}(?:```|~~~)", re.MULTILINE)


class Fences:
    """Fenced blocks of code. One that is not closed is one as well."""

    def count(self, subject: Subject) -> int:
        text = subject.user.written
        if "```" not in text and "~~~" not in text:
            return 0
        marks = sum(1 for _ in islice(_FENCE.finditer(text), 2 * MOST))
        return (marks + 1) // 2


_ASKS = re.compile("[?？؟\u037e՞፧⁇⁈❓]")
_QUESTION = re.compile(
    r"\?+(?=[\s\"'”’»)\]*_]|$)"  # elsewhere it is a part of an address, or of code
    "|[？؟\u037e՞፧⁇⁈❓]+"
)


class Questions:
    """Question marks of all scripts; several in a row ask once."""

    def count(self, subject: Subject) -> int:
        if not _ASKS.search(subject.user.written):
            return 0
        return sum(1 for _ in islice(_QUESTION.finditer(subject.user.written), MOST))


_LABELS = (
    "ABCDEFGHIJ",
    "abcdefghij",
    "АБВГДЕЖЗИК",
    "абвгдежзик",
    "ΑΒΓΔΕΖΗΘΙΚ",
    "αβγδεζηθικ",
    "أبجدهوزحطي",
    "ابجدهوزحطي",
    "אבגדהוזחטי",
    "कखगघङचछजझञ",
    "กขคงจฉชซฌญ",
    "가나다라마바사아자차",
    "ㄱㄴㄷㄹㅁㅂㅅㅇㅈㅊ",
    "アイウエオカキクケコ",
    "甲乙丙丁戊己庚辛壬癸",
    "①②③④⑤⑥⑦⑧⑨⑩",
)
_SUCCESSOR = {pair for labels in _LABELS for pair in pairwise(labels)}
_FIRST = frozenset(labels[0] for labels in _LABELS)
_OPTION = re.compile(
    rf"([{''.join(sorted(set(''.join(_LABELS))))}])"
    r"(?:[*_]{0,2}[).:．。、：）\]][*_]{0,2}(?=\s|\w|$)|(?<=[①-⑩]))"
)
# What most texts do not have is quickest found out by RE2.
_MAY_BE = Pattern(
    rf"(?:^|[^\pL\pN])[{''.join(sorted(set(''.join(_LABELS))))}][*_]{{0,2}}[).:．。、：）\]]|[①-⑩]"
)
_OPENING = "*_>(（["
_MOST_OPENING = 3


def _begins(text: str, at: int) -> bool:
    """Whether a label at this place stands by itself, perhaps behind a bracket or what makes it bold."""
    for _ in range(_MOST_OPENING):
        if at == 0 or text[at - 1] not in _OPENING:
            break
        at -= 1
    return at == 0 or text[at - 1].isspace()


class Options:
    """The longest list of options, such as `A) … B) … C) …`, that begins with its alphabet's first letter."""

    def count(self, subject: Subject) -> int:
        longest = run = 0
        last = ""
        text = subject.user.written
        if not _MAY_BE.found(subject.user.utf8):
            return 0
        for found in islice(_OPTION.finditer(text), MOST):
            if not _begins(text, found.start()):
                continue
            label = found[1]
            if (last, label) in _SUCCESSOR:
                run += 1
            else:
                run = int(label in _FIRST)
            last = label if run else ""
            longest = max(longest, run)
        # One by itself is no choice.
        return longest if longest > 1 else 0
