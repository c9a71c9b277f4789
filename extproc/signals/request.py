"""Does a member of the request say something?"""

from typing import Literal

import msgspec
from pydantic import Field

from extproc.protocol.events import Value
from extproc.signals.base import Reading, Subject
from extproc.signals.values import Condition, Path

_LONGEST = 64 << 10
"""Bytes of a value that is decoded."""

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_array = msgspec.json.Decoder(list[msgspec.Raw])
_OPAQUE: Value = {}
"""Stands for what is not decoded: it exists, and is nothing else."""


class RequestConfig(Condition):
    """`{type: request, path: response_format.type, in: [json_object, json_schema]}`"""

    type: Literal["request"]
    path: Path = Field(description="the way to a member; elements of lists go by their number")

    def build(self) -> "Request":
        return Request(self)


class Request:
    """Reads a `request` signal. Of what the path passes by, nothing is decoded."""

    def __init__(self, config: RequestConfig) -> None:
        self._config = config
        self._first, *self._rest = config.path

    def read(self, subject: Subject) -> Reading:
        raw = subject.request.members.get(self._first)
        for step in self._rest:
            raw = None if raw is None else _inside(raw, step)
        return self._config.reading(None if raw is None else _decoded(raw))


def _inside(raw: msgspec.Raw, step: str) -> msgspec.Raw | None:
    try:
        match bytes(memoryview(raw)[:1]):
            case b"{":
                return _object.decode(raw).get(step)
            case b"[" if step.isascii() and step.isdigit() and len(step) < 8:
                elements = _array.decode(raw)
                return elements[int(step)] if int(step) < len(elements) else None
            case _:
                return None
    except (ValueError, RecursionError):
        return None


def _decoded(raw: msgspec.Raw) -> Value:
    if len(memoryview(raw)) > _LONGEST:
        return _OPAQUE
    try:
        value: Value = msgspec.json.decode(raw)
    except (ValueError, RecursionError):  # a number such as 1e400, or what is nested without end
        return _OPAQUE
    return value
