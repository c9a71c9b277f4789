"""Models' JSON, which is seldom just JSON: read leniently, then held to a schema strictly."""

import json
from typing import Any, TypeVar

import json_repair
from pydantic import BaseModel, ValidationError

from looper.thoughts import without_thoughts

T = TypeVar("T", bound=BaseModel)
_MAX_REPAIR = 16 << 10
"""Characters. What repairs takes time with the square of the length."""


def read_json(text: str, type: type[T]) -> T | None:
    """What `text` says, as a `type`; None if it holds no JSON object that is one.

    Thoughts, fences, prose around the object, trailing commas and curly quotes are mended. What the object says is
    not: a value of the wrong type or out of range is no value.
    """
    try:
        return type.model_validate(_parse(text), strict=True)
    except (ValidationError, RecursionError):
        return None


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        answer = without_thoughts(text)
    start, end = answer.find("{"), answer.rfind("}") + 1
    if start < 0:
        return None
    try:
        return json.loads(answer[start:end])
    except ValueError:
        pass
    if len(answer) - start > _MAX_REPAIR:
        return None
    try:
        return json_repair.loads(answer[start:])
    except ValueError:  # too deep for it
        return None
