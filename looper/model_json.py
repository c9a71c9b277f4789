"""Models' JSON, which is seldom just JSON: read leniently, then held to a schema strictly."""

import json
import re
from typing import Any, TypeVar

import json_repair
from pydantic import BaseModel, ValidationError

T = TypeVar("T", bound=BaseModel)
_THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_MAX = 1 << 20


def read_json(text: str, type: type[T]) -> T | None:
    """What `text` says, as a `type`; None if it holds no JSON object that is one.

    Thoughts, fences, prose around the object, trailing commas and curly quotes are mended. What the object says is
    not: a value of the wrong type or out of range is no value.
    """
    try:
        value = _parse(_THOUGHT.sub("", text[:_MAX]))
        return type.model_validate(value)
    except (ValidationError, RecursionError):
        return None


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        start = text.find("{")
        if start < 0:
            return None
        try:
            return json_repair.loads(text[start:])
        except ValueError:  # too deep for it, too
            return None
