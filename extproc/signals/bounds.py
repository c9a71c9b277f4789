"""Signals that measure something: a number, and the bounds between which it matches."""

import re
from typing import Annotated, Self

from pydantic import BeforeValidator, model_validator

from extproc.signals.base import Reading, SignalSetting

_WITH_UNIT = re.compile(r"(\d+(?:\.\d+)?)([kM])")
_UNITS = {"k": 1_000, "M": 1_000_000}


def _parse_number(value: object) -> object:
    if isinstance(value, str) and (found := _WITH_UNIT.fullmatch(value)):
        return float(found[1]) * _UNITS[found[2]]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise ValueError("a number, perhaps with k or M, such as 3, 0.5 or 16k")


Number = Annotated[float, BeforeValidator(_parse_number, json_schema_input_type=int | float | str)]
"""A number, written `3`, `0.5`, `16k` or `1M` (k = 1000)."""


class Bounds(SignalSetting):
    """Matches a number that is neither too small nor too large; without bounds, any from 1."""

    at_least: Number | None = None
    at_most: Number | None = None

    @model_validator(mode="after")
    def _leaves_room(self) -> Self:
        if None not in (self.at_least, self.at_most) and self.least > self.most:
            raise ValueError("`at_least` is more than `at_most`: nothing would match")
        return self

    @property
    def least(self) -> float:
        if self.at_least is not None:
            return self.at_least
        return 1.0 if self.at_most is None else 0.0

    @property
    def most(self) -> float:
        return float("inf") if self.at_most is None else self.at_most

    def reading(self, value: float, hits: tuple[str, ...] = ()) -> Reading:
        """The reading of a number from 0. The score says how near it is: 1 within the bounds."""
        score = 1.0
        if value < self.least:
            score = value / self.least
        elif value > self.most:
            score = self.most / value
        match = self.least <= value <= self.most
        return Reading(match, score, value, hits=hits if match else ())
