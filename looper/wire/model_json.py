"""Models' JSON, which is seldom just JSON: read leniently, then held to a schema strictly."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ValidationError

from looper.contract.base import visible
from looper.contract.json_mending import mend
from looper.contract.json_text import sources

T = TypeVar("T", bound=BaseModel)
Sentences = Annotated[
    list[str], BeforeValidator(lambda said: [said] if isinstance(said, str) else said)
]
"""Some sentences; a model that has only one may leave out the list."""

LONGEST = 128 * 1024
"""Characters, without thoughts, above which nothing can be the JSON that was asked for."""


@dataclass(frozen=True, slots=True)
class NotRead:
    """Why a text could not be read, as a sentence for the model that wrote it."""

    why: str


def read_json(text: str, type: type[T]) -> T | NotRead:
    """What `text` says, as a `type`; why not, if it holds no JSON object that is one.

    Thoughts, fences, prose around the object, trailing commas and curly quotes are mended. What the object says is
    not: a value of the wrong type or out of range is no value, and what breaks off is not completed.
    """
    if len(visible(text)) > LONGEST:
        return NotRead(f"it is longer than {LONGEST} characters.")
    unread = NotRead("it is not JSON.")
    for value in _values(text):
        try:
            return type.model_validate(value, strict=True)
        except ValidationError as error:
            if isinstance(value, dict):
                unread = NotRead(_faults(error))
                if type.model_fields.keys() & value.keys():
                    return (
                        unread  # It was meant. What stands before it may be an example, or quoted.
                    )
        except RecursionError:
            unread = NotRead("it is nested too deeply.")
    return unread


def _faults(error: ValidationError) -> str:
    """What is wrong with an object, without repeating what it says."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    told = [f"{_place(fault['loc'])}: {fault['msg']}"[:_FAULT] for fault in faults[:_MOST_FAULTS]]
    more = len(faults) - len(told)
    return "; ".join([*told, f"and {more} more"] if more else told)


def _place(loc: tuple[str | int, ...]) -> str:
    return ".".join(map(str, loc)) or "the object"


_MOST_FAULTS = 32
_FAULT = 1_000
"""Characters of one: a model's own words may stand in it."""


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
