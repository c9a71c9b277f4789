"""Rules that every kind of contract obeys."""

import json
import time
from fractions import Fraction
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from looper.contract import (
    FREE,
    Contract,
    ContractConfig,
    Terms,
    canonical,
    from_response_format,
)
from looper.contract.base import quote, visible
from looper.contract.json_text import canonical as canonical_json
from looper.contract.json_text import parse
from looper.errors import InvalidField

EXAMPLES = {
    "choice": '{type: choice, values: [A, B, C, D], render: "ANSWER: {choice}"}',
    "choice-of-words": '{type: choice, values: ["yes", "no", not sure], extract: {marker: ["Answer:", "答案："]}}',
    "choice-exact": "{type: choice, values: [A, B], extract: {mode: exact}}",
    "choice-field": "{type: choice, values: [A, B], extract: {field: answer}}",
    "number": "{type: number, tolerance: {relative: 0.01}}",
    "number-form": '{type: number, decimal_separator: ",", percent: fraction, render: "#### {number}"}',
    "number-exact": "{type: number, extract: {mode: exact}}",
    "exact": "{type: exact, regex: '[0-9]{4}-[0-9]{2}'}",
    "exact-last": "{type: exact, regex: '[a-z]+[0-9]', extract: {mode: last_match}}",
    "json": "{type: json, schema: {type: object, required: [name], properties: {name: {type: string}}}}",
    "json-any": "{type: json}",
    "json-field": "{type: json, extract: {mode: json_field, field: answer}}",
    "json-exact": "{type: json, extract: {mode: exact}}",
    "json-marker": "{type: json, extract: {mode: marker}}",
    "code": "{type: code, language: python}",
    "code-blocks": "{type: code, one_block: false}",
    "reference": "{type: reference, labels: [reference, candidate]}",
    "reference-marker": "{type: reference, extract: {mode: marker}}",
    "text": "{type: text, must_match: '(?i)summary', must_not_match: ['(?i)as an ai'], max_chars: 2000}",
}  # fmt: skip


def load(example: str) -> Any:
    return TypeAdapter(ContractConfig).validate_python(yaml.safe_load(example))


CONTRACTS: dict[str, Contract[Any]] = {name: load(text).build() for name, text in EXAMPLES.items()}
every_contract = pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS.keys())


def test_every_kind_has_an_example() -> None:
    """Each kind of the union is among the examples below, and they load as what they say."""
    union, _ = get_args(ContractConfig)
    kinds = {get_args(kind.model_fields["type"].annotation)[0] for kind in get_args(union)}
    assert {load(text).type for text in EXAMPLES.values()} == kinds


def test_the_union_has_a_json_schema() -> None:
    """Editors can be told what a contract may be."""
    assert "choice" in json.dumps(TypeAdapter(ContractConfig).json_schema())


characters = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="<>`~")
words = st.text(characters, min_size=1)
plain = words.map(str.strip).filter(bool)
digits = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9)
lines = st.lists(words.map(str.rstrip), min_size=1).map("\n".join)


