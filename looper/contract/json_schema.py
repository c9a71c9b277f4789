"""JSON Schema (Draft 2020-12) compiled to checks whose work is bounded, as clients send the schemas.

Patterns run on RE2, nothing is fetched, and recursion ends. What cannot be checked that way is not, and `unchecked`
names it; then no check fails that might have passed with it. `format` is a remark, as the draft has it.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType, NoneType
from typing import Any
from urllib.parse import unquote

from looper.contract.json_text import Json, NotJson, canonical, parse
from looper.contract.patterns import Pattern

_LARGEST = 128 << 10
_MOST_WORK = 600_000
_DEEPEST = 160
_MOST_PATTERNS = 100
_PATTERN_MEMORY = 256 << 10
_SHOWN = 40


class BadSchema(ValueError):
    """A schema that is none. The text names keywords and limits only."""


class TooMuchWork(Exception):
    """A check was given up."""


class Work:
    """What a check has cost so far, in steps of about a microsecond."""

    def __init__(self) -> None:
        self._left = _MOST_WORK
        self._depth = 0

    def spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise TooMuchWork

    def enter(self) -> None:
        self.spend(1)
        self._depth += 1
        if self._depth > _DEEPEST:
            raise TooMuchWork

    def leave(self) -> None:
        self._depth -= 1


class Fault:
    """What is wrong, and where: the path is put together from its end while the checks return."""

    def __init__(self, message: str) -> None:
        self._message = message
        self._path: list[str] = []

    def under(self, key: str | int) -> "Fault":
        self._path.append(f"[{key}]" if isinstance(key, int) else f".{_shorten(key)}")
        return self

    def __str__(self) -> str:
        path = "".join(reversed(self._path))
        at = f"`${path[:_SHOWN]}{'…' * (len(path) > _SHOWN)}`" if path else "It"
        return f"{at} {self._message}"


Check = Callable[[Any, Work], Fault | None]
Checks = Mapping[type, Check]
_TYPES: Mapping[str, type] = MappingProxyType(
    {
        "object": dict,
        "array": list,
        "string": str,
        "number": Decimal,
        "boolean": bool,
        "null": NoneType,
    }
)
_ANY = tuple(_TYPES.values())


class Node:
    """A compiled schema: the checks for each type of value."""

    def __init__(self) -> None:
        self.checks: dict[type, list[Check]] = {type: [] for type in _ANY}

    def add(self, checks: Checks) -> None:
        for type, check in checks.items():
            self.checks[type].append(check)

    def fault(self, value: Json, work: Work) -> Fault | None:
        work.enter()
        for check in self.checks[type(value)]:
            if fault := check(value, work):
                return fault
        work.leave()
        return None

    def holds(self, value: Json, work: Work) -> bool:
        depth = work._depth
        held = self.fault(value, work) is None
        work._depth = depth
        return held


class Schema:
    """A schema, ready to check values. Raises BadSchema if it is none."""

    def __init__(self, document: str) -> None:
        root = _parse(document)
        self.canonical = canonical(root)
        compiler = _Compiler(root)
        self._node = compiler.node(root)
        self.unchecked = tuple(dict.fromkeys(compiler.unchecked))
        if self.unchecked:
            # Where something is not known to hold, nothing may depend on its not holding.
            self._node = _Compiler(root, cautious=True).node(root)

    def fault(self, value: Json) -> str | None:
        """What is wrong with a value, if anything is; also that finding out takes too long."""
        try:
            found = self._node.fault(value, Work())
        except (TooMuchWork, RecursionError):
            return "It takes too long to check against the schema"
        return None if found is None else str(found)


def _parse(document: str) -> Json:
    if len(document) > _LARGEST:
        raise BadSchema(f"the schema is larger than {_LARGEST >> 10} KiB")
    try:
        return parse(document)
    except NotJson as error:
        raise BadSchema(f"the schema is no JSON: {error}") from None


class _Compiler:
    def __init__(self, root: Json, *, cautious: bool = False) -> None:
        self._root = root
        self._nodes: dict[int, Node] = {}
        self._patterns = 0
        self.cautious = cautious
        self.unchecked: list[str] = []

    def node(self, schema: Json) -> Node:
        if isinstance(schema, bool):
            node = Node()
            if not schema:
                node.add(dict.fromkeys(_ANY, _never))
            return node
        if not isinstance(schema, dict):
            raise BadSchema("a schema is an object, or true or false")
        # One schema may be reached by several references, and by one from within itself.
        if id(schema) not in self._nodes:
            self._nodes[id(schema)] = Node()
            self._compile(schema, self._nodes[id(schema)])
        return self._nodes[id(schema)]

    def _compile(self, schema: dict[str, Json], node: Node) -> None:
        if "$id" in schema and schema is not self._root:
            self.unchecked.append("$id")  # references inside are relative to it
            return
        for keyword, argument in schema.items():
            if compile := _KEYWORDS.get(keyword):
                try:
                    node.add(compile(self, argument, schema))
                except _Malformed as error:
                    raise BadSchema(f"`{keyword}` {error}") from None

    def pattern(self, source: str) -> Pattern | None:
        """The pattern, or None if it cannot be checked in bounded time."""
        self._patterns += 1
        try:
            if self._patterns <= _MOST_PATTERNS:
                return Pattern(source, _PATTERN_MEMORY)
        except ValueError:
            pass
        self.unchecked.append(f"pattern {_shorten(source)}")
        return None

    def target(self, reference: str) -> Json:
        """What a reference within the document points to. Raises LookupError if it points elsewhere."""
        if reference != "#" and not reference.startswith("#/"):
            raise LookupError
        found: Any = self._root
        for step in unquote(reference[1:]).split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            found = found[int(key)] if isinstance(found, list) and key.isdecimal() else found[key]
        target: Json = found
        return target


class _Malformed(ValueError):
    """The argument of a keyword is of the wrong type; the text goes on from the keyword's name."""


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _never(value: Json, work: Work) -> Fault | None:
    return Fault("must not be there")


