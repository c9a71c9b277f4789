import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from looper.contract import JsonConfig, JsonContract, from_response_format
from looper.contract.json_text import NotJson, canonical, parse
from looper.errors import InvalidField

BIG = 123456789012345678901234567890


def contract(**settings: Any) -> JsonContract:
    return JsonConfig.model_validate({"type": "json", **settings}).build()


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("settings", "text", "value"),
    [
        pytest.param({}, '{"a": 1}', '{"a":1}', id="whole"),
        pytest.param({}, '{"b": 1, "a": 2}', '{"a":2,"b":1}', id="keys-are-sorted"),
        pytest.param({}, '{"a": 1.0, "b": 10e-1, "c": -0.0}', '{"a":1,"b":1,"c":0}', id="numbers"),
        pytest.param({}, f'{{"a": {BIG}}}', f'{{"a":{BIG}}}', id="big-integer"),
        pytest.param({}, '{"a": 1e400}', '{"a":1e400}', id="beyond-floats"),
        pytest.param({}, '{"a": 0.1234567890123456789}', '{"a":0.1234567890123456789}', id="long-decimal"),
        pytest.param({}, '{"é": "\\u00e9"}', '{"é":"é"}', id="escapes"),
        pytest.param({}, '{"a": "\\ud800"}', '{"a":"\\ud800"}', id="half-a-surrogate-pair"),
        pytest.param({}, '```json\n{"a": 1}\n```', '{"a":1}', id="fence"),
        pytest.param({}, 'Draft:\n```\n{"a": 1}\n```\nFinal:\n```\n{"a": 2}\n```', '{"a":2}', id="last-fence"),
        pytest.param({}, 'Sure! {"a": {"b": [1]}} Done [1].', '{"a":{"b":[1]}}', id="prose"),
        pytest.param({}, 'The set {x} [1] is {"a": 1}', '{"a":1}', id="other-brackets"),
        pytest.param({}, '{"a": 1} and {"a": 2}', '{"a":2}', id="last-object"),
        pytest.param({}, "[1, 2]", None, id="no-object"),
        pytest.param({}, '"text"', None, id="string"),
        pytest.param({}, "{'a': 1}", '{"a":1}', id="quotes-are-mended"),
        pytest.param({}, r'For {x}: {"a": "\(x"}', r'{"a":"\\(x"}', id="latex-is-mended"),
        pytest.param({"extract": {"mode": "exact"}}, '{"a": `b`}', '{"a":"b"}', id="exact-and-mended"),
        pytest.param({"extract": {"mode": "exact"}}, 'x {"a": `b`}', None, id="exact-and-not-alone"),
        pytest.param({}, '{"a": "x" "y"}', None, id="broken-is-not-read"),
        pytest.param({}, '{"a": {"b": 1}, oops}', None, id="nothing-out-of-the-middle-of-broken-json"),
        pytest.param({}, '[{"a": 1}, {"a": 2', None, id="nothing-out-of-a-broken-list"),
        pytest.param({}, '{"a": NaN}', None, id="not-a-number"),
        pytest.param({}, '{"a": ' * 100 + "1" + "}" * 100, None, id="too-deep"),
        pytest.param({}, '{"a": 1' + "0" * 5000 + "}", None, id="too-many-digits"),
        pytest.param({}, '<think>{"a": 1}</think>{"a": 2}', '{"a":2}', id="thought"),
        pytest.param({}, "I cannot do that.", None, id="refusal"),
        pytest.param({"schema": PERSON}, '{"name": "A", "age": 3.0}', '{"age":3,"name":"A"}', id="schema"),
        pytest.param({"schema": PERSON}, '{"age": 3}', None, id="schema-not-met"),
        pytest.param({"schema": PERSON}, '{"name": "A"} or {"x": 1}', '{"name":"A"}', id="last-that-fits"),
        pytest.param({"schema": {"type": "array"}}, "So [1, 2.0]", "[1,2]", id="array"),
        pytest.param({"schema": True}, "12.50", "12.5", id="anything"),
        pytest.param({"extract": {"mode": "exact"}}, 'x {"a": 1}', None, id="exact"),
        pytest.param({"extract": {"mode": "marker"}}, 'ANSWER: **{"a": 1}** x {"b": 2}', '{"a":1}', id="marker"),
        pytest.param({"extract": {"mode": "marker"}}, '{"a": 1}', None, id="marker-missing"),
        pytest.param({"extract": {"field": "x"}}, '{"x": [1.0], "why": "…"}', "[1]", id="field"),
        pytest.param({"extract": {"field": "x"}}, '{"y": 1}', None, id="field-missing"),
    ],
)  # fmt: skip
def test_a_value_is_found(settings: dict[str, Any], text: str, value: str | None) -> None:
    """The last JSON value that fits is found, in one form whatever way it is written."""
    assert contract(**settings).extract(text) == value


