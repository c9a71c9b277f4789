"""`number`: an answer that is one number, compared exactly or within a tolerance."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
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
    whole_words,
)
from looper.contract.grammar import Grammar, literally
from looper.contract.latex import plain_math
from looper.settings import Setting

_PLACEHOLDER = "{number}"


class Tolerance(Setting):
    """How far two numbers may be apart and still be the same: by the larger of both limits."""

    relative: Decimal = Field(default=Decimal(0), ge=0, lt=1)
    absolute: Decimal = Field(default=Decimal(0), ge=0)


class NumberConfig(Setting):
    """`contract: {type: number, tolerance: {relative: 0.01}, render: "ANSWER: {number}"}`"""

    type: Literal["number"]
    tolerance: Tolerance = Tolerance()
    decimal_separator: Literal[".", ","] = "."
    percent: Literal["unit", "fraction"] = Field(
        default="unit", description="whether 50% is 50, or a half"
    )
    extract: Extraction = Extraction()
    render: str | None = Field(default=None, description="how a published answer has to end")

    @model_validator(mode="after")
    def _usable(self) -> Self:
        check_template(self.render, _PLACEHOLDER)
        check_round_trip(
            self.build(), [Fraction(n, d) for n, d in ((0, 1), (-3, 2), (22, 7), (1_234_567, 1))]
        )
        return self

    def build(self) -> "Number":
        return Number(self)


_BODY = r"\d{1,3}(?:[ \u00a0\u202f\u2009]\d{3})+(?:[.,]\d+)?(?![\d.,]*\d)|\d[\d.,]*\d|\d|\.\d+"
_FOUND = re.compile(
    r"(?<![\w^.\\])(?:"
    r"(?P<whole>\d{1,9})\s(?P<above>\d{1,9})/(?P<below>\d{1,9})(?![\d.,]*\d)"
    rf"|(?P<body>{_BODY})(?P<exponent>[eE][+-]?\d{{1,5}}(?!\w))?(?:\s?/\s?(?P<over>\d[\d.,]*\d|\d))?"
    r")(?P<percent>\s?%)?(?:\s(?P<scale>thousand|million|billion|trillion)\b)?",
    re.IGNORECASE,
)
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MOST_DIGITS = 200
_LARGEST = 10**100
_MOST_DECIMALS = 60
_TAIL = 10_000

_OPENING = re.compile(r"[\s*_`\"'“”‘’(\[{<:=≈~$.-]{0,12}")
_CLAUSE_END = re.compile(
    r"\n|[.;!?](?=\s|$)|\s\(|,?\s(?:because|since|as|which|so|where|given)\s", re.IGNORECASE
)
_EQUATIONS = re.compile(r"=[^=]*(?:[,;]|\bor\b|\band\b)[^=]*=", re.IGNORECASE)
_EQUALS = re.compile(r"[=≈≃]")
_JOINT = re.compile(r"\b(?:or|and|to)\b|[-–—+*/×·^:,;±]", re.IGNORECASE)
_MATH_BEFORE = re.compile(
    r"(?:[√×·+≤≥_±]|\^\s?\{?|\s[<>]|\\[a-zA-Z]+\s?[\[{(]{0,2}|\}\{|\d[:/]|[\w)\]}]\s?[-–]|\w\s?\*)\s?$"
)
_MATH_AFTER = re.compile(
    r"\s?(?:[\^×·±+]\s?[\w\\{(]|[√π]|\\[a-zA-Z]|/\s?(?:[\d\\(]|[a-z](?![A-Za-z]))|-\s?(?:[a-z](?![A-Za-z])|[\\(]))"
    r"|[xyznkiab](?![A-Za-z])|[({]\S|:\d|\s\*\s\w|\*[\w\\(]"
)
_ENUMERATION = re.compile(r"^\s{0,8}\d{1,3}[.)]\s", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Found:
    """A number in a text, where it stands with its sign, and its value: None if it is malformed or part of a term."""

    start: int
    stop: int
    value: Fraction | None


class Number(Extracting[Fraction]):
    """A value is an exact fraction: no digit is lost, and 0.5 is 1/2.

    `last_match` reads, in this order: the last marker or box; the last "the answer is …"; the last number of the text.
    A number that is part of a term (3√2, 2^10, 5x), or that can be read in two ways (1,23), is none.
    """

    placeholder = _PLACEHOLDER

    def __init__(self, config: NumberConfig) -> None:
        super().__init__(config.extract, config.render)
        self._relative = Fraction(config.tolerance.relative)
        self._absolute = Fraction(config.tolerance.absolute)
        self._point = config.decimal_separator
        self._comma = "," if config.decimal_separator == "." else "."
        self._percent = Fraction(1, 100) if config.percent == "fraction" else Fraction(1)

    def same(self, a: Fraction, b: Fraction) -> bool:
        if self.transitive:
            return a == b
        return abs(a - b) <= max(self._absolute, self._relative * max(abs(a), abs(b)))

    @property
    def transitive(self) -> bool:
        return not (self._absolute or self._relative)

    @property
    def grammar(self) -> Grammar | None:
        point = literally(self._point)
        return self._framed(rf"-?[0-9]{{1,20}}({point}[0-9]{{1,12}}|/[0-9]{{1,9}})?")

    def _wanted(self) -> str:
        return "exactly one number"

    def _write(self, value: Fraction) -> str:
        sign, size = "-" * (value < 0), abs(value)
        places = _decimal_places(size.denominator)
        if places is None:
            return f"{sign}{size.numerator}/{size.denominator}"
        if places == 0:
            return f"{sign}{size.numerator}"
        digits = str(size.numerator * 10**places // size.denominator).rjust(places + 1, "0")
        return f"{sign}{digits[:-places]}{self._point}{digits[-places:]}"

    def _whole(self, text: str) -> Fraction | None:
        if len(text) > 2 * _MOST_DIGITS or "\n" in text:
            return None
        math = plain_math(text)
        found = list(self._numbers(math))
        if len(found) != 1:
            return None
        before, after = math[: found[0].start], math[found[0].stop :]
        alone = _OPENING.fullmatch(before) and re.fullmatch(
            r"[\s*_`\"'“”‘’)\]}>.!$%]{0,12}|\s?[A-Za-z]{1,12}(?:\s[A-Za-z]{1,12})?\.?", after
        )
        return found[0].value if alone else None

    def _is_bare(self, text: str) -> bool:
        # A unit is more than the value.
        return super()._is_bare(text) and not any(map(str.isalpha, plain_math(text)))

    def _scalar(self, value: str | Decimal | bool) -> Fraction | None:
        # JSON has its own decimal point.
        return _moderate(value) if isinstance(value, Decimal) else super()._scalar(value)

    def _read(self, place: str) -> Fraction | Ambiguous | None:
        clause = _clause(plain_math(place))
        if _EQUATIONS.search(clause):
            return AMBIGUOUS
        clause = _EQUALS.split(clause)[-1]
        found = list(self._numbers(clause))
        if not found or found[0].value is None:
            return None
        first, *rest = found
        others = [other for other in rest if other.value != first.value]
        joined = any(_JOINT.search(clause[first.stop : other.start]) for other in others)
        return AMBIGUOUS if joined else first.value

    def _search(self, text: str) -> Fraction | Ambiguous | None:
        declared = self._declared(plain_characters(text))
        if declared is not None:
            return declared
        tail = _ENUMERATION.sub("", plain_math(whole_words(text, _TAIL)))
        last = list(_FOUND.finditer(tail))[-1:]
        return self._found(last[0]).value if last else None

    def _numbers(self, math: str) -> Iterator[_Found]:
        return map(self._found, _FOUND.finditer(math))

    def _found(self, found: re.Match[str]) -> _Found:
        math = found.string
        start = found.start() - _is_signed(math, found.start())
        before = _MATH_BEFORE.search(math[max(start - 24, 0) : start])
        value = None if before or _MATH_AFTER.match(math, found.end()) else self._value(found)
        return _Found(start, found.end(), -value if value and math[start] == "-" else value)

    def _value(self, found: re.Match[str]) -> Fraction | None:
        size = self._mixed(found) if found["whole"] else self._quotient(found)
        if size is None:
            return None
        if found["percent"]:
            size *= self._percent
        return size * _SCALES.get((found["scale"] or "").lower(), 1)

    def _mixed(self, found: re.Match[str]) -> Fraction | None:
        whole, above, below = (int(found[name]) for name in ("whole", "above", "below"))
        return whole + Fraction(above, below) if above < below else None

    def _quotient(self, found: re.Match[str]) -> Fraction | None:
        size, over = self._decimal(found["body"]), self._decimal(found["over"] or "1")
        exponent = int((found["exponent"] or "e0")[1:])
        if size is None or not over or abs(exponent) > _MOST_DIGITS:
            return None
        value = size / over * Fraction(10) ** exponent
        return value if max(value.numerator, value.denominator) < _LARGEST else None

    def _decimal(self, digits: str) -> Fraction | None:
        """A number with separators; None if they do not stand where they should."""
        whole, _, decimals = re.sub(r"\s", "", digits).partition(self._point)
        groups = whole.split(self._comma)
        grouped = len(groups) > 1
        if grouped and (not 1 <= len(groups[0]) <= 3 or groups[0][0] == "0"):
            return None
        if any(len(group) != 3 for group in groups[1:]) or not f"{decimals}0".isdecimal():
            return None
        written = "".join(groups) + decimals
        return (
            Fraction(int(written), 10 ** len(decimals))
            if 0 < len(written) <= _MOST_DIGITS
            else None
        )


def _moderate(value: Decimal) -> Fraction | None:
    return Fraction(value) if not value or abs(value.adjusted()) < _MOST_DECIMALS else None


def _is_signed(math: str, at: int) -> bool:
    """Whether a sign stands before a number that is no operator."""
    return (
        at > 0
        and math[at - 1] in "+-"
        and not re.search(r"[\w)\]}.]\s?$", math[max(at - 3, 0) : at - 1])
    )


def _clause(math: str) -> str:
    """What is said at the place itself, without what is said about it."""
    opening = _OPENING.match(math)
    start = opening.end() if opening else 0
    end = _CLAUSE_END.search(math, start)
    return math[: end.start() if end else len(math)]


def _decimal_places(denominator: int) -> int | None:
    """How many decimals write a fraction out; None if there are very many, or there is no end to them."""
    return next((n for n in range(_MOST_DECIMALS) if 10**n % denominator == 0), None)