def _test(type: type, holds: Callable[[Any], bool], message: str) -> Checks:
    """A check that needs only the value."""
    return {type: lambda value, work: None if holds(value) else Fault(message)}


# How arguments are read...


def _object(argument: Json) -> dict[str, Json]:
    if not isinstance(argument, dict):
        raise _Malformed("is an object")
    return argument


def _array(argument: Json) -> list[Json]:
    if not isinstance(argument, list):
        raise _Malformed("is an array")
    return argument


def _text(argument: Json) -> str:
    if not isinstance(argument, str):
        raise _Malformed("is a string")
    return argument


def _number(argument: Json) -> Decimal:
    if not isinstance(argument, Decimal):
        raise _Malformed("is a number")
    return argument


def _count(argument: Json) -> int:
    if (
        not isinstance(argument, Decimal)
        or not _is_integer(argument)
        or not 0 <= argument < 1 << 53
    ):
        raise _Malformed("is a number of things")
    return int(argument)


def _is_integer(value: Decimal) -> bool:
    return value == value.to_integral_value()


# ... the keywords for values of any type...


def _type(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    names = [_text(each) for each in argument] if isinstance(argument, list) else [_text(argument)]
    if not names:
        raise _Malformed("names a type")
    if unknown := set(names) - _TYPES.keys() - {"integer"}:
        raise _Malformed(f"is none of {', '.join([*_TYPES, 'integer'])}: {_shorten(min(unknown))}")
    fault = f"must be of type {' or '.join(names)}"
    checks: dict[type, Check] = {
        type: lambda value, work: Fault(fault) for name, type in _TYPES.items() if name not in names
    }
    if Decimal in checks and "integer" in names:
        checks |= _test(Decimal, _is_integer, fault)
    return checks


def _enum(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    allowed = _array(argument)
    scalars = {(type(each), each) for each in allowed if not isinstance(each, (dict, list))}
    containers = [(each, _size(each)) for each in allowed if isinstance(each, (dict, list))]
    fault = f"must be one of {_shorten(canonical(argument))}"

    def is_scalar(value: Json, work: Work) -> Fault | None:
        return None if (type(value), value) in scalars else Fault(fault)

    def is_container(value: Json, work: Work) -> Fault | None:
        for each, size in containers:
            work.spend(size)
            if _equal(each, value):
                return None
        return Fault(fault)

    return {type: is_container if type in (dict, list) else is_scalar for type in _ANY}


def _size(value: Json) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_size, inside))


