"""Versions of Envoy that files can be written for, and what those lack that the newest has."""

import re
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator

OLDEST: Final = "1.37"
NEWEST: Final = "1.40"

_VERSION = re.compile(r"v?(\d+)\.(\d+)(\.\d+)?")


def number(version: str) -> tuple[int, int]:
    """What versions are compared by. Raises ValueError for what is none."""
    found = _VERSION.fullmatch(version)
    if found is None:
        raise ValueError(f"{version!r} is no version of Envoy: write one such as '{NEWEST}'")
    return int(found[1]), int(found[2])


def _minor(value: object) -> object:
    """The version without its patch, since no patch adds anything."""
    if isinstance(value, float):
        raise ValueError(f"a version is a text: put it in quotes, such as '{NEWEST}'")
    if not isinstance(value, str):
        return value
    major, minor = number(value)
    if (major, minor) < number(OLDEST):
        raise ValueError(f"Envoy {value} is too old: it has to be {OLDEST} or newer")
    if (major, minor) > number(NEWEST):
        raise ValueError(f"files are written for Envoy {NEWEST} at most, which newer ones take too")
    return f"{major}.{minor}"


EnvoyVersion = Annotated[
    Literal["1.37", "1.38", "1.39", "1.40"],
    BeforeValidator(_minor, json_schema_input_type=str),
]


@dataclass(frozen=True, slots=True)
class Feature:
    """Something of Envoy's that files use: since when it is there, and what is lost without."""

    name: str
    since: str
    lost: str

    def is_in(self, version: str) -> bool:
        return number(version) >= number(self.since)


BOUNDED = Feature(
    "stats_scope of the stats logger",
    "1.39",
    "our series have no upper bound, and stay until a restart when nothing uses them any more",
)
GAUGES = Feature("gauges of the stats logger", "1.38", "what is counted up and down is not shown")
CHAINED = Feature(
    "several ext_proc filters in full duplex",
    "1.38",
    "another external processor in the same chain may stall requests",
)
TRIMMED = Feature(
    "what ends a file with a key",
    "1.40",
    "a newline there is part of the key, and every call of its model a 503: write the file without one",
)
LOCAL = Feature(
    "custom_response that tells Envoy's own answers from a model's",
    "1.38",
    "a 401 or 403 of a filter behind the processor looks like a model's: 502",
)
FEATURES = (TRIMMED, BOUNDED, GAUGES, CHAINED, LOCAL)
