"""What every configuration model is made of: strictness, and scalars written the way operators write them.

Beside it: what is wrong with a value, in words (`wording`), and files that a configuration names (`files`). Imports
nothing of `looper`.
"""

import re
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Self

from annotated_types import Gt
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    model_validator,
)


class Setting(BaseModel):
    """Base of all configuration models: unknown keys are errors, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=False)


_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_LONGEST = 1_000_000 * 3600
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _parse_duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str) and (found := _DURATION.fullmatch(value)):
        seconds = float(found[1]) * _SECONDS[found[2]]
        if seconds > _LONGEST:
            raise ValueError("a duration is at most 1000000h")
        return timedelta(seconds=seconds)
    raise ValueError("a duration is a number and a unit, such as 250ms, 30s, 5m or 1h")


def _format_duration(value: timedelta) -> str:
    milliseconds = value // timedelta(milliseconds=1)
    return f"{milliseconds // 1000}s" if milliseconds % 1000 == 0 else f"{milliseconds}ms"


Duration = Annotated[
    timedelta,
    BeforeValidator(_parse_duration, json_schema_input_type=str),
    PlainSerializer(_format_duration),
]
"""A length of time, written `250ms`, `30s`, `5m` or `1h`."""

SomeTime = Annotated[Duration, Gt(timedelta(0))]
"""A length of time that is not zero."""

_TOKENS = re.compile(r"(\d+(?:\.\d+)?)([kM]?)")
_BYTES = re.compile(r"(\d+)(B|KiB|MiB|GiB)")
_BYTES_PER = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def _parse_tokens(value: object) -> object:
    if isinstance(value, str) and (found := _TOKENS.fullmatch(value)):
        tokens = Decimal(found[1]) * {"": 1, "k": 1000, "M": 1_000_000}[found[2]]
        if tokens % 1 == 0:
            return int(tokens)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError("a number of tokens is an integer, or a number with k or M, such as 16k")


def _parse_bytes(value: object) -> object:
    if isinstance(value, str) and (found := _BYTES.fullmatch(value)):
        return int(found[1]) * _BYTES_PER[found[2]]
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError("a size is a number of bytes, or has a unit, such as 64KiB or 32MiB")


_PARAMETERS = re.compile(r"(\d+(?:\.\d+)?)([MBT])", re.IGNORECASE)


def _parse_parameters(value: object) -> object:
    if isinstance(value, str) and (found := _PARAMETERS.fullmatch(value)):
        return int(Decimal(found[1]) * {"M": 10**6, "B": 10**9, "T": 10**12}[found[2].upper()])
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError("a size is a number of parameters with M, B or T, such as 8B")


ParamSize = Annotated[
    int, BeforeValidator(_parse_parameters, json_schema_input_type=int | str), Field(ge=1)
]
"""A model's size, written `8B`, `0.5B` or `1.8T`."""

Tokens = Annotated[
    int, BeforeValidator(_parse_tokens, json_schema_input_type=int | str), Field(ge=1)
]
"""A number of tokens, written `4096`, `16k` or `1M` (k = 1000)."""

ByteCount = Annotated[
    int, BeforeValidator(_parse_bytes, json_schema_input_type=int | str), Field(ge=1, le=1 << 40)
]
"""A number of bytes, written `1048576`, `64KiB` or `32MiB`."""

Probability = Annotated[float, Field(ge=0, le=1)]

_POSTERIOR = r"^posterior>=(0(\.\d+)?|1(\.0+)?)$"

Posterior = Annotated[str, StringConstraints(pattern=_POSTERIOR)]
"""A probability that a vote has to reach, written `posterior>=0.9`."""


def posterior_or(*words: str) -> BeforeValidator:
    """Says of a setting that is neither one of some words nor a `Posterior` what it may be."""

    def check(value: object) -> object:
        if isinstance(value, str) and (value in words or re.match(_POSTERIOR, value)):
            return value
        raise ValueError(f"it is {', '.join(words)}, or posterior>= and a number from 0 to 1")

    return BeforeValidator(check)


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@-]{0,127}$")]
"""A name that can stand in a header, a label of a statistic and a URL path without being escaped."""


class SecretReference(Setting):
    """Where a secret is to be found. Exactly one of `env` and `file`; the secret itself is never in the YAML."""

    env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    file: str | None = Field(default=None, pattern=r"^/[^\x00-\x1f\x7f]{0,4095}$")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("give exactly one of `env` and `file`")
        return self


def _steps(value: object) -> object:
    return tuple(value.split(".")) if isinstance(value, str) else value


ValuePath = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(_steps, json_schema_input_type=str | list[str]),
    Field(min_length=1, max_length=16),
]
"""The way to a value inside others: `response_format.type`, or as a list where a name holds a dot."""
