"""Where an answer stands in a text: after a marker, in a box, in a field of JSON, or wherever it was said last."""

import json
import re
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import ClassVar, Generic, Literal, Self, TypeVar

from pydantic import Field, model_validator

from looper.contract import json_text
from looper.contract.base import Contract, Violation, quote, visible
from looper.contract.fences import unfenced
from looper.contract.grammar import Grammar, literally
from looper.settings import Setting

V = TypeVar("V", bound=Hashable)
Mode = Literal["exact", "last_match", "json_field", "marker"]


class Extraction(Setting):
    """`extract: {mode: marker, marker: "ANSWER:"}`"""

    mode: Mode | None = Field(
        default=None,
        description="default: `marker` or `json_field` where one is given, else what the kind says",
    )
    marker: str | tuple[str, ...] | None = Field(default=None, description='default: "ANSWER:"')
    field: str | None = Field(default=None, description='default: "answer"')
    include_reasoning: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.markers or not all(each.strip() for each in self.markers):
            raise ValueError("a marker is not blank, and there is one")
        if self.field is not None and self.mode not in (None, "json_field"):
            raise ValueError("`field` goes with `mode: json_field`")
        if self.marker is not None and self.mode not in (None, "marker", "last_match"):
            raise ValueError("`marker` goes with `mode: marker` or `last_match`")
        if self.marker is not None and self.field is not None:
            raise ValueError("give `marker` or `field`, not both")
        return self

    @property
    def markers(self) -> tuple[str, ...]:
        match self.marker:
            case None:
                return ("ANSWER:",)
            case str():
                return (self.marker,)
            case tuple():
                return self.marker

    def resolved(self, default: Mode) -> Mode:
        if self.mode is not None:
            return self.mode
        if self.marker is not None:
            return "marker"
        return "json_field" if self.field is not None else default


class Ambiguous(Enum):
    """Something is said at a place, and it is more than one thing."""

    AMBIGUOUS = "ambiguous"


AMBIGUOUS = Ambiguous.AMBIGUOUS


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of text that ought to begin with the answer, and the offset of the line it stands on."""

    line: int
    at: int
    text: str


# Quantifiers are bounded throughout, so that no text makes a search take more than a constant for each character.
_LONGEST = 400
_MOST = 64
_SEARCHED = 100_000
_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,3}\{")
_BROKEN_WORD = re.compile(r"\A\S{0,1000}")
_TAG = re.compile(r"<(?:final_)?answer>", re.IGNORECASE)
_IS = r"(?:is|was|are|would be|should be|must be|has to be|will be|be|[:=→]|->|—|–)"
_SAID = re.compile(
    r"\b(?:answer|option|choice|solution)s?\b[\s*_`\"'”)]{0,6}"
    rf"(?:{_IS}[\s*_`\"'“:]{{0,6}}){{1,3}}"
    r"(?:(?:therefore|thus|then|clearly|hence|indeed|simply|most likely|probably|likely)\b,?\s)?"
    r"|(?<!not )(?<!n't )(?<!never )\b(?:choose|choosing|pick|picking|select|selecting|go(?:ing)? with)\s",
    re.IGNORECASE,
)
_ASCII = {0x2212: "-", 0xFE63: "-", 0x3000: " ", 0x3002: "."}
_ASCII |= {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
_ASCII |= {zero + n: str(n) for zero in (0x660, 0x6F0, 0x966) for n in range(10)}


def plain_characters(text: str) -> str:
    """A text with full-width characters, other scripts' digits and the minus sign as ASCII has them."""
    return text if text.isascii() else text.translate(_ASCII)


def marker_pattern(markers: Sequence[str]) -> re.Pattern[str]:
    """Finds markers in either case, also when Markdown stands between the words and the colon."""
    return re.compile("|".join(map(_marker, markers)), re.IGNORECASE)


def _marker(marker: str) -> str:
    words = plain_characters(marker).strip()
    bare = words.rstrip(":")
    start = r"(?<!\w)" if bare[:1].isascii() and bare[:1].isalnum() else ""
    colon = r"[\s*_`]{0,4}[:：]" if bare != words else ""
    return start + re.escape(bare) + colon


