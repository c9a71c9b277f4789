import json
import time
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # its types are a package of their own
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from looper.contract.json_schema import BadSchema, Schema
from looper.contract.json_text import parse


def fits(schema: Any, value: Any) -> bool:
    return Schema(json.dumps(schema)).fault(parse(json.dumps(value))) is None


names = st.sampled_from(["a", "b", "ab", "é"])
scalars = st.none() | st.booleans() | names | st.integers(-3, 3) | st.sampled_from([0.5, -1.5, 2.0])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
counts = st.integers(0, 3)
numbers = st.integers(-3, 3) | st.sampled_from([0.5, 1.5])
patterns = st.sampled_from(["^a", "b$", "^a?b*$", "."])
types = st.sampled_from(["object", "array", "string", "number", "integer", "boolean", "null"])


def keywords(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=1, max_size=3)
    arguments = {
        "type": types | st.lists(types, min_size=1, max_size=3, unique=True),
        "enum": st.lists(values, max_size=3),
        "const": values,
        "minimum": numbers, "maximum": numbers, "exclusiveMinimum": numbers, "exclusiveMaximum": numbers,
        "multipleOf": st.sampled_from([1, 2, 0.5]),
        "minLength": counts, "maxLength": counts, "pattern": patterns,
        "minItems": counts, "maxItems": counts, "uniqueItems": st.booleans(),
        "prefixItems": several, "items": inner,
        "contains": inner, "minContains": counts, "maxContains": counts,
        "minProperties": counts, "maxProperties": counts, "required": st.lists(names, max_size=2, unique=True),
        "dependentRequired": st.dictionaries(names, st.lists(names, max_size=2, unique=True), max_size=2),
        "dependentSchemas": st.dictionaries(names, inner, max_size=2),
        "propertyNames": inner,
        "properties": st.dictionaries(names, inner, max_size=3),
        "patternProperties": st.dictionaries(patterns, inner, max_size=2),
        "additionalProperties": inner,
        "unevaluatedProperties": inner, "unevaluatedItems": inner,
        "allOf": several, "anyOf": several, "oneOf": several, "not": inner,
        "if": inner, "then": inner, "else": inner,
        "$ref": st.just("#/$defs/one"),
        "format": st.just("date"), "title": st.just("x"),
    }  # fmt: skip
    pairs = (st.tuples(st.just(name), argument) for name, argument in arguments.items())
    return st.lists(st.one_of(*pairs), max_size=4).map(dict)


schemas = st.recursive(st.booleans(), keywords, max_leaves=5)


@given(keywords(schemas), keywords(st.booleans()), values)
@settings(deadline=None, max_examples=200)
def test_agrees_with_jsonschema(schema: dict[str, Any], one: dict[str, Any], value: Any) -> None:
    """Whatever the schema, a value fits it if the reference implementation of the draft says so."""
    one.pop("$ref", None)  # which would refer to itself
    document = {**schema, "$defs": {"one": one}}
    expected = jsonschema.Draft202012Validator(document).is_valid(value)
    assert fits(document, value) is expected


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        pytest.param({"const": 1}, True, False, id="true-is-not-1"),
        pytest.param({"enum": [[0]]}, [False], False, id="false-is-not-0-inside"),
        pytest.param({"const": {"a": 1.0}}, {"a": 1}, True, id="1.0-is-1"),
        pytest.param({"type": "integer"}, 1.0, True, id="1.0-is-an-integer"),
        pytest.param({"type": "integer"}, 1e300, True, id="so-is-1e300"),
        pytest.param({"multipleOf": 0.01}, 19.99, True, id="multiples-are-exact"),
        pytest.param({"multipleOf": 2e-200}, 1e300, True, id="of-any-size"),
        pytest.param({"multipleOf": 3}, 1e300, False, id="which-are-not-rounded"),
        pytest.param({"minLength": 1e300}, "x", False, id="a-count-of-any-size"),
        pytest.param({"pattern": r"^\u00e9[\S]\ud83e\udd16\cJ$"}, "éx🤖\n", True, id="as-javascript-has-them"),
        pytest.param({"minLength": 2}, "🤖", False, id="length-in-characters"),
        pytest.param({"$defs": {"a/b~c%": {"type": "null"}}, "$ref": "#/$defs/a~1b~0c%25"}, 1, False, id="escapes"),
        pytest.param({"definitions": {"x": False}, "$ref": "#/definitions/x"}, 1, False, id="older-definitions"),
        pytest.param({"allOf": [False], "items": {"$ref": "#/allOf/0"}}, [], False, id="through-a-list"),
        pytest.param({"properties": {"c": {"$ref": "#"}}, "required": ["v"]}, {"v": 1, "c": {}}, False, id="recursive"),
        pytest.param({"properties": {"$schema": {"type": "null"}}}, {"$schema": 1}, False, id="keyword-as-a-name"),
        pytest.param({"properties": {"pattern": {"type": "null"}}}, {"pattern": 1}, False, id="pattern-as-a-name"),
    ],
)  # fmt: skip
def test_the_draft(schema: Any, value: Any, expected: bool) -> None:
    """Corner cases of the draft."""
    assert fits(schema, value) is expected


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        pytest.param({"items": [{"type": "string"}, {"type": "null"}], "additionalItems": False}, ["a", 1], False,
                     id="tuple"),
        pytest.param({"items": [{"type": "string"}], "additionalItems": False}, ["a", 1], False, id="additional"),
        pytest.param({"minimum": 1, "exclusiveMinimum": True}, 1, False, id="exclusive-minimum"),
        pytest.param({"minimum": 1, "exclusiveMinimum": False}, 1, True, id="inclusive-minimum"),
        pytest.param({"maximum": 1, "exclusiveMaximum": True}, 1, False, id="exclusive-maximum"),
        pytest.param({"dependencies": {"a": ["b"]}}, {"a": 1}, False, id="names-depend"),
        pytest.param({"dependencies": {"a": {"maxProperties": 1}}}, {"a": 1, "b": 1}, False, id="schemas-depend"),
        pytest.param({"definitions": {"x": {}}, "$ref": "#/definitions/x", "type": "null"}, 1, True, id="beside-a-ref"),
        pytest.param({"$defs": {"x": {}}, "$ref": "#/$defs/x", "type": "null"}, 1, False, id="and-later"),
        pytest.param({"id": "http://x/a", "items": {"$ref": "a#/items/x", "x": False}}, [], True, id="id"),
        pytest.param({"$schema": "https://json-schema.org/draft-07/schema", "unevaluatedProperties": False}, {"a": 1},
                     True, id="a-later-keyword-in-a-named-draft"),
        pytest.param({"$schema": "http://json-schema.org/draft/2020-12/schema#", "items": [False]}, [1], False,
                     id="an-older-form-in-a-named-draft"),
    ],
)  # fmt: skip
def test_older_forms_are_checked_as_they_are_meant(schema: Any, value: Any, expected: bool) -> None:
    """By the draft that is named, or else by their shape."""
    assert fits(schema, value) is expected


