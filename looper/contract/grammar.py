"""What holds a model to a contract while it writes, where its server can: values, an expression, or a schema."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SPECIAL = re.compile(r"[\\.^$|()\[\]{}*+?]")


@dataclass(frozen=True, slots=True)
class Grammar:
    """One of `choices`, a text of the form of `regex`, or JSON that fits `schema`.

    It takes away what a model would say before its answer. So it binds an answer only where the contract wants nothing
    but the value (`bare`), where thoughts stand outside, or where the answer is there already and is to be mended.
    """

    bare: bool
    choices: tuple[str, ...] = ()
    regex: str | None = None
    schema: Mapping[str, Any] | None = None


def literally(text: str) -> str:
    """An expression for just this text."""
    return _SPECIAL.sub(lambda found: f"\\{found[0]}", text)
