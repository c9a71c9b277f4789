"""What of a value the keywords of a schema look at, and the two keywords that are about all the rest."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from looper.contract.json_schema import read
from looper.contract.json_schema.compiling import Compiler, KeywordChecks, KeywordMarks
from looper.contract.json_schema.scalars import matches
from looper.contract.json_schema.work import (
    Checks,
    Fault,
    Mark,
    Marks,
    Node,
    Work,
    everything,
    marked,
)
from looper.contract.json_text import Json


def _unevaluated(type: type) -> KeywordChecks:
    def compile(compiler: Compiler, argument: Json, schema: Json) -> Checks:
        node = compiler.node(argument)
        # Compiled behind all others, it finds what they look at in its own schema's node.
        marks = tuple(compiler.node(schema).marks[type])

        def check(value: Any, work: Work) -> Fault | None:
            seen = marked(marks, value, work)
            for key, member in _members(value):
                if key not in seen and (fault := node.fault(member, work)):
                    return fault.under(key)
            return None

        return {type: check}

    return compile


def _members(value: Any) -> Iterator[tuple[Any, Json]]:
    return iter(value.items()) if isinstance(value, dict) else enumerate(value)


# The keywords that look at members or items...


def _properties(compiler: Compiler, argument: Json, schema: Json) -> Marks:
    names = read.members(argument).keys()
    return {dict: lambda value, work: value.keys() & names}


def _pattern_properties(compiler: Compiler, argument: Json, schema: Json) -> Marks:
    patterns = [compiler.pattern(source) for source in read.members(argument)]
    known = [pattern for pattern in patterns if pattern is not None]
    if len(known) < len(patterns):
        return _ALL_MEMBERS

    def mark(value: dict[str, Json], work: Work) -> set[Any]:
        return {name for name in value if any(matches(each, name, work) for each in known)}

    return {dict: mark}


def _all_members(compiler: Compiler, argument: Json, schema: Json) -> Marks:
    return _ALL_MEMBERS


def _all_items(compiler: Compiler, argument: Json, schema: Json) -> Marks:
    return _ALL_ITEMS


def _items(compiler: Compiler, argument: Json, schema: Json) -> Marks:
    if not isinstance(argument, list):
        return _ALL_ITEMS
    count = len(argument)
    return {list: lambda value, work: set(range(min(count, len(value))))}


def _additional_items(compiler: Compiler, argument: Json, schema: Json) -> Marks:
    assert isinstance(schema, dict)
    return _ALL_ITEMS if isinstance(schema.get("items"), list) else {}


def _contains(compiler: Compiler, argument: Json, schema: Json) -> Marks:
    if not compiler.draft(schema).contains_marks:
        return {}
    node = compiler.node(argument)

    def mark(value: list[Json], work: Work) -> set[Any]:
        return {index for index, item in enumerate(value) if node.holds(item, work)}

    return {list: mark}


_ALL_MEMBERS: Marks = MappingProxyType({dict: everything})
_ALL_ITEMS: Marks = MappingProxyType({list: everything})


# ... and those that put other schemas beside this one. Only one that holds has looked at anything.


def _for_both(mark: Mark) -> Marks:
    return {dict: mark, list: mark}


def _reference(compiler: Compiler, argument: Json, schema: Json) -> Marks:
    known = len(compiler.unchecked)
    node = compiler.referred(read.text(argument), schema)
    del compiler.unchecked[known:]  # the check has named it
    return _for_both(everything if node is None else node.seen)


def _dynamic(compiler: Compiler, argument: Json, schema: Json) -> Marks:
    if compiler.places.is_one_resource:
        return _reference(compiler, argument, schema)
    return _for_both(everything)


def _each(compiler: Compiler, argument: Json, schema: Json) -> Marks:
    nodes = [compiler.node(each) for each in read.items(argument)]
    return _for_both(
        lambda value, work: set().union(*(_seen_if_held(node, value, work) for node in nodes))
    )


def _seen_if_held(node: Node, value: Json, work: Work) -> set[Any]:
    return node.seen(value, work) if node.holds(value, work) else set()


def _if(compiler: Compiler, argument: Json, schema: Json) -> Marks:
    assert isinstance(schema, dict)
    condition = compiler.node(argument)
    then, otherwise = (compiler.node(schema.get(name, True)) for name in ("then", "else"))

    def mark(value: Json, work: Work) -> set[Any]:
        if compiler.cautious:  # whether it holds is not known
            nodes = (condition, then, otherwise)
            return set().union(*(node.seen(value, work) for node in nodes))
        if condition.holds(value, work):
            return condition.seen(value, work) | then.seen(value, work)
        return otherwise.seen(value, work)

    return _for_both(mark)


def _dependent(compiler: Compiler, argument: Json, schema: Json) -> Marks:
    nodes = {
        name: compiler.node(each)
        for name, each in read.members(argument).items()
        if isinstance(each, (dict, bool))
    }

    def mark(value: dict[str, Json], work: Work) -> set[Any]:
        work.spend(len(nodes) // 8)
        asked = (node for name, node in nodes.items() if name in value)
        return set().union(*(node.seen(value, work) for node in asked))

    return {dict: mark}


CHECKS: Mapping[str, KeywordChecks] = MappingProxyType(
    {"unevaluatedProperties": _unevaluated(dict), "unevaluatedItems": _unevaluated(list)}
)
MARKS: Mapping[str, KeywordMarks] = MappingProxyType(
    {
        "properties": _properties,
        "patternProperties": _pattern_properties,
        "additionalProperties": _all_members,
        "unevaluatedProperties": _all_members,
        "prefixItems": _items,
        "items": _items,
        "additionalItems": _additional_items,
        "unevaluatedItems": _all_items,
        "contains": _contains,
        "$ref": _reference,
        "$dynamicRef": _dynamic,
        "$recursiveRef": _dynamic,
        "allOf": _each,
        "anyOf": _each,
        "oneOf": _each,
        "if": _if,
        "dependentSchemas": _dependent,
        "dependencies": _dependent,
    }
)
