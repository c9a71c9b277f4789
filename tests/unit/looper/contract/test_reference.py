from typing import Any

import pytest
from pydantic import ValidationError

from looper.contract import Reference, ReferenceConfig

TEXTS = ("one", "two", "three")


def reference(**settings: Any) -> Reference:
    return ReferenceConfig.model_validate({"type": "reference", **settings}).build().among(TEXTS)


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        pytest.param("2", "two", id="bare"),
        pytest.param("**[2]**", "two", id="bare-decorated"),
        pytest.param("Reference 2", "two", id="label"),
        pytest.param("Reference #2.", "two", id="label-with-hash"),
        pytest.param("Candidate [2]", "two", id="other-label"),
        pytest.param("ANSWER: 2", "two", id="marker"),
        pytest.param(
            "ANSWER: reference 2\n\nIt is better than reference 1.", "two", id="marker-and-prose"
        ),
        pytest.param("ANSWER: 1 or 2", None, id="two-at-the-marker"),
        pytest.param(r"\boxed{3}", "three", id="box"),
        pytest.param("the best is reference 2", "two", id="best"),
        pytest.param("The best answer is 3.", "three", id="best-answer-is"),
        pytest.param("I choose response 1, as it is complete.", "one", id="choose"),
        pytest.param("Reference 2 is better than reference 1.", "two", id="better-than"),
        pytest.param("Reference 1 is good. Reference 3 is the best.", "three", id="named-and-best"),
        pytest.param("I prefer the second candidate.", "two", id="ordinal"),
        pytest.param("All is said in reference 3.", "three", id="only-one-named"),
        pytest.param("References 1 and reference 2 agree.", None, id="two-named"),
        pytest.param("Reference 4 is the best.", None, id="not-among-them"),
        pytest.param("ANSWER: 0", None, id="zero"),
        pytest.param("Reference 2.5", None, id="no-whole-number"),
        pytest.param("reference ２", "two", id="full-width"),
        pytest.param("I cannot decide.", None, id="undecided"),
        pytest.param("<think>reference 1</think>reference 2", "two", id="thought"),
        pytest.param("Reference: 1", "one", id="colon"),
        pytest.param("**Reference:** 1", "one", id="colon-decorated"),
        pytest.param("reference, 1", "one", id="comma"),
        pytest.param("Reference = 3", "three", id="equals"),
        pytest.param("Candidate — 3", "three", id="dash"),
        pytest.param("Candidate: #2", "two", id="colon-and-hash"),
        pytest.param("reference:\n\n2", "two", id="on-the-next-line"),
        pytest.param("[1]", "one", id="brackets"),
        pytest.param("Answer: reference number 1", "one", id="number-spelt-out"),
        pytest.param("No. 2", "two", id="only-numbered"),
        pytest.param("I choose number 2.", "two", id="choose-by-number"),
        pytest.param("The best reference is 2.", "two", id="best-reference-is"),
        pytest.param("Winner: **3**", "three", id="winner"),
        pytest.param("1: it is complete.", "one", id="number-and-reason"),
        pytest.param('{"reference": 2}', "two", id="json"),
        pytest.param("-1", None, id="negative"),
        pytest.param("−1", None, id="minus-sign"),
        pytest.param("Answer: -1", None, id="negative-at-the-marker"),
        pytest.param("reference: -1", None, id="negative-label"),
        pytest.param("1. First this.\n2. Then that.", None, id="enumeration"),
    ],
)
def test_a_text_is_chosen(text: str, resolved: str | None) -> None:
    """An answer resolves to one of the texts the prompt showed."""
    assert reference().resolve(text) == resolved


@pytest.mark.parametrize(
    ("settings", "text", "value"),
    [
        pytest.param({"labels": ["Entwurf"]}, "Am besten ist Entwurf 2", 2, id="own-label"),
        pytest.param({"labels": ["Entwurf"]}, "reference 2 it is", None, id="own-label-only"),
        pytest.param({"extract": {"field": "winner"}}, '{"winner": 2}', 2, id="field"),
        pytest.param({"extract": {"mode": "exact"}}, "It is reference 2", None, id="exact"),
    ],
)
def test_settings(settings: dict[str, Any], text: str, value: int | None) -> None:
    """Labels and place are as declared."""
    assert reference(**settings).extract(text) == value


def test_any_number_counts_before_the_texts_are_known() -> None:
    """Without the texts an answer can be read, but not resolved."""
    unbound = ReferenceConfig(type="reference").build()
    assert unbound.extract("reference 77") == 77
    assert unbound.resolve("reference 77") is None


def test_a_form_is_repaired() -> None:
    """The number is put into the form that is asked for."""
    contract = reference(render="ANSWER: {reference}")
    assert (
        contract.repair("The best is candidate 2")
        == "The best is candidate 2\n\nANSWER: reference 2"
    )


@pytest.mark.parametrize("settings", [{"labels": []}, {"labels": ["("]}, {"render": "x"}], ids=repr)
def test_a_bad_configuration_does_not_load(settings: dict[str, Any]) -> None:
    """Labels are words, and `render` has a place."""
    with pytest.raises(ValidationError):
        reference(**settings)
