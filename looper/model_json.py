"""Models' JSON, which is seldom just JSON: read leniently, then held to a schema strictly."""

import json
from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from looper.contract.base import visible
from looper.contract.json_mending import mend
from looper.contract.json_text import sources

T = TypeVar("T", bound=BaseModel)


def read_json(text: str, type: type[T]) -> T | None:
    """What `text` says, as a `type`; None if it holds no JSON object that is one.

    Thoughts, fences, prose around the object, trailing commas and curly quotes are mended. What the object says is
    not: a value of the wrong type or out of range is no value, and what breaks off is not completed.
    """
    for value in _values(text):
        try:
            return type.model_validate(value, strict=True)
        except (ValidationError, RecursionError):
            continue
    return None


def _values(text: str) -> Iterator[Any]:
    """What may be meant: all of it; the last value in it; what can be mended."""
    yield _parse(text)
    answer = visible(text)
    for source in reversed(sources(answer)):
        yield _parse(source)
    mended = mend(answer)
    if mended is not None:
        yield _parse(mended)


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
