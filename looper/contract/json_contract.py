"""`json`: an answer that is one JSON value, and fits a schema."""

import json
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal, Self

import msgspec
from pydantic import Field, model_validator

from looper.contract import json_schema
from looper.contract.base import Contract, Violation, quote, visible
from looper.contract.extraction import Extraction, marker_pattern
from looper.contract.fences import blocks
from looper.contract.grammar import Grammar
from looper.contract.json_mending import mend
from looper.contract.json_schema import BadSchema, Schema
from looper.contract.json_text import NotJson, canonical, is_json, parse, sources
from looper.errors import InvalidField
from looper.settings import Setting

_MOST_MARKERS = 8
_LONGEST_MENDED = 256 << 10
_ANY_OBJECT = '{"type": "object"}'


class JsonConfig(Setting):
    """`contract: {type: json, schema: {…}}`. Without `schema`, any JSON object will do.

    `extract` says where the value stands that answers are compared by: the whole document (`exact`: only if the answer
    is nothing else; `last_match`, the default: the last that fits, also in fences or amid prose), what follows a
    `marker`, or one field (`json_field`), which leaves explanations in other fields out of the comparison. What is JSON
    but for its quotes, commas or escapes is read as it is mended before it is published.
    """

    type: Literal["json"]
    schema_: dict[str, Any] | bool | None = Field(default=None, alias="schema")
    extract: Extraction = Extraction()

    @model_validator(mode="after")
    def _schema_is_one(self) -> Self:
        self.build()
        return self

    def build(self) -> "JsonContract":
        document = (
            Schema(_ANY_OBJECT) if self.schema_ is None else json_schema.from_dict(self.schema_)
        )
        return JsonContract(document, self.extract, tight=self.extract.mode == "exact")


class JsonContract(Contract[str]):
    """A value is the canonical JSON text: keys sorted, numbers in one form. No blanks are around a `tight` one."""

    def __init__(self, schema: Schema, extract: Extraction, *, tight: bool = False) -> None:
        self._schema = schema
        self._tight = tight
        self._mode = extract.resolved("last_match")
        self._markers = marker_pattern(extract.markers)
        self._marker = extract.markers[0]
        self._field = extract.field or "answer"
        self._include_reasoning = extract.include_reasoning

    @property
    def unchecked(self) -> tuple[str, ...]:
        """What of the schema is not checked."""
        return self._schema.unchecked

    @cached_property
    def grammar(self) -> Grammar | None:
        if self._mode == "marker" or self._schema.unread:
            return None
        schema = json.loads(self._schema.canonical)
        return Grammar(bare=True, schema=schema if isinstance(schema, dict) else {"type": "object"})

    def extract(self, text: str) -> str | None:
        content = text if self._include_reasoning else visible(text)
        fitting = (
            value for each in self._sources(content) if (value := self._value(each)) is not None
        )
        return next(fitting, None)

    def _sources(self, content: str) -> Iterator[str]:
        """Where the value may stand, best first."""
        match self._mode:
            case "exact":
                yield content
                if content.strip()[:1] in ("{", "[") and not is_json(content):
                    yield from filter(None, [_mend(content)])
            case "marker":
                # A marker may also stand inside the JSON that follows one.
                for found in reversed(list(self._markers.finditer(content))[-_MOST_MARKERS:]):
                    yield from sources(content[found.end() :].lstrip(" \t\n*_`"))[:1]
            case "last_match" | "json_field":
                yield content
                readable = sources(content)
                yield from reversed(readable)
                if not readable:
                    yield from filter(None, [_mend(content)])

    def _value(self, source: str) -> str | None:
        try:
            value = parse(source)
        except NotJson:
            return None
        if self._schema.fault(value) is not None:
            return None
        if self._mode != "json_field":
            return canonical(value)
        return (
            canonical(value[self._field])
            if isinstance(value, dict) and self._field in value
            else None
        )

    @property
    def takes_any_object(self) -> bool:
        return self._schema.canonical == Schema(_ANY_OBJECT).canonical

    def allows(self, wanted: Contract[str]) -> bool:
        if self._mode == "marker" or not isinstance(wanted, JsonContract):
            return False
        return wanted.takes_any_object or wanted._schema.canonical == self._schema.canonical

    def render(self, value: str) -> str:
        match self._mode:
            case "json_field":
                return f"{{{canonical(self._field)}:{value}}}"
            case "marker":
                return f"{self._marker} {value}"
            case _:
                return value

    def check(self, text: str) -> Violation | None:
        if self._mode == "marker":
            return self._check_marked(text)
        try:
            value = parse(text)
        except NotJson as error:
            return Violation(
                f"The answer must be JSON and nothing else, but {error}: {quote(text)}."
            )
        if fault := self._schema.fault(value):
            return Violation(f"The JSON does not fit its schema: {fault}.")
        if self._tight and text != text.strip():
            return Violation("The answer must be JSON and nothing else, without blanks around it.")
        if self._mode == "json_field" and not (isinstance(value, dict) and self._field in value):
            return Violation(f"The JSON must have the member `{self._field}`.")
        return None

    def _check_marked(self, text: str) -> Violation | None:
        if self.extract(text) is not None:
            return None
        return Violation(
            f"The answer must have JSON that fits the schema after {self._marker}: {quote(text)}."
        )

    def _mended(self, text: str) -> Iterator[str]:
        content = visible(text).strip()
        yield content
        yield from reversed(sources(content))
        if mended := _mend(content):
            yield mended
            yield f"{self._marker} {mended}"


def _mend(content: str) -> str | None:
    fenced = [
        block.content for block in blocks(content) if block.content.lstrip()[:1] in ("{", "[")
    ]
    source = fenced[-1] if fenced else content
    return mend(source) if len(source) <= _LONGEST_MENDED else None


_ABSENT = msgspec.Raw(b"null")


class _Wanted(msgspec.Struct, frozen=True):
    """`response_format` of a request, as far as it is a contract."""

    type: str
    json_schema: msgspec.Raw = _ABSENT


class _Named(msgspec.Struct, frozen=True):
    schema: msgspec.Raw = _ABSENT


def from_response_format(raw: bytes | msgspec.Raw | None) -> JsonContract | None:
    """The contract that a client's `response_format` is by itself; None if it asks for no JSON.

    Raises InvalidField for a schema that is none.
    """
    if raw is None or bytes(raw).strip() == b"null":
        return None
    wanted: _Wanted = _decode(raw, _Wanted)
    if wanted.type not in ("json_object", "json_schema"):
        return None
    document = _ANY_OBJECT
    if wanted.type == "json_schema":
        document = _schema_of(wanted.json_schema)
    try:
        return JsonContract(Schema(document), Extraction(mode="exact"))
    except BadSchema as error:
        raise _unusable(str(error)) from None


def _schema_of(raw: msgspec.Raw) -> str:
    named: _Named = _decode(raw, _Named)
    try:
        document = bytes(named.schema).decode()
    except UnicodeDecodeError:
        raise _unusable("it is not UTF-8") from None
    return _ANY_OBJECT if document.strip() == "null" else document


def _decode(raw: bytes | msgspec.Raw, type: type[Any]) -> Any:
    try:
        return msgspec.json.decode(raw, type=type)
    except (msgspec.DecodeError, RecursionError):
        raise _unusable("it has a member of the wrong type") from None


def _unusable(why: str) -> InvalidField:
    return InvalidField(f"`response_format` cannot be used: {why}.", param="response_format")
