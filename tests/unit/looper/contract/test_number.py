from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from looper.contract import NumberConfig
from looper.contract.number import Number

BIG = 123456789012345678901234567890


def number(**settings: Any) -> Number:
    return NumberConfig.model_validate({"type": "number", **settings}).build()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("ANSWER: 42", "42", id="marker"),
        pytest.param("ANSWER: -42.50", "-42.5", id="negative-decimal"),
        pytest.param("The answer is **5** because 3 + 2 = 5", "5", id="the-answer-is"),
        pytest.param("She pays 3 * 6 = $18 dollars.", "18", id="last-number"),
        pytest.param("#### 1,000", "1000", id="last-number-behind-hashes"),
        pytest.param("<answer>5</answer>", "5", id="tag"),
        pytest.param("**7**", "7", id="bold"),
        pytest.param("*7* it is", "7", id="emphasis-is-no-product"),
        pytest.param("5!", "5", id="exclamation"),
        pytest.param("ANSWER: 7. Then 3 more", "7", id="sentence-ends"),
        pytest.param("ANSWER: 5 (since 2+3=5)", "5", id="reason-in-parentheses"),
        pytest.param("ANSWER: approximately 3.5 km", "3.5", id="words-around"),
        pytest.param("ANSWER: 18 dollars per day for 5 days", "18", id="first-number-at-the-place"),
        pytest.param("ANSWER: x = 5", "5", id="equation"),
        pytest.param("ANSWER: 2 + 3 = 5", "5", id="result-of-an-equation"),
        pytest.param("ANSWER: x = 5 or x = 7", None, id="two-equations"),
        pytest.param("ANSWER: 3 or 4", None, id="two-joined-by-or"),
        pytest.param("ANSWER: 3 apples and 4 pears", None, id="two-joined-by-and"),
        pytest.param("ANSWER: 10-12", None, id="range"),
        pytest.param("ANSWER: 2 + 3", None, id="sum-without-result"),
        pytest.param("ANSWER: 4\nANSWER: 5", "5", id="last-marker-wins"),
        pytest.param("ANSWER: unknown", None, id="no-number-at-all"),
        pytest.param("I cannot say.", None, id="refusal"),
        pytest.param("", None, id="empty"),
        pytest.param("1. first\n2. second", None, id="numbers-of-a-list"),
        pytest.param("CO2", None, id="part-of-a-word"),
        pytest.param("1,234,567", "1234567", id="commas"),
        pytest.param("1 234", "1234", id="blank"),
        pytest.param("1\u202f234\u202f567", "1234567", id="narrow-blanks"),
        pytest.param("1,234.5", "1234.5", id="commas-and-decimals"),
        pytest.param("1.234,5", None, id="the-other-way-round"),
        pytest.param("1,23", None, id="comma-out-of-place"),
        pytest.param("0,123", None, id="comma-behind-zero"),
        pytest.param("1.2.3", None, id="version"),
        pytest.param("12:30", None, id="time"),
        pytest.param("3/4/2025", None, id="date"),
        pytest.param("3/4", "3/4", id="fraction"),
        pytest.param("-3/4", "-3/4", id="negative-fraction"),
        pytest.param("1 1/2", "3/2", id="mixed"),
        pytest.param("5/0", None, id="division-by-zero"),
        pytest.param("1.5e3", "1500", id="scientific"),
        pytest.param("2E-3", "0.002", id="scientific-negative"),
        pytest.param("3.2 × 10^5", "320000", id="power-of-ten"),
        pytest.param("10^{-3}", "0.001", id="power-of-ten-alone"),
        pytest.param("2^{10}", None, id="another-power"),
        pytest.param("−5", "-5", id="minus-sign"),
        pytest.param("- 5", "5", id="bullet-is-no-sign"),
        pytest.param("+5", "5", id="plus"),
        pytest.param("１２．５", "12.5", id="full-width"),
        pytest.param("٤٢", "42", id="arabic-digits"),
        pytest.param("50%", "50", id="percent"),
        pytest.param("5 km", "5", id="unit"),
        pytest.param("5km", "5", id="unit-without-blank"),
        pytest.param("5 m^2", "5", id="unit-with-power"),
        pytest.param("30°", "30", id="degrees"),
        pytest.param("€1,234.50", "1234.5", id="currency"),
        pytest.param("5 million", "5000000", id="million"),
        pytest.param("x > 5", None, id="inequality"),
        pytest.param("3x", None, id="variable"),
        pytest.param("3π", None, id="constant"),
        pytest.param(str(BIG), str(BIG), id="big-integer"),
        pytest.param("0.1", "1/10", id="exact-decimal"),
        pytest.param("1" * 300, None, id="too-many-digits"),
        pytest.param("1e999", None, id="too-large"),
        pytest.param(r"\boxed{42}", "42", id="box"),
        pytest.param(r"$\boxed{1{,}234}$", "1234", id="box-with-latex-comma"),
        pytest.param(r"\boxed{5\text{ cm}}", "5", id="box-with-unit"),
        pytest.param(r"\boxed{50\%}", "50", id="box-with-percent"),
        pytest.param(r"\boxed{\$18}", "18", id="box-with-dollar"),
        pytest.param(r"\boxed{x = \frac{3}{4}}", "3/4", id="box-with-equation"),
        pytest.param(r"\[ \frac{3}{4} \]", "3/4", id="latex-fraction"),
        pytest.param(r"-\dfrac34", "-3/4", id="latex-fraction-without-braces"),
        pytest.param(r"2\frac{1}{2}", "5/2", id="latex-mixed"),
        pytest.param(r"$1\,234$", "1234", id="latex-thin-space"),
        pytest.param(r"3.2 \times 10^{5}", "320000", id="latex-power-of-ten"),
        pytest.param(r"30^\circ", "30", id="latex-degrees"),
        pytest.param(r"x \approx 3.14", "3.14", id="latex-approx"),
        pytest.param(r"\boxed{\sqrt{2}}", None, id="latex-root"),
        pytest.param(r"\boxed{3\sqrt{2}}", None, id="latex-term"),
        pytest.param(r"\boxed{2\pi}", None, id="latex-constant"),
        pytest.param(r"\frac{x}{4}", None, id="latex-fraction-of-a-variable"),
        pytest.param("<think>41</think>42", "42", id="thought"),
    ],
)
def test_a_number_is_found(text: str, value: str | None) -> None:
    """A number is read exactly, in the notations models use; part of a term or two readings are no number."""
    assert number().extract(text) == (None if value is None else Fraction(value))


