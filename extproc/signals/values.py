"""Signals that look at one value that came with the request: what it must be."""

from functools import cached_property
from typing import Self

from pydantic import Field, model_validator

from extproc.protocol.events import Value
from extproc.signals.base import Reading, SignalSetting
from extproc.signals.bounds import Number
from looper.contract.patterns import Pattern, PatternSource
from looper.settings import ValuePath

Scalar = bool | int | float | str


Path = ValuePath


class Condition(SignalSetting):
    """Matches a value of which all that is given here holds."""

    equals: Scalar | None = Field(default=None, description="it is this, in value and type")
    in_: tuple[Scalar, ...] = Field(default=(), alias="in", description="it is one of these")
    prefix: str | None = Field(default=None, min_length=1, description="it begins with this")
    regex: PatternSource | None = Field(
        default=None, description="a regular expression of RE2's occurs in it"
    )
    at_least: Number | None = None
    at_most: Number | None = None
    exists: bool | None = Field(default=None, description="whether it is there at all")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        given = self.model_fields_set & {*Condition.model_fields} - {"on_error"}
        if not given:
            raise ValueError("give at least one of `equals`, `in`, `prefix`, `regex`, …, `exists`")
        if self.exists is False and len(given) > 1:
            raise ValueError("what does not exist is nothing else")
        if "in_" in given and not self.in_:
            raise ValueError("`in` is empty: nothing would match")
        return self

    @cached_property
    def _pattern(self) -> Pattern | None:
        return None if self.regex is None else Pattern(self.regex)

    def reading(self, value: Value) -> Reading:
        """The reading of a value; None is one that is not there."""
        match = self.holds(value)
        number = float(value) if isinstance(value, bool | int | float) else None
        return Reading(match, float(match), number)

    def holds(self, value: Value) -> bool:
        """Of a list, one element for which all holds is enough."""
        if value is None or self.exists is False:
            return value is None and self.exists is False
        elements = value if isinstance(value, list) and value else [value]
        return any(map(self._holds, elements))

    def _holds(self, value: Value) -> bool:
        return (
            (self.equals is None or same(value, self.equals))
            and (not self.in_ or any(same(value, each) for each in self.in_))
            and (self.prefix is None or (isinstance(value, str) and value.startswith(self.prefix)))
            and (self._pattern is None or (isinstance(value, str) and self._pattern.found(value)))
            and self._within(value)
        )

    def _within(self, value: Value) -> bool:
        if self.at_least is None and self.at_most is None:
            return True
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )


def same(value: Value, other: Scalar) -> bool:
    """Whether two values are the same in JSON, where `true` is no number and `1` is `1.0`."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)
