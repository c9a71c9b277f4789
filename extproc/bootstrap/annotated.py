"""YAML with remarks: data as Envoy reads it, with a comment before what there is something to say of."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

_WIDTH = 120

Path = tuple[str, ...]
"""The way to a value: keys, and for items of lists their names."""


def annotated(data: Any, notes: Mapping[Path, str]) -> str:
    """The data, each note before the first value whose path ends like it."""
    unsaid = dict(notes)
    return "\n".join(_lines(data, (), unsaid, 0)) + "\n"


def _lines(data: Any, path: Path, unsaid: dict[Path, str], depth: int) -> Iterator[str]:
    """`unsaid` loses what is said."""
    margin = "  " * depth
    match data:
        case dict() if data:
            for key, value in data.items():
                here = (*path, str(key))
                yield from _note(here, unsaid, margin)
                yield from _member(_scalar(key), value, here, unsaid, depth)
        case list() if data:
            for each in data:
                here = (*path, _name(each))
                yield from _note(here, unsaid, margin)
                yield from _item(each, here, unsaid, depth)
        case _:
            yield margin + _scalar(data)


def _member(key: str, value: Any, path: Path, unsaid: dict[Path, str], depth: int) -> Iterator[str]:
    margin = "  " * depth
    if isinstance(value, dict | list) and value:
        yield f"{margin}{key}:"
        yield from _lines(value, path, unsaid, depth + 1)
    else:
        yield f"{margin}{key}: {_scalar(value)}"


def _item(value: Any, path: Path, unsaid: dict[Path, str], depth: int) -> Iterator[str]:
    margin = "  " * depth
    lines = list(_lines(value, path, unsaid, depth + 1))
    # The first member stands behind the dash, unless something is said of it.
    if lines[0].lstrip().startswith("#"):
        yield f"{margin}-"
        yield from lines
    else:
        yield f"{margin}- {lines[0].lstrip()}"
        yield from lines[1:]


def _note(path: Path, unsaid: dict[Path, str], margin: str) -> Iterator[str]:
    for length in range(1, len(path) + 1):
        if text := unsaid.pop(path[-length:], ""):
            yield from remark(text, margin)


def remark(text: str, margin: str = "") -> list[str]:
    """A text as lines of comment."""
    before = f"{margin}# "
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=before,
        subsequent_indent=before,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _name(each: Any) -> str:
    return str(each.get("name", "")) if isinstance(each, dict) else ""


def _scalar(value: Any) -> str:
    """One line, in quotes where anybody's parser might take a text for something else."""
    if isinstance(value, str) and not _is_plain(value):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict | list):
        return json.dumps(value)
    return yaml.safe_dump(value, width=float("inf"), allow_unicode=True).splitlines()[0]


def _is_plain(text: str) -> bool:
    """`y` and `n` are texts to us, and booleans to Envoy."""
    return len(text) > 1 and text.replace("_", "").replace(".", "").replace("-", "").isalnum()