def places(pattern: re.Pattern[str], text: str) -> list[Place]:
    """What follows each of the last matches, up to the end of the line or the next match."""
    found = [each.span() for each in pattern.finditer(text)][-_MOST:]
    ends = [start for start, _ in found[1:]] + [len(text)]
    return [_place(text, *span, end) for span, end in zip(found, ends, strict=False)]


def _place(text: str, start: int, stop: int, end: int) -> Place:
    after = text[stop : min(end, stop + _LONGEST)]
    if end - stop > _LONGEST:
        after = after.rpartition(" ")[0]  # half a number would be another one
    # The line goes on below where nothing but decoration is left of it.
    line = re.match(r"[\s*_`:]{0,12}[^\n]*", after)
    return Place(text.rfind("\n", 0, start) + 1, start, line[0] if line else "")


def whole_words(text: str, most: int) -> str:
    """The end of a text, not beginning within a word or number."""
    return text if len(text) <= most else _BROKEN_WORD.sub("", text[-most:])


def boxes(text: str) -> list[Place]:
    """What stands in the last `\\boxed{…}` of a text."""
    found = [each.span() for each in _BOX.finditer(text)][-_MOST:]
    return [
        Place(text.rfind("\n", 0, start) + 1, start, inside)
        for start, stop in found
        if (inside := _braced(text[stop : stop + _LONGEST])) is not None
    ]


def _braced(text: str) -> str | None:
    depth = 1
    for at, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[:at]
    return None


def said(text: str) -> list[Place]:
    """What follows words such as "the answer is"."""
    return places(_SAID, text)


def settle(
    found: Sequence[Place], read: Callable[[str], V | Ambiguous | None]
) -> V | Ambiguous | None:
    """The last value said at any of the places. One that says two things, or a line that does, is ambiguous."""
    readings = ((place, read(place.text)) for place in reversed(found))
    last = next(((place, value) for place, value in readings if value is not None), None)
    if last is None:
        return None
    place, value = last
    beside = (read(other.text) for other in found if other.line == place.line)
    return value if all(other in (None, value) for other in beside) else AMBIGUOUS