def test_a_chain_of_references_costs_no_stack() -> None:
    """A thousand schemas, each of which refers to the next, are compiled; a check may give up."""
    chain = {f"a{n}": {"$ref": f"#/$defs/a{n + 1}"} for n in range(1_500)}
    compiled = Schema(
        json.dumps({"$defs": {**chain, "a1500": {}}, "items": {"$ref": "#/$defs/a0"}})
    )
    assert compiled.fault([]) is None


@pytest.mark.parametrize(
    ("schema", "unchecked", "passing"),
    [
        pytest.param({"pattern": "^(?!x)"}, "pattern ^(?!x)", "x", id="look-ahead"),
        pytest.param({"pattern": r"(a)\1"}, r"pattern (a)\1", "b", id="back-reference"),
        pytest.param({"$ref": "http://127.0.0.1:9/schema"}, "$ref http://127.0.0.1:9/schema", 1, id="remote"),
        pytest.param({"$ref": "#nowhere"}, "$ref #nowhere", 1, id="anchor"),
        pytest.param({"$ref": "#/$defs/x"}, "$ref #/$defs/x", 1, id="dangling"),
        pytest.param({"$ref": "file:///etc/passwd"}, "$ref file:///etc/passwd", 1, id="file"),
        pytest.param({"$schema": "http://json-schema.org/draft-03/schema#", "type": "any"}, "$schema", 1, id="draft-3"),
        pytest.param({"properties": {"a": {"required": True}}}, "required", {}, id="required-as-in-draft-3"),
        pytest.param({"$id": "http://x/a", "$ref": "b"}, "$ref b", 1, id="beside-it"),
        pytest.param({"$ref": f"#/{'a' * 3_000}"}, f"$ref #/{'a' * 38}…", 1, id="too-long"),
        pytest.param({"unevaluatedProperties": False, "patternProperties": {"^(?!x)": {}}}, "pattern ^(?!x)", {"y": 1},
                     id="unevaluated-beside-a-pattern"),
        pytest.param({"unevaluatedProperties": False, "$ref": "#nowhere"}, "$ref #nowhere", {"y": 1},
                     id="unevaluated-beside-a-reference"),
        pytest.param({"unevaluatedItems": False, "if": {"contains": {"pattern": "^(?!x)"}}}, "pattern ^(?!x)", ["y"],
                     id="unevaluated-beside-an-if"),
        pytest.param({"not": {"pattern": "^(?!x)"}}, "pattern ^(?!x)", "y", id="inside-not"),
        pytest.param({"if": {"pattern": "^(?!x)"}, "then": False}, "pattern ^(?!x)", "y", id="inside-if"),
        pytest.param({"oneOf": [True, {"pattern": "^(?!x)"}]}, "pattern ^(?!x)", "x", id="inside-one-of"),
        pytest.param(
            {"patternProperties": {"^(?!x)": {}}, "additionalProperties": False}, "pattern ^(?!x)", {"y": 1}, id="rest"
        ),
        pytest.param({"contains": {"pattern": "^(?!x)"}, "maxContains": 0}, "pattern ^(?!x)", ["x"], id="contains"),
    ],
)  # fmt: skip
def test_what_is_not_checked_fails_nothing(schema: Any, unchecked: str, passing: Any) -> None:
    """What cannot be checked here is named, and no value fails because of it."""
    compiled = Schema(json.dumps(schema))
    assert compiled.unchecked == (unchecked,)
    assert compiled.fault(parse(json.dumps(passing))) is None


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        pytest.param({"type": "string", "pattern": "^(?!x)"}, 1, id="beside"),
        pytest.param(
            {"unevaluatedProperties": False, "pattern": "^(?!x)"}, {"a": 1}, id="unevaluated"
        ),
    ],
)
def test_what_can_be_checked_still_is(schema: Any, value: Any) -> None:
    """One keyword that is not checked does not let the others off."""
    assert not fits(schema, value)


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param({"$schema": "http://json-schema.org/draft-07/schema#", "pattern": "^(a+)+$"}, id="pattern"),
        pytest.param({"items": {"$schema": "http://json-schema.org/draft-04/schema#", "pattern": "^(a+)+$"}},
                     id="in-items"),
        pytest.param({"patternProperties": {"^(a+)+$": True}, "additionalProperties": False}, id="names"),
    ],
)  # fmt: skip
def test_a_pattern_cannot_explode(schema: Any) -> None:
    """A pattern on which other engines work for years is done at once, whatever dialect is named beside it."""
    hostile = "a" * 5_000 + "!"
    begun = time.process_time()
    for value in (hostile, [hostile], {hostile: 1}):
        fits(schema, value)
    assert time.process_time() - begun < 1