@pytest.mark.parametrize(
    ("text", "repaired"),
    [
        pytest.param('{"a":  1.0}', '{"a":  1.0}', id="right-as-it-is"),
        pytest.param('<think>x</think>\n{"a":  1.0}', '{"a":  1.0}', id="thought"),
        pytest.param('```json\n{"a":  1.0}\n```', '{"a":  1.0}', id="fence"),
        pytest.param('Here: {"a":  1.0}. Bye', '{"a":  1.0}', id="prose"),
        pytest.param("{'a': 'it\\'s \"b\"'}", '{"a":"it\'s \\"b\\""}', id="single-quotes"),
        pytest.param('```\n{“a”: “b "c"”}\n```', '{"a":"b \\"c\\""}', id="curly-quotes"),
        pytest.param('{"a": [1, 2,], }', '{"a":[1,2]}', id="trailing-commas"),
        pytest.param('{"a": 1 "b": 2}', '{"a":1,"b":2}', id="missing-comma"),
        pytest.param("{a: True, b: None}", '{"a":true,"b":null}', id="python"),
        pytest.param('{"a": 1, // one\n /* two */ "b": 2}', '{"a":1,"b":2}', id="comments"),
        pytest.param('{"a": "x\ny"}', '{"a":"x\\ny"}', id="line-end-in-a-string"),
        pytest.param(r'{"a": "\(\frac{1}{2}\)"}', r'{"a":"\\(\\frac{1}{2}\\)"}', id="latex"),
        pytest.param('{"a": `x\ny`}', '{"a":"x\\ny"}', id="back-ticks"),
        pytest.param(f'{{"a": {BIG},}}', f'{{"a":{BIG}}}', id="big-integer"),
        pytest.param('{"a": 1, "b": [1, 2', None, id="broken-off"),
        pytest.param('{"a": "he said "hi" to me"}', None, id="unclear-quotes"),
        pytest.param('{"a": NaN}', None, id="no-value"),
        pytest.param("{'a': undefined}", None, id="no-literal"),
        pytest.param("No.", None, id="no-json"),
    ],
)
def test_json_is_repaired(text: str, repaired: str | None) -> None:
    """What is only written wrongly is put right; what broke off, or is unclear, is not."""
    assert contract().repair(text) == repaired


@pytest.mark.parametrize(
    ("settings", "text", "message"),
    [
        pytest.param({}, "No.", "The answer must be JSON and nothing else", id="no-json"),
        pytest.param({}, '```\n{"a": 1}\n```', "The answer must be JSON and nothing else", id="fence"),
        pytest.param({"schema": PERSON}, '{"age": 1}', "It lacks `name`", id="member-missing"),
        pytest.param({"schema": PERSON}, '{"name": 1}', "`$.name` must be of type string", id="member-wrong"),
        pytest.param({"schema": {"items": {"maximum": 3}}}, "[1, 5]", "`$[1]` must be at most 3", id="item-wrong"),
        pytest.param({"extract": {"field": "x"}}, "{}", "must have the member `x`", id="field-missing"),
        pytest.param({"extract": {"mode": "marker"}}, "{}", "after ANSWER:", id="marker-missing"),
    ],
)  # fmt: skip
def test_a_violation_says_where(settings: dict[str, Any], text: str, message: str) -> None:
    """A violation names the place and what is wanted there."""
    violation = contract(**settings).check(text)
    assert violation is not None
    assert message in violation.message


values = st.recursive(
    st.none() | st.booleans() | st.text(max_size=4) | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(values, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_the_canonical_form_does_not_depend_on_the_writing(
    value: Any, ascii: bool, indent: int | str | None
) -> None:
    """However a value is written, its canonical form is the same, and is that value."""
    form = canonical(parse(json.dumps(value, ensure_ascii=ascii, indent=indent)))
    assert form == canonical(parse(json.dumps(value)))
    assert form == canonical(parse(form))
    assert parse(form) == parse(json.dumps(value))


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**50), max_value=10**50))
def test_a_number_has_one_form(number: Decimal) -> None:
    """A number's form is exact, and the same for all ways to write it."""
    form = canonical(number)
    assert Decimal(form) == number
    assert form == canonical(Decimal(f"{number:E}")) == canonical(Decimal(f"{number:f}"))