class Extracting(Contract[V], Generic[V]):
    """A contract about one value that stands somewhere in a text."""

    placeholder: ClassVar[str]
    default_mode: ClassVar[Mode] = "last_match"

    def __init__(self, extract: Extraction, render: str | None) -> None:
        self._mode = extract.resolved(self.default_mode)
        self._include_reasoning = extract.include_reasoning
        self._markers = marker_pattern(extract.markers)
        self._field = extract.field or "answer"
        self._demanded = render is not None
        self._template = render or self._usual_template(extract)

    def _usual_template(self, extract: Extraction) -> str | None:
        if self._mode == "json_field":
            return None
        marker = f"{extract.markers[0]} " if self._mode == "marker" else ""
        return f"{marker}{self.placeholder}"

    @abstractmethod
    def _read(self, place: str) -> V | Ambiguous | None:
        """The value that a declared place begins with."""

    @abstractmethod
    def _whole(self, text: str) -> V | None:
        """The value that a text is, where nothing else is in it."""

    def _is_bare(self, text: str) -> bool:
        """Whether a text is its value and no more, however it is dressed."""
        return self._whole(text) is not None

    @abstractmethod
    def _search(self, text: str) -> V | Ambiguous | None:
        """The value that a text ends up with, however it says so."""

    @abstractmethod
    def _write(self, value: V) -> str:
        """A value as it is written."""

    @abstractmethod
    def _wanted(self) -> str:
        """What a text ought to have, as the object of a sentence."""

    def _characters(self, text: str) -> str:
        """The text as it is searched."""
        return plain_characters(text)

    def extract(self, text: str) -> V | None:
        found = self._extract(text if self._include_reasoning else visible(text))
        return None if isinstance(found, Ambiguous) else found

    def _extract(self, text: str) -> V | Ambiguous | None:
        match self._mode:
            case "exact":
                return self._whole(text.strip())
            case "marker":
                return settle(places(self._markers, self._characters(text)), self._read)
            case "json_field":
                return self._from_field(text)
            case "last_match":
                return self._search(text)

    def begins(self, text: str) -> int | None:
        value, plain = self.extract(text), self._characters(text)
        saying = [place for place in self._places(plain) if self._read(place.text) == value]
        return saying[-1].at if saying and value is not None else None

    def _places(self, text: str) -> list[Place]:
        """Where a text may say its answer, the stronger signs last."""
        match self._mode:
            case "marker":
                return places(self._markers, text)
            case "last_match":
                return [*said(text), *self._explicit(text)]
            case _:
                return []

    def _from_field(self, text: str) -> V | None:
        for source in reversed(json_text.sources(text)):
            value = json_text.member(source, self._field)
            if value is not None:
                return self._scalar(value)
        return None

    def _scalar(self, value: str | Decimal | bool) -> V | None:
        text = value if isinstance(value, str) else json_text.canonical(value)
        return self._whole(text.strip())

    def _declared(self, text: str) -> V | Ambiguous | None:
        """The value at a marker or in a box, else after words such as "the answer is", near the end of the text."""
        text = whole_words(text, _SEARCHED)
        found = settle(self._explicit(text), self._read)
        return found if found is not None else settle(said(text), self._read)

    def _explicit(self, text: str) -> list[Place]:
        """Where a text marks its answer as such."""
        explicit = [*places(self._markers, text), *places(_TAG, text), *boxes(text)]
        return sorted(explicit, key=lambda place: place.at)

    def allows(self, wanted: Contract[str]) -> bool:
        return self._mode == "json_field" and wanted.takes_any_object

    def render(self, value: V) -> str:
        written = self._write(value)
        if self._template is None:
            return json.dumps({self._field: written}, ensure_ascii=False)
        return self._template.replace(self.placeholder, written)

    def _framed(self, pattern: str) -> Grammar | None:
        """A grammar of values of this form, as they are rendered."""
        if self._mode == "json_field":
            return None
        before, _, after = (self._template or self.placeholder).partition(self.placeholder)
        regex = f"{literally(before)}({pattern}){literally(after)}"
        return Grammar(self._mode == "exact", regex=regex)

    def check(self, text: str) -> Violation | None:
        value = self.extract(text)
        if value is None:
            return Violation(
                f"The answer must have {self._wanted()}, and this has not: {quote(text)}."
            )
        return self._check_form(text, self.render(value))

    def _check_form(self, text: str, rendered: str) -> Violation | None:
        if self._mode == "exact" and text != rendered:
            return Violation(f"The answer must be {quote(rendered)} and nothing else.")
        if self._mode == "json_field" and not json_text.is_json(text):
            return Violation("The answer must be a JSON object and nothing else.")
        if self._demanded and not text.strip().endswith(rendered):
            return Violation(f"The answer must end with {quote(rendered)}.")
        return None

    def _mended(self, text: str) -> Iterator[str]:
        content = visible(text).strip()
        value = self.extract(text)
        if value is None:
            yield unfenced(content) or ""
            guess = self._declared(self._characters(content))
            if guess is None or isinstance(guess, Ambiguous):
                return
            value = guess
        yield content
        yield from self._shaped(content, value)

    def _shaped(self, content: str, value: V) -> Iterator[str]:
        """The content in the form that is asked for, as long as it still says `value`."""
        unwrapped = unfenced(content)
        if unwrapped is not None and self.extract(unwrapped) == value:
            yield unwrapped
        if self._mode == "json_field":
            yield from (each for each in json_text.sources(content) if self.extract(each) == value)
        elif not self._is_bare(content):
            yield f"{content}\n\n{self.render(value)}"
        yield self.render(value)


def check_template(template: str | None, placeholder: str) -> None:
    """Raises ValueError for a `render` that does not say where the value goes."""
    if template is not None and template.count(placeholder) != 1:
        raise ValueError(f"`render` holds {placeholder} once")


def check_round_trip(contract: Contract[V], values: Sequence[V]) -> None:
    """Raises ValueError if what a contract renders is not what it extracts."""
    for value in values:
        if (
            contract.check(contract.render(value))
            or contract.extract(contract.render(value)) != value
        ):
            raise ValueError(
                f"{quote(contract.render(value))}, as `render` has it, cannot be extracted"
            )
