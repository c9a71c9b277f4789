"""Keywords for objects."""

from collections.abc import Mapping
from types import MappingProxyType

from looper.contract.json_schema import read
from looper.contract.json_schema.compiling import Compiler, KeywordChecks
from looper.contract.json_schema.scalars import matches
from looper.contract.json_schema.work import Checks, Fault, Work, shorten, test
from looper.contract.json_text import Json


def _min_properties(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    least = read.count(argument)
    return test(dict, lambda value: len(value) >= least, f"must have {least} or more members")


def _max_properties(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    most = read.count(argument)
    return test(dict, lambda value: len(value) <= most, f"must have at most {most} members")


def _required(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    if isinstance(argument, bool):  # draft 3, where a member says of itself that it has to be there
        compiler.unchecked.append("required")
        return {}
    return _requires(argument)


def _requires(argument: Json) -> Checks:
    names = dict.fromkeys(read.text(each) for each in read.items(argument))

    def check(value: dict[str, Json], work: Work) -> Fault | None:
        work.spend(len(names) // 8)
        missing = next((name for name in names if name not in value), None)
        return None if missing is None else Fault(f"lacks `{shorten(missing)}`")

    return {dict: check}


def _dependent_required(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    checks = {name: _requires(names)[dict] for name, names in read.members(argument).items()}

    def check(value: dict[str, Json], work: Work) -> Fault | None:
        work.spend(len(checks) // 8)
        faults = (check(value, work) for name, check in checks.items() if name in value)
        return next((fault for fault in faults if fault), None)

    return {dict: check}


def _dependent_schemas(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    nodes = {name: compiler.node(each) for name, each in read.members(argument).items()}

    def check(value: dict[str, Json], work: Work) -> Fault | None:
        work.spend(len(nodes) // 8)
        faults = (node.fault(value, work) for name, node in nodes.items() if name in value)
        return next((fault for fault in faults if fault), None)

    return {dict: check}


def _dependencies(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    """What later became two keywords."""
    names: dict[str, Json] = {}
    schemas: dict[str, Json] = {}
    for name, each in read.members(argument).items():
        if isinstance(each, (list, str)):
            names[name] = [each] if isinstance(each, str) else each
        else:
            schemas[name] = each
    required = _dependent_required(compiler, names, schema)[dict]
    fitting = _dependent_schemas(compiler, schemas, schema)[dict]
    return {dict: lambda value, work: required(value, work) or fitting(value, work)}


def _property_names(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    node = compiler.node(argument)

    def check(value: dict[str, Json], work: Work) -> Fault | None:
        if all(node.holds(name, work) for name in value):
            return None
        return Fault("has a member whose name is not allowed")

    return {dict: check}


def _properties(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    nodes = {name: compiler.node(each) for name, each in read.members(argument).items()}

    def check(value: dict[str, Json], work: Work) -> Fault | None:
        for name, member in value.items():
            if name in nodes and (fault := nodes[name].fault(member, work)):
                return fault.under(name)
        return None

    return {dict: check}


def _pattern_properties(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    known = [
        (compiler.pattern(source), compiler.node(each))
        for source, each in read.members(argument).items()
    ]
    nodes = [(pattern, node) for pattern, node in known if pattern is not None]

    def check(value: dict[str, Json], work: Work) -> Fault | None:
        for name, member in value.items():
            for pattern, node in nodes:
                if matches(pattern, name, work) and (fault := node.fault(member, work)):
                    return fault.under(name)
        return None

    return {dict: check}


def _additional_properties(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    assert isinstance(schema, dict)
    node = compiler.node(argument)
    named = read.members(schema.get("properties", {})).keys()
    patterns = [
        compiler.pattern(source) for source in read.members(schema.get("patternProperties", {}))
    ]
    known = [pattern for pattern in patterns if pattern is not None]
    if len(known) < len(patterns):
        return {}  # whether a member is an additional one depends on a pattern that is not checked

    def check(value: dict[str, Json], work: Work) -> Fault | None:
        for name, member in value.items():
            if name in named or any(matches(pattern, name, work) for pattern in known):
                continue
            if fault := node.fault(member, work):
                return fault.under(name)
        return None

    return {dict: check}


def _definitions(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    for each in read.members(argument).values():
        compiler.node(each)
    return {}


CHECKS: Mapping[str, KeywordChecks] = MappingProxyType(
    {
        "minProperties": _min_properties,
        "maxProperties": _max_properties,
        "required": _required,
        "dependentRequired": _dependent_required,
        "dependentSchemas": _dependent_schemas,
        "dependencies": _dependencies,
        "propertyNames": _property_names,
        "properties": _properties,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "$defs": _definitions,
        "definitions": _definitions,
    }
)
