"""JSON Schema (drafts 4, 6, 7, 2019-09, 2020-12) compiled to checks whose work is bounded, as clients send the schemas.

Patterns run on RE2, nothing is fetched, and recursion ends. What cannot be checked that way is not, and `unchecked`
names it; then no check fails that might have passed with it. `format` is a remark, as the drafts have it. A file for
each group of keywords, with its table `CHECKS`; to add one, a line there and, if it holds schemas, one in `drafts.py`.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from looper.contract.json_schema import applied, arrays, objects, scalars, unevaluated
from looper.contract.json_schema.compiling import BadSchema, Compiler
from looper.contract.json_schema.work import Node, TooMuchWork, Work
from looper.contract.json_text import Json, NotJson, canonical, parse

__all__ = ["BadSchema", "Schema", "Work", "from_dict"]

_LARGEST = 128 << 10
_CHECKS = MappingProxyType(
    {
        **applied.CHECKS,
        **scalars.CHECKS,
        **arrays.CHECKS,
        **objects.CHECKS,
        **unevaluated.CHECKS,
    }
)


class Schema:
    """A schema, ready to check values. Raises BadSchema if it is none."""

    def __init__(self, document: str) -> None:
        root, self.unread = _parse(document)
        self.canonical = document if self.unread else canonical(root)
        # Only two keywords ask what the others look at.
        self._marks = unevaluated.MARKS if '"unevaluated' in self.canonical else {}
        self._node, unchecked = self._compiled(root)
        self.unchecked = (*self.unread, *dict.fromkeys(unchecked))
        if unchecked:
            # Where something is not known to hold, nothing may depend on its not holding.
            self._node, _ = self._compiled(root, cautious=True)

    def _compiled(self, root: Json, *, cautious: bool = False) -> tuple[Node, list[str]]:
        compiler = Compiler(root, _CHECKS, self._marks, cautious=cautious)
        return compiler.compile(), compiler.unchecked

    def fault(self, value: Json, work: Work | None = None) -> str | None:
        """What is wrong with a value, if anything is; also that finding out takes too long."""
        try:
            found = self._node.fault(value, work or Work())
        except (TooMuchWork, RecursionError):
            return "It takes too long to check against the schema"
        return None if found is None else str(found)


def _parse(document: str) -> tuple[Json, tuple[str, ...]]:
    """The schema; and of one that is too large or too deep to be checked, anything goes."""
    if len(document) > _LARGEST:
        return True, (f"a schema larger than {_LARGEST >> 10} KiB",)
    try:
        return parse(document), ()
    except NotJson as error:
        if not _is_json(document):
            raise BadSchema(f"the schema is no JSON: {error}") from None
        return True, (f"a schema of which {error}",)


def _is_json(document: str) -> bool:
    try:
        msgspec.json.decode(document, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def from_dict(schema: Mapping[str, Any] | bool) -> Schema:
    """A schema as YAML has it. Raises BadSchema, also for one that is too large to be checked."""
    try:
        compiled = Schema(json.dumps(schema))
    except (TypeError, RecursionError) as error:
        raise BadSchema(f"the schema is no JSON: {error}") from None
    if compiled.unread:
        raise BadSchema(f"it is {compiled.unread[0]}")
    return compiled