@pytest.mark.parametrize(
    "text", ["", " ", "nul", "[1,]", "1e99999999999999999999", "[" * 100_000, "-Infinity", "1 2"]
)
def test_what_is_no_json(text: str) -> None:
    """What cannot be read, or handled, is no JSON; nothing else is raised."""
    with pytest.raises(NotJson):
        parse(text)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(None, id="absent"),
        pytest.param(b" null ", id="null"),
        pytest.param(b'{"type": "text"}', id="text"),
        pytest.param(b'{"type": "grammar", "grammar": "x"}', id="of-a-vendor"),
    ],
)
def test_other_formats_are_no_contract(raw: bytes | None) -> None:
    """A response format that asks for no JSON binds nobody here."""
    assert from_response_format(raw) is None


@pytest.mark.parametrize(
    ("raw", "good", "bad"),
    [
        pytest.param(b'{"type": "json_object"}', '{"a": 1}', "[1]", id="object"),
        pytest.param(
            b'{"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": {"required": ["a"]}}}',
            '{"a": 1}', '{"b": 1}', id="schema",
        ),
        pytest.param(b'{"type": "json_schema", "json_schema": {"name": "n"}}', "{}", "1", id="schema-left-out"),
    ],
)  # fmt: skip
def test_a_response_format_is_a_contract(raw: bytes, good: str, bad: str) -> None:
    """The client's response format holds as it is, and for the whole of an answer."""
    asked = from_response_format(raw)
    assert asked is not None
    assert asked.check(good) is None
    assert asked.check(bad) is not None
    assert asked.check(f"Here: {good}") is not None
    assert asked.extract(f"Here: {good}") is None
    assert asked.repair(f"Here: {good}") == good


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"[]", id="no-object"),
        pytest.param(b'{"type": 1}', id="type-of-a-type"),
        pytest.param(b'{"type": "json_schema"}', id="schema-missing"),
        pytest.param(b'{"type": "json_schema", "json_schema": {"schema": 5}}', id="schema-is-none"),
        pytest.param(b'{"type": "json_schema", "json_schema": {"schema": {"type": "int"}}}', id="unknown-type"),
        pytest.param(b'{"type": "json_schema", "json_schema": {"schema": {"required": "a"}}}', id="wrong-argument"),
    ],
)  # fmt: skip
def test_a_bad_response_format_is_refused(raw: bytes) -> None:
    """A schema that is none is the client's error, and names the field."""
    with pytest.raises(InvalidField) as refused:
        from_response_format(raw)
    assert refused.value.param == "response_format"
    assert len(refused.value.message) < 200


@pytest.mark.parametrize(
    ("schema", "unchecked"),
    [
        pytest.param('{"not":' * 100 + "true" + "}" * 100, "a schema of which it is nested too deeply", id="deep"),
        pytest.param('{"title":"' + "x" * 200_000 + '"}', "a schema larger than 128 KiB", id="large"),
        pytest.param('{"minimum":' + "1" * 5_000 + "}", "a schema of which it has a number of too many digits",
                     id="digits"),
    ],
)  # fmt: skip
def test_a_schema_beyond_all_bounds_fails_nothing(schema: str, unchecked: str) -> None:
    """Neither the request nor an answer, as long as it is JSON; an operator is told at load."""
    named = json.loads(f'{{"schema": {schema}}}', parse_int=str) if "not" in schema else None
    contract = from_response_format(
        b'{"type": "json_schema", "json_schema": {"schema": %s}}' % schema.encode()
    )
    assert contract is not None
    assert contract.unchecked == (unchecked,)
    assert contract.check("[1]") is None
    assert contract.check("no JSON") is not None
    if named is not None:
        with pytest.raises(ValidationError):
            JsonConfig.model_validate({"type": "json", **named})


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"schema": {"type": "int"}}, id="unknown-type"),
        pytest.param({"schema": {"minLength": -1}}, id="negative"),
        pytest.param({"schema": {"const": float("nan")}}, id="not-json"),
        pytest.param({"schema": []}, id="list"),
        pytest.param({"schema_": {}}, id="the-name-in-the-code"),
    ],
)
def test_a_bad_configuration_does_not_load(settings: dict[str, Any]) -> None:
    """A schema that is none is an error at load."""
    with pytest.raises(ValidationError):
        contract(**settings)
