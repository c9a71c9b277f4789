from typing import Any

import pytest
from pydantic import ValidationError

from looper.contract import TextConfig


@pytest.mark.parametrize(
    ("settings", "text", "message"),
    [
        pytest.param({}, "anything", None, id="nothing-asked"),
        pytest.param({}, " \n", "The answer is empty.", id="empty"),
        pytest.param({"must_match": "(?i)^dear"}, "Dear Sir", None, id="match"),
        pytest.param({"must_match": "^Dear"}, "Hello", 'must match ^Dear, and does not: "Hello"', id="no-match"),
        pytest.param({"must_match": ["a", "b"]}, "a", "must match b", id="one-of-two-missing"),
        pytest.param({"must_match": "x"}, "<think>x</think>y", "must match x", id="match-in-thoughts-only"),
        pytest.param({"must_match": "^y"}, "<think>x</think>\n\ny", None, id="match-behind-thoughts"),
        pytest.param({"must_not_match": "(?i)as an ai"}, "As an AI, I", "must not match", id="forbidden"),
        pytest.param({"must_not_match": ["x", "y"]}, "<think>y</think>z", "must not match y", id="in-thoughts"),
        pytest.param({"max_chars": 3}, "abc", None, id="long-enough"),
        pytest.param({"max_chars": 3}, "abcd", "has 4 characters, and may have 3", id="too-long"),
    ],
)  # fmt: skip
def test_what_is_asked_of_a_text(settings: dict[str, Any], text: str, message: str | None) -> None:
    """What is required is in the visible text; what is forbidden is nowhere."""
    violation = TextConfig.model_validate({"type": "text", **settings}).build().check(text)
    if message is None:
        assert violation is None
    else:
        assert violation is not None
        assert message in violation.message


@pytest.mark.parametrize(
    ("settings", "text", "repaired"),
    [
        pytest.param(
            {"must_not_match": "x"}, "<think>x</think>y", "y", id="thoughts-are-taken-off"
        ),
        pytest.param(
            {"must_match": "^Dear"}, "```\nDear Sir\n```", "Dear Sir", id="fence-is-taken-off"
        ),
        pytest.param({"max_chars": 3}, "abcd", None, id="nothing-is-cut"),
    ],
)
def test_a_text_is_repaired(settings: dict[str, Any], text: str, repaired: str | None) -> None:
    """Only wrappings are taken off."""
    assert TextConfig.model_validate({"type": "text", **settings}).build().repair(text) == repaired


@pytest.mark.parametrize(
    "settings", [{"must_match": "("}, {"must_not_match": ["(?!a)"]}, {"max_chars": 0}], ids=repr
)
def test_a_bad_configuration_does_not_load(settings: dict[str, Any]) -> None:
    """Patterns are RE2's, and a limit allows for something."""
    with pytest.raises(ValidationError):
        TextConfig.model_validate({"type": "text", **settings})
