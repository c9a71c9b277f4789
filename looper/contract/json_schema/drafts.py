"""The drafts of JSON Schema: which keywords each knows, where schemas stand inside a schema, and which one is meant."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from looper.contract.json_text import Json

_SINGLE = (
    "additionalProperties", "additionalItems", "contains", "propertyNames", "not", "if", "then", "else",
    "unevaluatedProperties", "unevaluatedItems", "items",
)  # fmt: skip
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_MAPS = (
    "$defs", "definitions", "properties", "patternProperties", "dependentSchemas", "dependencies",
)  # fmt: skip
_AFTER_4 = frozenset({"$id", "const", "contains", "propertyNames"})
_AFTER_6 = frozenset({"if", "then", "else"})
_AFTER_7 = frozenset({
    "$defs", "$anchor", "$recursiveRef", "$recursiveAnchor", "dependentRequired", "dependentSchemas", "minContains",
    "maxContains", "unevaluatedItems", "unevaluatedProperties",
})  # fmt: skip
_AFTER_2019 = frozenset({"prefixItems", "$dynamicRef", "$dynamicAnchor"})


@dataclass(frozen=True, slots=True)
class Draft:
    """What sets a draft apart where the shape of an argument does not."""

    ignored: frozenset[str]
    """Keywords that mean nothing in it."""
    alone: bool = False
    """Whether nothing counts beside a `$ref`."""
    id: str = "$id"
    named_by_id: bool = False
    """Whether an id that is only a fragment names a schema."""
    contains_marks: bool = True
    """Whether items that `contains` finds count as evaluated."""


DRAFT_4 = Draft(_AFTER_4 | _AFTER_6 | _AFTER_7 | _AFTER_2019, alone=True, id="id", named_by_id=True)
DRAFT_6 = Draft(_AFTER_6 | _AFTER_7 | _AFTER_2019, alone=True, named_by_id=True)
DRAFT_7 = Draft(_AFTER_7 | _AFTER_2019, alone=True, named_by_id=True)
DRAFT_2019 = Draft(_AFTER_2019, contains_marks=False)
DRAFT_2020 = Draft(frozenset({"$recursiveRef", "$recursiveAnchor"}))
NEWEST = Draft(frozenset())
"""What is read where no draft is named: all that any draft knows."""
OLDER = Draft(frozenset(), alone=True, named_by_id=True)
"""The same, if it is written as older drafts were."""
OLDEST = Draft(frozenset(), alone=True, id="id", named_by_id=True)

_NAMED: Mapping[str, Draft] = MappingProxyType(
    {
        "json-schema.org/draft-04/schema": DRAFT_4,
        "json-schema.org/draft-06/schema": DRAFT_6,
        "json-schema.org/draft-07/schema": DRAFT_7,
        "json-schema.org/draft/2019-09/schema": DRAFT_2019,
        "json-schema.org/draft/2020-12/schema": DRAFT_2020,
        "json-schema.org/schema": NEWEST,
    }
)


def named(schema: Mapping[str, Json]) -> Draft | None:
    """The draft that a schema says it is of. Raises LookupError if that is none of those that are known here."""
    name = schema.get("$schema")
    if not isinstance(name, str) or not name.strip():
        return None
    return _NAMED[name.strip().partition("://")[2].removesuffix("#").removesuffix("/").lower()]


def guessed(root: Json) -> Draft:
    """The draft that a schema is written in, as far as it matters."""
    older = newer = False
    pending = [root]
    while pending:
        schema = pending.pop()
        if not isinstance(schema, dict):
            continue
        older = older or _is_older(schema)
        newer = newer or not _NEWER.isdisjoint(schema)
        pending += subschemas(schema, NEWEST)
    if newer:
        return NEWEST
    if _has_old_id(root):
        return OLDEST
    return OLDER if older else NEWEST


def _is_older(schema: Mapping[str, Json]) -> bool:
    flags = (schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum"))
    return (
        isinstance(schema.get("items"), list)
        or any(isinstance(each, bool) for each in flags)
        or not _OLDER.isdisjoint(schema)
    )


_OLDER = frozenset({"definitions", "dependencies", "additionalItems"})
_NEWER = (_AFTER_7 | _AFTER_2019) - {"minContains", "maxContains"}


def _has_old_id(root: Json) -> bool:
    if not isinstance(root, dict) or "$id" in root:
        return False
    id = root.get("id")
    return isinstance(id, str) and ("://" in id or id.startswith("urn:"))


def subschemas(schema: Mapping[str, Json], draft: Draft) -> Iterator[Json]:
    """The schemas that stand in a schema, one level down."""
    for keyword in schema.keys() & _HOLDERS - draft.ignored:
        argument = schema[keyword]
        if keyword in _SINGLE and not isinstance(argument, list):
            yield argument
        elif keyword in _LISTS and isinstance(argument, list):
            yield from argument
        elif keyword in _MAPS and isinstance(argument, dict):
            yield from argument.values()


_HOLDERS = frozenset({*_SINGLE, *_LISTS, *_MAPS})