def _equal(a: Json, b: Json) -> bool:
    """Whether two values are the same, at the cost of the smaller; for Python, true is 1 as well."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a == b


def _const(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    return _enum(compiler, [argument], schema)


def _reference(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    try:
        node = compiler.node(compiler.target(_text(argument)))
    except (LookupError, TypeError):
        compiler.unchecked.append(f"$ref {_shorten(_text(argument))}")
        return {}
    return dict.fromkeys(_ANY, node.fault)


def _all_of(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    nodes = [compiler.node(each) for each in _array(argument)]

    def check(value: Json, work: Work) -> Fault | None:
        return next((fault for node in nodes if (fault := node.fault(value, work))), None)

    return dict.fromkeys(_ANY, check)


def _any_of(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    nodes = [compiler.node(each) for each in _array(argument)]

    def check(value: Json, work: Work) -> Fault | None:
        if any(node.holds(value, work) for node in nodes):
            return None
        return Fault(f"fits none of {len(nodes)} alternatives")

    return dict.fromkeys(_ANY, check)


def _one_of(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    if compiler.cautious:
        return _any_of(compiler, argument, schema)
    nodes = [compiler.node(each) for each in _array(argument)]

    def check(value: Json, work: Work) -> Fault | None:
        fitting = sum(node.holds(value, work) for node in nodes)
        return (
            None if fitting == 1 else Fault(f"fits {fitting} of {len(nodes)} alternatives, not one")
        )

    return dict.fromkeys(_ANY, check)


def _not(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    node = compiler.node(argument)
    if compiler.cautious:
        return {}

    def check(value: Json, work: Work) -> Fault | None:
        return Fault("is what it must not be") if node.holds(value, work) else None

    return dict.fromkeys(_ANY, check)


def _if(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    assert isinstance(schema, dict)
    condition = compiler.node(argument)
    then, otherwise = (compiler.node(schema.get(name, True)) for name in ("then", "else"))
    if compiler.cautious:
        return {}

    def check(value: Json, work: Work) -> Fault | None:
        return (then if condition.holds(value, work) else otherwise).fault(value, work)

    return dict.fromkeys(_ANY, check)


# ... for numbers and strings...


def _minimum(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    limit = _number(argument)
    return _test(Decimal, lambda value: value >= limit, f"must be at least {limit}")


def _maximum(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    limit = _number(argument)
    return _test(Decimal, lambda value: value <= limit, f"must be at most {limit}")


def _exclusive_minimum(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    limit = _number(argument)
    return _test(Decimal, lambda value: value > limit, f"must be over {limit}")


def _exclusive_maximum(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    limit = _number(argument)
    return _test(Decimal, lambda value: value < limit, f"must be under {limit}")


def _multiple_of(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    step = _number(argument)
    if step <= 0 or not _is_moderate(step):
        raise _Malformed("is a positive number of moderate size")

    def holds(value: Decimal) -> bool:
        return _is_moderate(value) and (Fraction(value) / Fraction(step)).denominator == 1

    return _test(Decimal, holds, f"must be a multiple of {step}")


def _is_moderate(value: Decimal) -> bool:
    """Whether a number can be written out, as exact division does with it."""
    return not value or -400 < value.adjusted() < 400


def _min_length(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    least = _count(argument)
    return _test(str, lambda value: len(value) >= least, f"must have {least} or more characters")


def _max_length(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    most = _count(argument)
    return _test(str, lambda value: len(value) <= most, f"must have at most {most} characters")


def _pattern(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    pattern = compiler.pattern(_text(argument))
    if pattern is None:
        return {}

    def check(value: str, work: Work) -> Fault | None:
        return (
            None
            if _matches(pattern, value, work)
            else Fault(f"must match {_shorten(pattern.source)}")
        )

    return {str: check}


def _matches(pattern: Pattern, value: str, work: Work) -> bool:
    # RE2 may take a step for each character and each instruction of the pattern, though it seldom does.
    work.spend(8 + len(value) * pattern.size // 200)
    return pattern.found(value)


# ... for arrays...


def _min_items(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    least = _count(argument)
    return _test(list, lambda value: len(value) >= least, f"must have {least} or more items")


def _max_items(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    most = _count(argument)
    return _test(list, lambda value: len(value) <= most, f"must have at most {most} items")


def _unique_items(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    if not isinstance(argument, bool):
        raise _Malformed("is true or false")

    def check(value: list[Json], work: Work) -> Fault | None:
        seen: set[str] = set()
        for each in value:
            written = canonical(each)
            work.spend(1 + len(written) // 2)
            seen.add(written)
        return None if len(seen) == len(value) else Fault("must not have an item twice")

    return {list: check} if argument else {}


def _prefix_items(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    nodes = [compiler.node(each) for each in _array(argument)]

    def check(value: list[Json], work: Work) -> Fault | None:
        return _first_fault(zip(range(len(value)), nodes, value, strict=False), work)

    return {list: check}


def _items(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    assert isinstance(schema, dict)
    node, skipped = compiler.node(argument), len(_array(schema.get("prefixItems", [])))

    def check(value: list[Json], work: Work) -> Fault | None:
        rest = enumerate(value[skipped:], skipped)
        return _first_fault(((index, node, item) for index, item in rest), work)

    return {list: check}


def _first_fault(parts: Iterator[tuple[int, Node, Json]], work: Work) -> Fault | None:
    for index, node, item in parts:
        if fault := node.fault(item, work):
            return fault.under(index)
    return None


def _contains(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    assert isinstance(schema, dict)
    node = compiler.node(argument)
    least = _count(schema.get("minContains", Decimal(1)))
    most = _count(schema["maxContains"]) if "maxContains" in schema else None

    def check(value: list[Json], work: Work) -> Fault | None:
        found = sum(node.holds(item, work) for item in value)
        if found < least or (most is not None and found > most and not compiler.cautious):
            return Fault(f"has {found} items of the kind it must contain")
        return None

    return {list: check}


# ... and for objects.


def _min_properties(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    least = _count(argument)
    return _test(dict, lambda value: len(value) >= least, f"must have {least} or more members")


def _max_properties(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    most = _count(argument)
    return _test(dict, lambda value: len(value) <= most, f"must have at most {most} members")


def _required(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    names = dict.fromkeys(_text(each) for each in _array(argument))

    def check(value: dict[str, Json], work: Work) -> Fault | None:
        work.spend(len(names) // 8)
        missing = next((name for name in names if name not in value), None)
        return None if missing is None else Fault(f"lacks `{_shorten(missing)}`")

    return {dict: check}


def _dependent_required(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    checks = {
        name: _required(compiler, names, schema)[dict] for name, names in _object(argument).items()
    }

    def check(value: dict[str, Json], work: Work) -> Fault | None:
        work.spend(len(checks) // 8)
        faults = (check(value, work) for name, check in checks.items() if name in value)
        return next((fault for fault in faults if fault), None)

    return {dict: check}


def _dependent_schemas(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    nodes = {name: compiler.node(each) for name, each in _object(argument).items()}

    def check(value: dict[str, Json], work: Work) -> Fault | None:
        work.spend(len(nodes) // 8)
        faults = (node.fault(value, work) for name, node in nodes.items() if name in value)
        return next((fault for fault in faults if fault), None)

    return {dict: check}


def _property_names(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    node = compiler.node(argument)

    def check(value: dict[str, Json], work: Work) -> Fault | None:
        if all(node.holds(name, work) for name in value):
            return None
        return Fault("has a member whose name is not allowed")

    return {dict: check}


def _properties(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    nodes = {name: compiler.node(each) for name, each in _object(argument).items()}

    def check(value: dict[str, Json], work: Work) -> Fault | None:
        for name, member in value.items():
            if name in nodes and (fault := nodes[name].fault(member, work)):
                return fault.under(name)
        return None

    return {dict: check}


def _pattern_properties(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    known = [
        (compiler.pattern(source), compiler.node(each))
        for source, each in _object(argument).items()
    ]
    nodes = [(pattern, node) for pattern, node in known if pattern is not None]

    def check(value: dict[str, Json], work: Work) -> Fault | None:
        for name, member in value.items():
            for pattern, node in nodes:
                if _matches(pattern, name, work) and (fault := node.fault(member, work)):
                    return fault.under(name)
        return None

    return {dict: check}


def _additional_properties(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    assert isinstance(schema, dict)
    node = compiler.node(argument)
    named = _object(schema.get("properties", {})).keys()
    patterns = [compiler.pattern(source) for source in _object(schema.get("patternProperties", {}))]
    known = [pattern for pattern in patterns if pattern is not None]
    if len(known) < len(patterns):
        return {}  # whether a member is an additional one depends on a pattern that is not checked

    def check(value: dict[str, Json], work: Work) -> Fault | None:
        for name, member in value.items():
            if name in named or any(_matches(pattern, name, work) for pattern in known):
                continue
            if fault := node.fault(member, work):
                return fault.under(name)
        return None

    return {dict: check}


def _unchecked(name: str) -> Callable[[_Compiler, Json, Json], Checks]:
    def compile(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
        compiler.unchecked.append(name)
        return {}

    return compile


def _definitions(compiler: _Compiler, argument: Json, schema: Json) -> Checks:
    for each in _object(argument).values():
        compiler.node(each)
    return {}


_KEYWORDS: Mapping[str, Callable[[_Compiler, Json, Json], Checks]] = MappingProxyType({
    "type": _type,
    "enum": _enum,
    "const": _const,
    "$ref": _reference,
    "$defs": _definitions,
    "allOf": _all_of,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _not,
    "if": _if,
    "minimum": _minimum,
    "maximum": _maximum,
    "exclusiveMinimum": _exclusive_minimum,
    "exclusiveMaximum": _exclusive_maximum,
    "multipleOf": _multiple_of,
    "minLength": _min_length,
    "maxLength": _max_length,
    "pattern": _pattern,
    "minItems": _min_items,
    "maxItems": _max_items,
    "uniqueItems": _unique_items,
    "prefixItems": _prefix_items,
    "items": _items,
    "contains": _contains,
    "minProperties": _min_properties,
    "maxProperties": _max_properties,
    "required": _required,
    "dependentRequired": _dependent_required,
    "dependentSchemas": _dependent_schemas,
    "propertyNames": _property_names,
    "properties": _properties,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    **{name: _unchecked(name) for name in ("unevaluatedItems", "unevaluatedProperties", "$dynamicRef")},
})  # fmt: skip


def from_dict(schema: Mapping[str, Any] | bool) -> Schema:
    """A schema as YAML has it. Raises BadSchema."""
    try:
        return Schema(json.dumps(schema))
    except (TypeError, RecursionError) as error:
        raise BadSchema(f"the schema is no JSON: {error}") from None
