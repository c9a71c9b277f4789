"""Do certain words occur in what the user wrote?"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Literal, Protocol, Self

from pydantic import Field, model_validator

from extproc.signals.base import Reading, SignalSetting, Subject
from extproc.signals.text import Role, Text
from extproc.signals.words import is_spelt, occurs, similar
from looper.contract.patterns import Pattern, PatternSource
from looper.settings import Setting
from looper.wire.folding import folded

_LETTERS_PER_FAULT = 4
"""Of shorter words, most others are within so many faults."""


class Regex(Setting):
    """A regular expression of RE2's. Case does not count, unless it says `(?-i)`."""

    regex: PatternSource

    @model_validator(mode="after")
    def _needs_something(self) -> Self:
        if Pattern(self.regex).found(""):
            raise ValueError("it matches nothing at all as well, so it would match every text")
        return self

    def build(self) -> "Expression":
        return Expression(self.regex)


class Fuzzy(Setting):
    """A word that may be misspelt."""

    fuzzy: str
    distance: int = Field(
        default=1, ge=1, le=2, description="letters wrong, missing, too many or swapped, at most"
    )

    @model_validator(mode="after")
    def _is_a_word(self) -> Self:
        if not is_spelt(self.fuzzy):
            raise ValueError("one word, of a script that puts spaces between words")
        if len(folded(self.fuzzy)) < _LETTERS_PER_FAULT * self.distance:
            raise ValueError(f"too short: {_LETTERS_PER_FAULT} letters for each of `distance`")
        return self

    def build(self) -> "Misspelt":
        return Misspelt(self.fuzzy, self.distance)


Term = str | Regex | Fuzzy


class KeywordConfig(SignalSetting):
    """Literals, compared without regard to case and, where they begin or end with a letter or digit, as whole words."""

    type: Literal["keyword"]
    any: tuple[Term, ...] = Field(default=(), description="at least one of these occurs")
    all: tuple[Term, ...] = Field(default=(), description="each of these occurs")
    none: tuple[Term, ...] = Field(default=(), description="none of these occurs")
    roles: Literal["all"] | Annotated[tuple[Role, ...], Field(min_length=1)] = Field(
        default=("user",), description="whose messages are looked at; `all`: whatever their role"
    )

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        terms = (*self.any, *self.all, *self.none)
        if not terms:
            raise ValueError("give at least one of `any`, `all` and `none`")
        if any(isinstance(term, str) and not folded(term).strip() for term in terms):
            raise ValueError("a keyword must not be blank: it would match everything")
        return self

    def doubts(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Literals that change nothing, whatever the text is."""
        for key, terms in (("any", self.any), ("all", self.all), ("none", self.none)):
            words = [(at, term) for at, term in enumerate(terms) if isinstance(term, str)]
            for at, word in words:
                if other := _spoils(word, [each for each in words if each[0] != at], at, key):
                    yield (key, at), f"changes nothing: {other!r} is there"
        for key, terms in (("any", self.any), ("all", self.all)):
            for at, term in enumerate(terms):
                if isinstance(term, str) and (other := _contained(term, self.none)):
                    yield (key, at), f"can never count: it has {other!r} in it, which is in `none`"

    def build(self) -> "Keyword":
        return Keyword(self)


def _spoils(word: str, others: Sequence[tuple[int, str]], at: int, key: str) -> str | None:
    """Another literal of the list because of which `word` makes no difference; of two that are equal, the first."""
    plain = folded(word)
    for place, other in others:
        if folded(other) == plain:
            if place < at:
                return other
        elif occurs(plain, folded(other)) if key == "all" else occurs(folded(other), plain):
            return other
    return None


def _contained(word: str, terms: Iterable["Term"]) -> str | None:
    """The literal that occurs wherever `word` does."""
    found = (term for term in terms if isinstance(term, str) and occurs(folded(term), folded(word)))
    return next(found, None)


class Keyword:
    """Reads a `keyword` signal."""

    def __init__(self, config: KeywordConfig) -> None:
        self._roles = () if config.roles == "all" else config.roles
        self._any = [_build(term) for term in config.any]
        self._all = [_build(term) for term in config.all]
        self._none = [_build(term) for term in config.none]

    def read(self, subject: Subject) -> Reading:
        text = subject.said_by(*self._roles)
        if any(term.occurs(text) for term in self._none):
            return Reading(match=False, score=0.0)
        needed = [term.name for term in self._all if term.occurs(text)]
        has_all = len(needed) == len(self._all)
        found = [term.name for term in self._any if term.occurs(text)] if has_all else []
        match = has_all and (bool(found) or not self._any)
        hits = (*needed, *found) if match else ()
        # What was found is there; what was not may be in what was not looked at.
        partial = not text.is_whole and (bool(self._none) or not match)
        return Reading(match=match, score=float(match), hits=hits, partial=partial)


class Searched(Protocol):
    """Something that may occur. Its name is what the configuration calls it."""

    name: str

    def occurs(self, text: Text) -> bool: ...


def _build(term: Term) -> Searched:
    return Word(term) if isinstance(term, str) else term.build()


class Word:
    """A literal."""

    def __init__(self, word: str) -> None:
        self.name = word
        self._folded = folded(word)

    def occurs(self, text: Text) -> bool:
        return occurs(self._folded, text.folded)


class Expression:
    """A regular expression."""

    def __init__(self, source: str) -> None:
        self.name = source
        self._pattern = Pattern(f"(?i:{source})")

    def occurs(self, text: Text) -> bool:
        if self._pattern.found(text.utf8):
            return True
        return text.plain_utf8 != text.utf8 and self._pattern.found(text.plain_utf8)


class Misspelt:
    """A word, or one like it."""

    def __init__(self, word: str, distance: int) -> None:
        self.name = word
        self._folded = folded(word)
        self._distance = distance
        self._pieces = _pieces(self._folded, 2 * distance + 1)

    def occurs(self, text: Text) -> bool:
        if self._folded in text.words:
            return True
        # So many faults leave one of so many pieces as it is, a swap of letters being able to spoil two.
        if not any(piece in text.folded for piece in self._pieces):
            return False
        return any(
            similar(self._folded, word, self._distance)
            for word in text.words
            if abs(len(word) - len(self._folded)) <= self._distance
            and any(piece in word for piece in self._pieces)
        )


def _pieces(word: str, number: int) -> tuple[str, ...]:
    cuts = [len(word) * at // number for at in range(number + 1)]
    return tuple(word[start:stop] for start, stop in pairwise(cuts))