@pytest.mark.parametrize(
    ("settings", "text", "value"),
    [
        pytest.param({"decimal_separator": ","}, "1.234,5", "1234.5", id="comma"),
        pytest.param({"decimal_separator": ","}, "1 234,5", "1234.5", id="comma-and-blank"),
        pytest.param({"decimal_separator": ","}, "1.234", "1234", id="full-stop-separates-thousands"),
        pytest.param({"decimal_separator": ","}, "1,234.5", None, id="comma-the-other-way-round"),
        pytest.param({"percent": "fraction"}, "50%", "0.5", id="percent-as-a-fraction"),
        pytest.param({"percent": "fraction"}, "50", "50", id="no-percent"),
        pytest.param({"extract": {"mode": "exact"}}, " 42 km.", "42", id="exact-with-unit"),
        pytest.param({"extract": {"mode": "exact"}}, "It is 42", None, id="exact"),
        pytest.param({"extract": {"mode": "marker"}}, "It is 42", None, id="marker-missing"),
        pytest.param({"extract": {"marker": "####"}}, "#### 42", "42", id="marker"),
        pytest.param({"extract": {"field": "n"}}, '{"n": 42.50}', "42.5", id="field"),
        pytest.param({"extract": {"field": "n"}}, '{"n": "1,234"}', "1234", id="field-with-text"),
        pytest.param({"extract": {"field": "n"}}, '{"n": 1e999999}', None, id="field-too-large"),
        pytest.param({"extract": {"field": "n"}}, '{"n": true}', None, id="field-of-another-type"),
        pytest.param(
            {"extract": {"field": "n"}, "decimal_separator": ","}, '{"n": 1.5}', "1.5", id="field-has-jsons-point"
        ),
    ],
)  # fmt: skip
def test_notation_can_be_declared(settings: dict[str, Any], text: str, value: str | None) -> None:
    """Separators, percent and place are as declared."""
    assert number(**settings).extract(text) == (None if value is None else Fraction(value))