DOUBLING = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(60)}
NESTED = "[" * 50 + "1" + "]" * 50


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        pytest.param({"$defs": {**DOUBLING, "a60": {}}, "$ref": "#/$defs/a0"}, "1", id="doubling-references"),
        pytest.param({"$ref": "#"}, "1", id="reference-to-itself"),
        pytest.param({"anyOf": [{"items": {"$ref": "#"}}, {"items": {"$ref": "#"}}], "type": "array"}, NESTED,
                     id="any-of"),
        pytest.param({"items": {"pattern": "(a?){400}$"}}, json.dumps(["a" * 1000 + "b"] * 900), id="large-pattern"),
        pytest.param({"uniqueItems": True, "items": {"$ref": "#"}}, "[" * 60 + "1," * 300_000 + "1" + "]" * 60,
                     id="unique"),
        pytest.param({"anyOf": [{"$ref": "#"}] * 2, "properties": {"a": {"$ref": "#"}}, "unevaluatedProperties": False},
                     '{"a":' * 50 + "1" + "}" * 50, id="unevaluated"),
        pytest.param({"items": {"anyOf": [{"multipleOf": 10**3_000 + 1}, True]}},
                     "[" + "1e999999999999," * 9_000 + "1]", id="multiples"),
        pytest.param({"patternProperties": {f"^x{n}": {} for n in range(99)}},
                     json.dumps(dict.fromkeys(map(str, range(50_000)))), id="names-times-patterns"),
    ],
)  # fmt: skip
def test_work_is_bounded(schema: Any, value: str) -> None:
    """A schema cannot make a check take longer than about a second: it is given up, which is a fault."""
    compiled, parsed = Schema(json.dumps(schema)), parse(value)
    begun = time.process_time()
    assert compiled.fault(parsed) == "It takes too long to check against the schema"
    assert time.process_time() - begun < 3


def test_a_large_answer_is_checked() -> None:
    """A megabyte of rows is checked in full."""
    row = {"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}}}
    rows = [{"id": n, "tags": ["a", "b"]} for n in range(30_000)]
    assert fits({"type": "array", "items": row}, rows)
    assert not fits({"type": "array", "items": row}, [*rows, {"id": 0.5}])


@pytest.mark.parametrize(
    "schema",
    [
        5, [], "x", None,
        {"type": []}, {"type": "x"}, {"type": [1]}, {"properties": []}, {"items": [{}, 1]}, {"required": "a"},
        {"required": [1]}, {"enum": 1}, {"minimum": "1"}, {"minLength": 1.5}, {"maxItems": -1}, {"multipleOf": 0},
        {"exclusiveMinimum": "1"}, {"dependencies": {"a": 1}}, {"unevaluatedItems": 1}, {"uniqueItems": 1},
        {"pattern": 1}, {"allOf": {}}, {"not": 1}, {"$ref": 1}, {"$defs": {"x": 1}},
        {"dependentRequired": {"a": 1}}, {"then": 1, "if": True},
        {"contains": {}, "minContains": -1},
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_schema(schema: Any) -> None:
    """A keyword with the wrong kind of argument is told from a schema, with a text that can be shown."""
    with pytest.raises(BadSchema) as refused:
        Schema(json.dumps(schema))
    assert len(str(refused.value)) < 160
