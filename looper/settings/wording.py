"""What is wrong with a value that somebody has written, in words for whoever wrote it and not for a programmer."""

import re
from collections.abc import Mapping
from typing import Any

_KINDS: Mapping[str, str] = {
    "missing": "is missing",
    "int": "must be a whole number",
    "float": "must be a number",
    "decimal": "must be a number",
    "finite_number": "must be a number that is finite",
    "bool": "must be true or false",
    "string": "must be a text",
    "list": "must be a list",
    "tuple": "must be a list",
    "set": "must be a list",
    "frozen_set": "must be a list",
    "dict": "must have keys and values",
    "model": "must have keys and values",
    "mapping": "must have keys and values",
    "none_required": "must be empty",
    "union_tag_not_found": "`type` is missing, which says what of its kind this is",
}
_SAYS_TYPE = re.compile(r"_(?:type|parsing|from_float|attributes_type|parsing_size|unicode)$")

_PHRASES = (
    (re.compile(r"^Input should be greater than or equal to (.+)$"), r"must be at least \1"),
    (re.compile(r"^Input should be less than or equal to (.+)$"), r"must be at most \1"),
    (re.compile(r"^Input should be greater than (.+)$"), r"must be above \1"),
    (re.compile(r"^Input should be less than (.+)$"), r"must be below \1"),
    (
        re.compile(r"^\w+ should have at (least|most) (\d+) (\w+)(?: after validation.*)?$"),
        r"must have at \1 \2 \3",
    ),
    (re.compile(r"^String should match pattern (.+)$"), r"must have the form \1"),
    (
        re.compile(
            r"^Input tag ('.*') found using '?type'? does not match any of the expected tags: (.*)$"
        ),
        r"there is no type \1; expected \2",
    ),
    (re.compile(r"^Input should be (.+)$"), r"must be \1"),
    (re.compile(r"^Value error, "), ""),
)


def in_words(fault: Mapping[str, Any]) -> str:
    """One of pydantic's errors, as it is told to somebody who knows nothing of it."""
    kind = str(fault["type"])
    if known := _KINDS.get(kind) or _KINDS.get(_SAYS_TYPE.sub("", kind)):
        return known
    text = str(fault["msg"])
    for pattern, words in _PHRASES:
        text = pattern.sub(words, text)
    return text