@pytest.mark.parametrize(
    ("tolerance", "a", "b", "same"),
    [
        pytest.param({}, "0.5", "1/2", True, id="exactly"),
        pytest.param({}, "0.333333", "1/3", False, id="nearly"),
        pytest.param({"absolute": 0.01}, "3.14", "3.15", True, id="absolute-limit-included"),
        pytest.param({"absolute": 0.01}, "3.14", "3.1501", False, id="absolute-exceeded"),
        pytest.param({"relative": "0.01"}, "99", "100", True, id="relative-of-the-larger"),
        pytest.param({"relative": 0.01}, "98", "100", False, id="relative-exceeded"),
        pytest.param({"relative": 0.01}, "-100", "100", False, id="signs"),
        pytest.param({"relative": 0.01, "absolute": 1}, "0", "1", True, id="the-larger-limit"),
        pytest.param({}, str(BIG), str(BIG + 1), False, id="big-integers"),
    ],
)
def test_tolerance(tolerance: dict[str, Any], a: str, b: str, same: bool) -> None:
    """Two numbers are the same within the larger of both limits, which are exact."""
    assert number(tolerance=tolerance).same(Fraction(a), Fraction(b)) is same


sizes = st.fractions(max_denominator=10**6)
limits = st.decimals(min_value=0, max_value=Decimal("0.9"), places=3)


@given(sizes, sizes, limits, limits)
def test_tolerance_has_no_order(
    a: Fraction, b: Fraction, relative: Decimal, absolute: Decimal
) -> None:
    """Every number is the same as itself, and a as b whenever b as a."""
    contract = number(tolerance={"relative": relative, "absolute": absolute})
    assert contract.same(a, a)
    assert contract.same(a, b) == contract.same(b, a)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        pytest.param("0", "0", id="zero"),
        pytest.param("1234567", "1234567", id="integer"),
        pytest.param("-1/8", "-0.125", id="decimal"),
        pytest.param("22/7", "22/7", id="fraction"),
        pytest.param(str(BIG), str(BIG), id="big"),
    ],
)
def test_a_number_is_written_plainly(value: str, written: str) -> None:
    """A number is written without separators, as a decimal if that comes to an end."""
    assert number().render(Fraction(value)) == written


@pytest.mark.parametrize(
    ("settings", "text", "repaired"),
    [
        pytest.param({"extract": {"mode": "exact"}}, "1,234 km", "1234", id="exact"),
        pytest.param(
            {"extract": {"mode": "exact"}}, "So \\boxed{42}", "42", id="exact-from-the-box"
        ),
        pytest.param(
            {"extract": {"mode": "exact"}}, "12 of the 20", None, id="exact-does-not-guess"
        ),
        pytest.param({"render": "#### {number}"}, "It is 42.", "It is 42.\n\n#### 42", id="form"),
    ],
)
def test_a_form_is_repaired(settings: dict[str, Any], text: str, repaired: str | None) -> None:
    """The number is put into the form that is asked for."""
    assert number(**settings).repair(text) == repaired


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"tolerance": {"relative": 1}}, id="everything-is-the-same"),
        pytest.param({"tolerance": {"absolute": -1}}, id="negative"),
        pytest.param({"decimal_separator": "'"}, id="separator"),
        pytest.param({"render": "x{number}"}, id="render-that-cannot-be-read"),
    ],
)
def test_a_bad_configuration_does_not_load(settings: dict[str, Any]) -> None:
    """What could never work is an error at load."""
    with pytest.raises(ValidationError):
        number(**settings)
