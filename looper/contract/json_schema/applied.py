"""Keywords for values of any type."""

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType

from looper.contract.json_schema import read
from looper.contract.json_schema.compiling import Compiler, KeywordChecks
from looper.contract.json_schema.read import Malformed
from looper.contract.json_schema.work import ANY, TYPES, Check, Checks, Fault, Work, shorten, test
from looper.contract.json_text import Json, canonical


def _type(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    names = (
        [read.text(each) for each in argument]
        if isinstance(argument, list)
        else [read.text(argument)]
    )
    if not names:
        raise Malformed("names a type")
    if unknown := set(names) - TYPES.keys() - {"integer"}:
        raise Malformed(f"is none of {', '.join([*TYPES, 'integer'])}: {shorten(min(unknown))}")
    fault = f"must be of type {' or '.join(names)}"
    checks: dict[type, Check] = {
        type: lambda value, work: Fault(fault) for name, type in TYPES.items() if name not in names
    }
    if Decimal in checks and "integer" in names:
        checks |= test(Decimal, read.is_integer, fault)
    return checks


def _enum(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    allowed = read.items(argument)
    scalars = {(type(each), each) for each in allowed if not isinstance(each, (dict, list))}
    containers = [(each, _size(each)) for each in allowed if isinstance(each, (dict, list))]
    fault = f"must be one of {shorten(canonical(argument))}"

    def is_scalar(value: Json, work: Work) -> Fault | None:
        return None if (type(value), value) in scalars else Fault(fault)

    def is_container(value: Json, work: Work) -> Fault | None:
        for each, size in containers:
            work.spend(size)
            if _equal(each, value):
                return None
        return Fault(fault)

    return {type: is_container if type in (dict, list) else is_scalar for type in ANY}


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


def _const(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    return _enum(compiler, [argument], schema)


def _reference(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    node = compiler.referred(read.text(argument), schema)
    return {} if node is None else dict.fromkeys(ANY, node.fault)


def _dynamic(keyword: str) -> KeywordChecks:
    """Where nothing in a document has an address of its own, there is one thing that such a reference may mean."""

    def compile(compiler: Compiler, argument: Json, schema: Json) -> Checks:
        if compiler.places.is_one_resource:
            return _reference(compiler, argument, schema)
        compiler.unchecked.append(keyword)
        return {}

    return compile


def _all_of(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    nodes = [compiler.node(each) for each in read.items(argument)]

    def check(value: Json, work: Work) -> Fault | None:
        return next((fault for node in nodes if (fault := node.fault(value, work))), None)

    return dict.fromkeys(ANY, check)


def _any_of(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    nodes = [compiler.node(each) for each in read.items(argument)]

    def check(value: Json, work: Work) -> Fault | None:
        if any(node.holds(value, work) for node in nodes):
            return None
        return Fault(f"fits none of {len(nodes)} alternatives")

    return dict.fromkeys(ANY, check)


def _one_of(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    if compiler.cautious:
        return _any_of(compiler, argument, schema)
    nodes = [compiler.node(each) for each in read.items(argument)]

    def check(value: Json, work: Work) -> Fault | None:
        fitting = sum(node.holds(value, work) for node in nodes)
        return (
            None if fitting == 1 else Fault(f"fits {fitting} of {len(nodes)} alternatives, not one")
        )

    return dict.fromkeys(ANY, check)


def _not(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    node = compiler.node(argument)
    if compiler.cautious:
        return {}

    def check(value: Json, work: Work) -> Fault | None:
        return Fault("is what it must not be") if node.holds(value, work) else None

    return dict.fromkeys(ANY, check)


def _if(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    assert isinstance(schema, dict)
    condition = compiler.node(argument)
    then, otherwise = (compiler.node(schema.get(name, True)) for name in ("then", "else"))
    if compiler.cautious:
        return {}

    def check(value: Json, work: Work) -> Fault | None:
        return (then if condition.holds(value, work) else otherwise).fault(value, work)

    return dict.fromkeys(ANY, check)


CHECKS: Mapping[str, KeywordChecks] = MappingProxyType(
    {
        "type": _type,
        "enum": _enum,
        "const": _const,
        "$ref": _reference,
        "$dynamicRef": _dynamic("$dynamicRef"),
        "$recursiveRef": _dynamic("$recursiveRef"),
        "allOf": _all_of,
        "anyOf": _any_of,
        "oneOf": _one_of,
        "not": _not,
        "if": _if,
    }
)
