"""Where schemas stand: their addresses, names and drafts, and what a reference points to. Nothing is ever fetched."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from looper.contract.json_schema import drafts
from looper.contract.json_schema.drafts import Draft
from looper.contract.json_text import Json

_LONGEST = 2_000
_ANCHORS = ("$anchor", "$dynamicAnchor")


@dataclass(frozen=True, slots=True)
class Place:
    """What holds where a schema stands. Without a draft, nobody knows what its keywords mean."""

    base: str
    draft: Draft | None


@dataclass(slots=True)
class Places:
    """All schemas of a document by their identity, and those that have an address or a name."""

    root: Json
    _of: dict[int, Place] = field(default_factory=dict)
    _resources: dict[str, Json] = field(default_factory=dict)
    _anchors: dict[tuple[str, str], Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._resources[""] = self.root
        self._enter(self.root, Place("", drafts.guessed(self.root)), is_root=True)

    def of(self, schema: Json) -> Place:
        return self._of.get(id(schema)) or self._of[id(self.root)]

    @property
    def is_one_resource(self) -> bool:
        """Whether nothing in the document has an address of its own, so that no reference depends on the way there."""
        return len({id(each) for each in self._resources.values()}) == 1

    def _enter(self, schema: Json, place: Place, *, is_root: bool = False) -> None:
        pending = [(schema, place, is_root)]
        while pending:
            schema, place, is_root = pending.pop()
            if not isinstance(schema, dict) or id(schema) in self._of:
                continue
            place = self._moved(schema, place, is_root=is_root)
            self._of[id(schema)] = place
            inside = drafts.subschemas(schema, place.draft or drafts.NEWEST)
            pending += [(each, place, False) for each in inside]

    def _moved(self, schema: dict[str, Json], place: Place, *, is_root: bool) -> Place:
        """The place of a schema, which may have an address or a draft of its own; both are noted."""
        if is_root:
            place = replace(place, draft=_draft(schema, place.draft))
        draft = place.draft or drafts.NEWEST
        if draft.alone and "$ref" in schema:
            return place
        address = (
            schema.get("$id", schema.get("id")) if place.draft is None else schema.get(draft.id)
        )
        if isinstance(address, str) and (not address.startswith("#") or not draft.named_by_id):
            base = urldefrag(resolved(place.base, address) or "").url
            if base and base != place.base:
                place = Place(base, place.draft if is_root else _draft(schema, place.draft))
                self._resources.setdefault(base, schema)
        self._name(schema, address, place, draft)
        return place

    def _name(self, schema: dict[str, Json], address: Any, place: Place, draft: Draft) -> None:
        if draft.named_by_id and isinstance(address, str) and "#" in address:
            self._anchors.setdefault((place.base, urldefrag(address).fragment), schema)
        for keyword in _ANCHORS:
            if keyword not in draft.ignored and isinstance(name := schema.get(keyword), str):
                self._anchors.setdefault((place.base, name), schema)

    def target(self, reference: str, place: Place) -> Json:
        """What a reference points to. Raises LookupError if it is not in the document, or is no schema."""
        address, _, fragment = (resolved(place.base, reference) or "?").partition("#")
        fragment = unquote(fragment)
        resource = self._resources[address]
        start = self._of.get(id(resource), place)
        if fragment and not fragment.startswith("/"):
            return self._anchors[start.base, fragment]
        found = _walk(resource, fragment)
        if not isinstance(found, (dict, bool)):
            raise LookupError
        self._enter(found, start)
        return found


def _draft(schema: Mapping[str, Json], otherwise: Draft | None) -> Draft | None:
    try:
        return drafts.named(schema) or otherwise
    except LookupError:
        return None


def resolved(base: str, reference: str) -> str | None:
    """A reference as an address; None if it is none, or so long that reading it again and again would take long."""
    if len(reference) > _LONGEST:
        return None
    if not reference or reference.startswith("#"):
        return base + reference
    try:
        address = urljoin(base, reference)
    except ValueError:
        return None
    return address if len(address) <= _LONGEST else None


def _walk(found: Any, pointer: str) -> Any:
    for step in pointer.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        found = (
            found[int(key)] if isinstance(found, list) and key.isdecimal() else _member(found, key)
        )
    return found


def _member(found: Any, key: str) -> Any:
    if not isinstance(found, dict):
        raise LookupError
    return found[key]
