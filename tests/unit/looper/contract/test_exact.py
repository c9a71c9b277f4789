from typing import Any

import pytest
from pydantic import ValidationError

from looper.contract import ExactConfig
from looper.contract.exact import Exact
from looper.contract.patterns import Pattern


def exact(regex: str, **settings: Any) -> Exact:
    return ExactConfig.model_validate({"type": "exact", "regex": regex, **settings}).build()


@pytest.mark.parametrize(
    ("regex", "extract", "text", "value"),
    [
        pytest.param(r"\d{4}-\d\d", {}, " 2024-05\n", "2024-05", id="blanks-around"),
        pytest.param(r"\d{4}-\d\d", {}, "In 2024-05", None, id="anchored-at-the-start"),
        pytest.param(r"\d{4}-\d\d", {}, "2024-051", None, id="anchored-at-the-end"),
        pytest.param(r"a|ab", {}, "ab", "ab", id="alternatives-may-be-longer"),
        pytest.param(r".*", {}, "", None, id="empty-is-no-value"),
        pytest.param(r"Ｃ", {}, "Ｃ", "Ｃ", id="characters-are-meant"),
        pytest.param(r"\d+", {"mode": "last_match"}, "12 then 345.", "345", id="last-match"),
        pytest.param(r"(?i)[a-z]+", {"mode": "last_match"}, "one TWO\nthree 4", "three", id="flags"),
        pytest.param(r"^\w+$", {"mode": "last_match"}, "x y\nword\nz z", "word", id="lines"),
        pytest.param(r"\d+", {"mode": "last_match"}, "none", None, id="no-match"),
        pytest.param(r"\d*", {"mode": "last_match"}, "none", None, id="empty-match"),
        pytest.param(r"[A-Z]\d", {"mode": "marker"}, 'Answer: **"B7"**.', "B7", id="marker"),
        pytest.param(r"[A-Z]\d", {"mode": "marker"}, "Answer: B7 or so", None, id="rest-of-the-line"),
        pytest.param(r"[A-Z]\d", {"field": "x"}, '{"x": "B7"}', "B7", id="field"),
        pytest.param(r"\d+", {"field": "x"}, '{"x": 12.0}', "12", id="field-with-a-number"),
        pytest.param(r"x", {}, "<think>y</think>x", "x", id="thought"),
    ],
)  # fmt: skip
def test_a_text_of_the_form_is_found(
    regex: str, extract: dict[str, Any], text: str, value: str | None
) -> None:
    """A value is what the whole expression matches at the declared place."""
    assert exact(regex, extract=extract).extract(text) == value


_FORM = {"render": "<{exact}>", "extract": {"mode": "last_match"}}


@pytest.mark.parametrize(
    ("settings", "text", "repaired"),
    [
        pytest.param({}, "```\nB7\n```", "B7", id="fence"),
        pytest.param({}, "So:\nANSWER: B7", "B7", id="marker"),
        pytest.param({}, "It is B7", None, id="no-guess"),
        pytest.param(_FORM, "B7", "<B7>", id="form"),
        pytest.param(_FORM, "It is B7", "It is B7\n\n<B7>", id="form-amid-prose"),
    ],
)  # fmt: skip
def test_a_form_is_repaired(settings: dict[str, Any], text: str, repaired: str | None) -> None:
    """Fences and markers are taken off; a text amid prose is only taken where the last match is declared."""
    assert exact(r"[A-Z]\d", **settings).repair(text) == repaired


@pytest.mark.parametrize("regex", ["(", r"(?=a)", r"(a)\1", "", "a" * 1001, "x{1001}"])
def test_a_bad_pattern_does_not_load(regex: str, capfd: pytest.CaptureFixture[str]) -> None:
    """What RE2 does not take is an error at load, and only there."""
    with pytest.raises(ValidationError):
        exact(regex)
    assert capfd.readouterr().err == ""


def test_half_a_surrogate_pair_is_text() -> None:
    """A text that has no UTF-8 is searched all the same."""
    assert exact(r"\d+", extract={"mode": "last_match"}).extract("\ud800 12") == "12"
    assert Pattern("x").found("\udfffx")
