"""Keywords for arrays."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from types import MappingProxyType

from looper.contract.json_schema import read
from looper.contract.json_schema.compiling import Compiler, KeywordChecks
from looper.contract.json_schema.read import Malformed
from looper.contract.json_schema.work import Checks, Fault, Node, Work, test
from looper.contract.json_text import Json, canonical


def _min_items(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    least = read.count(argument)
    return test(list, lambda value: len(value) >= least, f"must have {least} or more items")


def _max_items(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    most = read.count(argument)
    return test(list, lambda value: len(value) <= most, f"must have at most {most} items")


def _unique_items(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    if not isinstance(argument, bool):
        raise Malformed("is true or false")

    def check(value: list[Json], work: Work) -> Fault | None:
        seen: set[str] = set()
        for each in value:
            written = canonical(each)
            work.spend(1 + len(written) // 2)
            seen.add(written)
        return None if len(seen) == len(value) else Fault("must not have an item twice")

    return {list: check} if argument else {}


def _prefix_items(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    nodes = [compiler.node(each) for each in read.items(argument)]

    def check(value: list[Json], work: Work) -> Fault | None:
        return _first_fault(zip(range(len(value)), nodes, value, strict=False), work)

    return {list: check}


def _items(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    """The items behind those that have schemas of their own; older drafts have those in a list here."""
    assert isinstance(schema, dict)
    if isinstance(argument, list):
        return _prefix_items(compiler, argument, schema)
    knows_prefix = "prefixItems" not in compiler.draft(schema).ignored
    prefix = schema.get("prefixItems", []) if knows_prefix else []
    return _behind(len(read.items(prefix)), compiler.node(argument))


def _additional_items(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    assert isinstance(schema, dict)
    listed = schema.get("items")
    return _behind(len(listed), compiler.node(argument)) if isinstance(listed, list) else {}


def _behind(skipped: int, node: Node) -> Checks:
    def check(value: list[Json], work: Work) -> Fault | None:
        rest = enumerate(value[skipped:], skipped)
        return _first_fault(((index, node, item) for index, item in rest), work)

    return {list: check}


def _first_fault(parts: Iterator[tuple[int, Node, Json]], work: Work) -> Fault | None:
    for index, node, item in parts:
        if fault := node.fault(item, work):
            return fault.under(index)
    return None


def _contains(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    assert isinstance(schema, dict)
    node = compiler.node(argument)
    counts = schema if "minContains" not in compiler.draft(schema).ignored else {}
    least = read.count(counts.get("minContains", Decimal(1)))
    most = read.count(counts["maxContains"]) if "maxContains" in counts else None

    def check(value: list[Json], work: Work) -> Fault | None:
        found = sum(node.holds(item, work) for item in value)
        if found < least or (most is not None and found > most and not compiler.cautious):
            return Fault(f"has {found} items of the kind it must contain")
        return None

    return {list: check}


CHECKS: Mapping[str, KeywordChecks] = MappingProxyType(
    {
        "minItems": _min_items,
        "maxItems": _max_items,
        "uniqueItems": _unique_items,
        "prefixItems": _prefix_items,
        "items": _items,
        "additionalItems": _additional_items,
        "contains": _contains,
    }
)
