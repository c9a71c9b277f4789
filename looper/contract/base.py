"""What every kind of output contract can do, and what counts as the visible part of an answer."""

import re
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Generic, TypeVar

from looper.contract.grammar import Grammar

V = TypeVar("V", bound=Hashable)
_THOUGHT = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_QUOTED = 60


@dataclass(frozen=True, slots=True)
class Violation:
    """Why an answer breaks its contract: a sentence that a model can be shown."""

    message: str


class Free(Enum):
    """The canonical form of text that no contract makes comparable."""

    FREE = "free"


FREE = Free.FREE


class Contract(ABC, Generic[V]):
    """An output contract. Its methods are pure, and raise for no text; `comparable` says whether values can vote."""

    comparable: ClassVar[bool] = True

    @property
    def takes_any_object(self) -> bool:
        """Whether every JSON object keeps it."""
        return False

    @property
    def unchecked(self) -> tuple[str, ...]:
        """What it asks for and nobody checks."""
        return ()

    @property
    def options(self) -> int | None:
        """How many values there are; None if nobody knows."""
        return None

    @property
    def grammar(self) -> Grammar | None:
        """What holds a model to it; None if nothing does that servers know."""
        return None

    @abstractmethod
    def extract(self, text: str) -> V | None:
        """What an answer says; None if it says nothing, or more than one thing."""

    def begins(self, text: str) -> int | None:
        """From where on a text says what is extracted from it; None if nobody knows."""
        return None

    def same(self, a: V, b: V) -> bool:
        """Whether two extracted values are one answer."""
        return a == b

    @property
    def transitive(self) -> bool:
        """Whether values that are the same as a third are the same, so that no answer can join two groups."""
        return True

    @abstractmethod
    def render(self, value: V) -> str:
        """A text from which `value` is extracted again."""

    @abstractmethod
    def check(self, text: str) -> Violation | None:
        """Why an answer may not be published as it is; None if it may."""

    def allows(self, wanted: "Contract[str]") -> bool:
        """Whether an answer can keep it and the JSON that a client wants as well, whatever it says."""
        return False

    def repair(self, text: str) -> str | None:
        """The answer with its form mended and its value untouched; None if that takes more than machinery."""
        if self.check(text) is None:
            return text
        return next((each for each in self._mended(text) if self.check(each) is None), None)

    @abstractmethod
    def _mended(self, text: str) -> Iterator[str]:
        """What an answer that breaks the contract might be turned into, least changed first."""


def visible(text: str) -> str:
    """An answer without its hidden reasoning.

    Reasoning that never ends takes the rest of the text with it; where only its end is seen, as some chat templates
    write the beginning themselves, it takes what stands before.
    """
    parts: list[str] = []
    at, thinking = 0, False
    for tag in _THOUGHT.finditer(text):
        begins = not tag[1]
        if begins and not thinking:
            parts.append(text[at : tag.start()])
        elif not begins and not thinking:
            parts.clear()
        at, thinking = tag.end(), begins
    rest = [] if thinking else [text[at:]]
    # Without the blank, what stands around a thought might make up the mark of another.
    return " ".join(part for part in [*parts, *rest] if part)


def quote(text: str) -> str:
    """A little of a text, on one line, for a message about it."""
    # The ends are cut out first: a megabyte of blanks must not be split to show sixty characters.
    end = " ".join(text.rstrip()[-4 * _QUOTED :].split())
    return f'"…{end[-_QUOTED:]}"' if len(end) > _QUOTED else f'"{end}"'


def canonical(contract: Contract[V] | None, text: str) -> V | Free | None:
    """What an answer counts as in a vote: its value, FREE where nothing compares, None if it says nothing valid."""
    if contract is None:
        return FREE if visible(text).strip() else None
    value = contract.extract(text)
    return FREE if value is not None and not contract.comparable else value