def as_json(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    return strategy.map(lambda value: canonical_json(parse(json.dumps(value))))


values: dict[str, st.SearchStrategy[Any]] = {
    "choice": st.sampled_from(["A", "B", "C", "D"]),
    "choice-of-words": st.sampled_from(["yes", "no", "not sure"]),
    "choice-exact": st.sampled_from(["A", "B"]),
    "choice-field": st.sampled_from(["A", "B"]),
    "number": st.fractions(),
    "number-form": st.fractions() | st.integers().map(Fraction),
    "number-exact": digits.map(Fraction),
    "exact": st.from_regex(r"[0-9]{4}-[0-9]{2}", fullmatch=True),
    "exact-last": st.from_regex(r"[a-z]+[0-9]", fullmatch=True),
    "json": as_json(st.dictionaries(plain, plain).map(lambda members: {**members, "name": "x"})),
    "json-any": as_json(st.dictionaries(plain, st.integers() | plain | st.none())),
    "json-exact": as_json(st.dictionaries(plain, plain)),
    "json-field": as_json(st.lists(st.integers() | plain)),
    "json-marker": as_json(st.dictionaries(plain, plain)),
    "code": lines.map(lambda code: code.strip("\n")).filter(str.strip),
    "code-blocks": plain,
    "reference": st.integers(1, 10_000),
    "reference-marker": st.integers(1, 10_000),
    "text": plain.map(lambda text: f"Summary: {text}"[:2000]),
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_what_is_rendered_is_extracted(name: str, data: st.DataObject) -> None:
    """A rendered value fits its contract, and is read as that value again."""
    contract, value = CONTRACTS[name], data.draw(values[name])
    rendered = contract.render(value)
    found = contract.extract(rendered)
    assert found is not None
    assert contract.same(found, value)
    assert contract.check(rendered) is None or name == "json-field"
    assert hash(found) == hash(value)


HOSTILE = [
    "ANSWER:", "answer:", "Answer is", "A", "b", "yes", "no", "(C)", "**", "`", "```", "```python\n", "~~~", "\n", " ",
    "\t", "\\boxed{", "}", "{", "[", "]", '"', "'", ":", ",", "=", "\\frac{", "1", "42", "1,234", "-", "−", "%",
    "e9", "/", ".", '{"answer": "A"}', '{"a":', "null", "<think>", "</think>", "reference 2", "best", "2024-05", "ab1",
    "Ｃ", "１", "\ud800", "\0", "\u2028", "\r\n", "🤖", "答案：", "def f():", "Summary", "####",
    "\\", "\\text{", "$", "or", "not", "I", "a",
]  # fmt: skip
texts = (
    st.lists(st.sampled_from(HOSTILE) | st.text(max_size=5), max_size=14).map("".join) | st.text()
)


@every_contract
@settings(deadline=None, max_examples=30)
@given(text=texts)
def test_any_text_is_handled(contract: Contract[Any], text: str) -> None:
    """No text makes a contract fail; what is extracted is a value; checks and repairs agree with each other."""
    value = contract.extract(text)
    violation = contract.check(text)
    repaired = contract.repair(text)
    if violation is None:
        assert value is not None or not contract.comparable
        assert repaired == text
    if value is not None:
        assert contract.same(value, value)
        assert hash(value) == hash(contract.extract(text))
    if repaired is not None:
        assert contract.check(repaired) is None
        assert contract.repair(repaired) == repaired
        assert (
            value is None
            or contract.same(contract.extract(repaired), value)
            or not contract.comparable
        )


@every_contract
@settings(deadline=None, max_examples=15)
@given(some=st.lists(texts, min_size=3, max_size=3))
def test_same_is_an_equivalence(contract: Contract[Any], some: list[str]) -> None:
    """Values are the same both ways; without a tolerance, also across a third."""
    a, b, c = (contract.extract(text) for text in some)
    if None in (a, b, c):
        return
    assert contract.same(a, b) == contract.same(b, a)
    if contract is not CONTRACTS["number"] and contract.same(a, b) and contract.same(b, c):
        assert contract.same(a, c)


@every_contract
@settings(deadline=None, max_examples=10)
@given(text=texts)
def test_a_violation_shows_little(contract: Contract[Any], text: str) -> None:
    """A violation is a sentence, and quotes no more than 80 characters of the text."""
    secret = "x" * 81
    violation = contract.check(f"{text}{secret * 3}")
    if violation is not None:
        assert secret not in violation.message
        assert len(violation.message) < 400


UNITS = [
    "a", "\n", " ", "1", "1,", "1 ", "ANSWER: ", "ANSWER: A or B\n", "\\boxed{", "<think>x</think>", "```\n",
    "```python\nx\n", "**A**", "{", "[", '{"a":1}', '{"a":', '"', "\\", "\\frac{1}{2}", "A) x\n",
    "C is correct ", "reference 2 is best ", "🤖", "\ud800",
]  # fmt: skip


@every_contract
def test_time_grows_with_the_text(contract: Contract[Any]) -> None:
    """Long texts of anything take a moment each; what grows with the square of them takes minutes."""
    for unit in UNITS:
        begun = time.process_time()
        contract.repair(unit * (20_000 // len(unit)))
        assert time.process_time() - begun < 1, unit


@pytest.mark.parametrize("unit", ["1,", "```\n"], ids=repr)
def test_a_megabyte_is_read_soon(unit: str) -> None:
    """A megabyte takes every kind together less than a few seconds."""
    text = unit * (1_000_000 // len(unit))
    begun = time.process_time()
    for contract in CONTRACTS.values():
        contract.extract(text)
    assert time.process_time() - begun < 8


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        pytest.param("a", "a", id="no-thoughts"),
        pytest.param("<think>x</think>a", "a", id="one"),
        pytest.param("a<think>x</think>b", "a b", id="between"),
        pytest.param("<think>x</think>a<Thinking>y</Thinking>b", "a b", id="two"),
        pytest.param("a<think>x", "a", id="unclosed"),
        pytest.param("<think>x<think>y</think>a", "a", id="opened-twice"),
        pytest.param("x</think>a", "a", id="beginning-not-seen"),
        pytest.param("<th<think>x</think>ink>a", "<th ink>a", id="nothing-is-put-together"),
        pytest.param("<thinker>a", "<thinker>a", id="other-tag"),
    ],
)
def test_thoughts_are_not_visible(text: str, seen: str) -> None:
    """What stands between the tags of a thought is not part of an answer."""
    assert visible(text) == seen


@pytest.mark.parametrize(
    ("example", "text", "expected"),
    [
        pytest.param(None, "Hello", FREE, id="no-contract"),
        pytest.param(None, "<think>Hm.</think> ", None, id="no-contract-and-nothing-said"),
        pytest.param("text", "Summary: x", FREE, id="text-is-not-compared"),
        pytest.param("text", "As an AI", None, id="text-that-breaks-its-contract"),
        pytest.param("choice", "the answer is B", "B", id="choice"),
        pytest.param("choice", "Hello", None, id="choice-that-is-none"),
        pytest.param("number", "0.50", Fraction(1, 2), id="number"),
    ],
)
def test_canonical_answers(example: str | None, text: str, expected: object) -> None:
    """An answer is its value, free where nothing compares, and silent where it says nothing valid."""
    assert canonical(CONTRACTS[example] if example else None, text) == expected


def test_a_quotation_is_one_short_line() -> None:
    """Messages show the end of a text, where answers stand."""
    assert quote("a\n b") == '"a b"'
    assert quote("x" * 1_000_000 + "\nend") == f'"…{"x" * 56} end"'


@pytest.mark.parametrize(
    ("example", "value"),
    [
        ("choice-exact", "B"),
        ("number-exact", "42"),
        ("exact", "2024-01"),
        ("json-exact", '{"a": 1}'),
    ],
)
def test_an_exact_value_is_published_without_the_blanks_around_it(example: str, value: str) -> None:
    """The value is what is asked for: blanks before or behind it are taken off."""
    contract = CONTRACTS[example]
    for dressed in (f" {value}", f"{value}\n", f"\n\t{value} \n"):
        assert contract.check(dressed) is not None
        assert contract.repair(dressed) == value
    assert contract.check(value) is None


@pytest.mark.parametrize(
    ("example", "text", "repaired"),
    [
        pytest.param("choice", "B", "ANSWER: B", id="choice"),
        pytest.param("choice", "**(B)**\n", "ANSWER: B", id="choice-dressed"),
        pytest.param("choice", "It is B.", "It is B.\n\nANSWER: B", id="choice-in-words"),
        pytest.param("number-form", "42", "#### 42", id="number"),
        pytest.param("number-form", "42 apples", "42 apples\n\n#### 42", id="number-with-a-unit"),
    ],
)
def test_a_form_replaces_an_answer_that_is_nothing_but_its_value(
    example: str, text: str, repaired: str
) -> None:
    """The value is not said twice; whatever else an answer says is kept before it."""
    assert CONTRACTS[example].repair(text) == repaired


OTHER = {"type": "object", "required": ["age"]}
NAMED: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
}


def format_of(schema: object) -> bytes:
    if schema is None:
        return b'{"type": "json_object"}'
    wanted = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    return json.dumps(wanted).encode()


@pytest.mark.parametrize(
    ("example", "schema", "agrees"),
    [
        pytest.param("choice", None, False, id="choice-as-json"),
        pytest.param("exact", NAMED, False, id="exact-as-json"),
        pytest.param("code", None, False, id="code-as-json"),
        pytest.param("reference", None, False, id="reference-as-json"),
        pytest.param("choice-field", None, True, id="choice-in-a-field"),
        pytest.param("choice-field", NAMED, False, id="choice-in-a-field-of-a-schema"),
        pytest.param("json", None, True, id="json-as-any-json"),
        pytest.param("json", NAMED, True, id="json-as-itself"),
        pytest.param("json", OTHER, False, id="json-as-other-json"),
        pytest.param("json-any", OTHER, False, id="any-json-as-other-json"),
        pytest.param("json-marker", None, False, id="json-behind-a-marker"),
        pytest.param("text", OTHER, True, id="text-as-json"),
    ],
)
def test_whose_form_holds(example: str, schema: object, agrees: bool) -> None:
    """The client's, in place of the contract; or the decision's, and then what contradicts it is refused."""
    contract = CONTRACTS[example]
    wanted = from_response_format(format_of(schema))
    assert Terms(contract).beside(wanted).contract is wanted
    insisting = Terms(contract, on_violation="fail", wins="decision")
    assert insisting.beside(None) is insisting
    if agrees:
        assert insisting.beside(wanted) is insisting
    else:
        with pytest.raises(InvalidField) as refused:
            insisting.beside(wanted)
        assert refused.value.param == "response_format"
