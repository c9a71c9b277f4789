from typing import Any

import pytest
from pydantic import ValidationError

from looper.contract import ChoiceConfig, Violation
from looper.contract.choice import Choice

LETTERS = ("A", "B", "C", "D")


def choice(*values: str, **settings: Any) -> Choice:
    return ChoiceConfig(type="choice", values=values or LETTERS, **settings).build()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("ANSWER: C", "C", id="marker"),
        pytest.param("ANSWER: c", "C", id="marker-lower-case"),
        pytest.param("Answer: (C)", "C", id="marker-in-other-case-and-parentheses"),
        pytest.param("**Answer:** C", "C", id="marker-in-bold"),
        pytest.param("**Answer**: C", "C", id="colon-behind-the-bold"),
        pytest.param("**ANSWER: C**", "C", id="marker-and-value-in-bold"),
        pytest.param("ANSWER：Ｃ", "C", id="marker-and-value-full-width"),
        pytest.param("ANSWER:\n\n**C**", "C", id="value-on-the-next-line"),
        pytest.param("ANSWER: option C", "C", id="marker-and-the-word-option"),
        pytest.param("ANSWER: C\n\nThat is, because D is too hot.", "C", id="prose-behind-the-marker"),
        pytest.param("ANSWER: C, since B is wrong", "C", id="reason-in-the-same-line"),
        pytest.param("ANSWER: A\nNo, wait.\nANSWER: C", "C", id="last-marker-wins"),
        pytest.param("End with ANSWER: X.\nANSWER: C", "C", id="marker-without-a-value-is-no-answer"),
        pytest.param("ANSWER: C\nFinally, answer: see above", "C", id="last-marker-with-a-value"),
        pytest.param("```\nANSWER: C\n```", "C", id="in-a-fence"),
        pytest.param("<answer>C</answer>", "C", id="tag"),
        pytest.param(r"\boxed{C}", "C", id="box"),
        pytest.param(r"so $\boxed{\text{C}}$.", "C", id="box-with-text"),
        pytest.param(r"$$\boxed{\mathbf{(C)}}$$", "C", id="box-with-bold-parentheses"),
        pytest.param(r"\boxed{A}, no: \boxed{C}", None, id="two-boxes-in-one-line"),
        pytest.param("Answer: A\n\\boxed{C}", "C", id="box-behind-a-marker"),
        pytest.param("ANSWER: C\nSome think the answer is B.", "C", id="marker-before-words"),
        pytest.param("the answer is C.", "C", id="the-answer-is"),
        pytest.param("The correct answer is: **(C) carbon dioxide**", "C", id="the-answer-is-bold"),
        pytest.param("The best option would be C", "C", id="would-be"),
        pytest.param("The answer is therefore C", "C", id="is-therefore"),
        pytest.param("Final answer — C", "C", id="dash"),
        pytest.param("answer = C", "C", id="equals"),
        pytest.param("I choose C", "C", id="i-choose"),
        pytest.param("I'd go with D", "D", id="go-with"),
        pytest.param("The answer is not B", None, id="negated"),
        pytest.param("I would not choose C over anything", None, id="not-chosen"),
        pytest.param("The answer is (C), not (B).", "C", id="and-not-another"),
        pytest.param("Option C is correct.", "C", id="is-correct"),
        pytest.param("A is wrong. C is the only correct answer.", "C", id="is-the-only-correct"),
        pytest.param("A is correct.\nD is correct.", None, id="two-are-correct"),
        pytest.param("C", "C", id="bare"),
        pytest.param(" c. ", "C", id="bare-lower-case-with-full-stop"),
        pytest.param("(c)", "C", id="bare-in-parentheses"),
        pytest.param("**C**", "C", id="bare-bold"),
        pytest.param("`C`", "C", id="bare-code"),
        pytest.param("> C", "C", id="bare-quoted"),
        pytest.param("Ｃ", "C", id="bare-full-width"),
        pytest.param("𝐂", None, id="letters-of-mathematics-are-not-read"),
        pytest.param("```\nC\n```", "C", id="bare-in-a-fence"),
        pytest.param("C) carbon dioxide", "C", id="label"),
        pytest.param("(C) carbon dioxide", "C", id="label-in-parentheses"),
        pytest.param("C. Because it is heavier.", "C", id="label-before-prose"),
        pytest.param("Let me see.\n\nC: carbon dioxide", "C", id="label-in-the-last-line"),
        pytest.param("A) x\nB) y\nC) z", None, id="list-of-options"),
        pytest.param("A) x\nB) y\n\nSo it must be B.", "B", id="list-of-options-then-an-answer"),
        pytest.param("**A)** x\n**B)** y\n\nThus **B** it is", "B", id="bold-amid-prose"),
        pytest.param("**A** or **B**, who knows", None, id="two-in-bold"),
        pytest.param("So it must be C.", "C", id="named-at-the-end"),
        pytest.param("C. It is.\nSo it must be D.", None, id="label-and-end-disagree"),
        pytest.param("It is not B.", None, id="negation-at-the-end"),
        pytest.param("Vitamin C is great", None, id="letter-that-means-something-else"),
        pytest.param("Answer: a cat", None, id="article"),
        pytest.param("I think that a bird flies", None, id="pronoun-and-article"),
        pytest.param("ANSWER: A or C", None, id="two-joined-by-or"),
        pytest.param("ANSWER: A, C", None, id="two-joined-by-a-comma"),
        pytest.param("ANSWER: A/C", None, id="two-joined-by-a-slash"),
        pytest.param("The answer is B, or rather the answer is C", None, id="two-in-one-line"),
        pytest.param("ANSWER: E", None, id="none-of-the-values"),
        pytest.param("I'm sorry, but I can't help with that.", None, id="refusal"),
        pytest.param("", None, id="empty"),
        pytest.param("<think>ANSWER: A</think>ANSWER: C", "C", id="thought-and-answer"),
        pytest.param("<think>ANSWER: A</think>", None, id="thought-only"),
        pytest.param("<think>\nANSWER: A", None, id="unclosed-thought"),
        pytest.param("ANSWER: A?</think>\n\nC", "C", id="thought-whose-beginning-is-not-seen"),
        pytest.param("<THINKING>A</THINKING>C", "C", id="thinking-in-other-case"),
    ],
)  # fmt: skip
def test_a_letter_is_found(text: str, value: str | None) -> None:
    """`last_match` finds the one letter that an answer declares or ends with, and none that means another thing."""
    assert choice().extract(text) == value


@pytest.mark.parametrize(
    ("values", "text", "value"),
    [
        pytest.param(("yes", "no"), "Yes, because it is prime.", "yes", id="first-word"),
        pytest.param(("yes", "no"), "**No**", "no", id="bold-word"),
        pytest.param(("yes", "no"), "There is no doubt.", None, id="word-in-passing"),
        pytest.param(("yes", "no"), "So the verdict must be: yes.", "yes", id="last-word"),
        pytest.param(("yes", "no"), "ANSWER: yes and no", None, id="both"),
        pytest.param(("yes", "no"), "ANSWER: none", None, id="part-of-a-longer-word"),
        pytest.param(("no", "not sure"), "ANSWER: not sure", "not sure", id="prefix-of-another"),
        pytest.param(("not sure", "no"), "ANSWER: NO.", "no", id="the-prefix-itself"),
        pytest.param(("1", "12"), "ANSWER: 12", "12", id="digits-that-are-a-prefix"),
        pytest.param(("1", "2"), "ANSWER: 12", None, id="digits-are-not-split"),
        pytest.param(("New York", "Paris"), "ANSWER: new  york", "New York", id="blanks-and-case"),
        pytest.param(("C++", "C"), "ANSWER: C++", "C++", id="signs"),
        pytest.param(("C++", "C"), "ANSWER: C", "C", id="without-the-signs"),
        pytest.param(("Ja", "Nein"), "Antwort: Ja", "Ja", id="last-word-behind-an-unknown-marker"),
        pytest.param(("是", "否"), "ANSWER: 是的", "是", id="script-without-blanks"),
        pytest.param(("option 1", "option 2"), "The answer is option 2", "option 2", id="value-with-option"),
        pytest.param(("I", "II", "III"), "ANSWER: II", "II", id="roman"),
        pytest.param(("I", "II"), "The answer is I think wrong", None, id="i-is-a-pronoun"),
    ],
)  # fmt: skip
def test_a_word_is_found(values: tuple[str, ...], text: str, value: str | None) -> None:
    """Values may be words of any script; none is found inside another."""
    assert choice(*values).extract(text) == value


@pytest.mark.parametrize(
    ("extract", "text", "value"),
    [
        pytest.param({"mode": "exact"}, "(c).", "C", id="exact-may-be-decorated"),
        pytest.param({"mode": "exact"}, "The answer is C", None, id="exact-is-nothing-else"),
        pytest.param({"mode": "marker"}, "The answer is C", None, id="marker-is-required"),
        pytest.param({"mode": "marker"}, "Answer : C", "C", id="default-marker"),
        pytest.param({"marker": "答案："}, "答案：C", "C", id="declared-marker-in-another-language"),
        pytest.param({"marker": "答案："}, "ANSWER: C", None, id="declared-marker-replaces-the-default"),
        pytest.param({"marker": ["Antwort:", "Réponse :"]}, "réponse : C", "C", id="several-markers"),
        pytest.param({"marker": ">>"}, ">> C", "C", id="marker-without-colon"),
        pytest.param({"mode": "json_field"}, '{"answer": "c", "why": "A"}', "C", id="field"),
        pytest.param({"field": "x"}, 'So:\n```json\n{"x": "C"}\n```', "C", id="field-in-a-fence"),
        pytest.param({"field": "x"}, '{"answer": "C"}', None, id="other-field"),
        pytest.param({"field": "x"}, '{"x": ["C"]}', None, id="field-of-another-type"),
        pytest.param({"include_reasoning": True}, "<think>ANSWER: C</think>", "C", id="reasoning-declared"),
    ],
)  # fmt: skip
def test_the_place_can_be_declared(extract: dict[str, Any], text: str, value: str | None) -> None:
    """A declared place is the only one that counts."""
    config = {"type": "choice", "values": LETTERS, "extract": extract}
    assert ChoiceConfig.model_validate(config).build().extract(text) == value


@pytest.mark.parametrize(
    ("settings", "text", "repaired"),
    [
        pytest.param({}, "So it is \\boxed{C}", "So it is \\boxed{C}", id="nothing-is-demanded"),
        pytest.param({}, "No idea.", None, id="nothing-to-find"),
        pytest.param(
            {"render": "ANSWER: {choice}"}, "So (C).\nanswer: c", "So (C).\nanswer: c\n\nANSWER: C", id="form-is-added"
        ),
        pytest.param({"render": "ANSWER: {choice}"}, "Well.\nANSWER: C", "Well.\nANSWER: C", id="form-is-right"),
        pytest.param(
            {"render": "ANSWER: {choice}"}, "```\nANSWER: C\n```", "ANSWER: C", id="fence-is-taken-off"
        ),
        pytest.param(
            {"render": "ANSWER: {choice}"}, "ANSWER: C<think>or not", "ANSWER: C", id="thoughts-are-taken-off"
        ),
        pytest.param({"extract": {"mode": "exact"}}, "**c**", "C", id="exact-value-alone"),
        pytest.param({"extract": {"mode": "exact"}}, "Hm.\nANSWER: C", "C", id="exact-finds-the-marker"),
        pytest.param({"extract": {"mode": "exact"}}, "Could be C", None, id="exact-does-not-guess"),
        pytest.param(
            {"extract": {"mode": "marker"}}, "So \\boxed{C}", "So \\boxed{C}\n\nANSWER: C", id="marker-is-added"
        ),
        pytest.param({"extract": {"field": "x"}}, "ANSWER: C", '{"x": "C"}', id="field-is-made"),
        pytest.param(
            {"extract": {"field": "x"}}, 'Here: {"x": "C", "y": 1}', '{"x": "C", "y": 1}', id="object-is-taken-out"
        ),
        pytest.param({"render": "ANSWER: {choice}"}, "ANSWER: A or B", None, id="two-are-not-one"),
    ],
)  # fmt: skip
def test_a_form_is_repaired(settings: dict[str, Any], text: str, repaired: str | None) -> None:
    """What an answer says is put into the form that is asked for; what it does not say is not made up."""
    config = {"type": "choice", "values": LETTERS, **settings}
    assert ChoiceConfig.model_validate(config).build().repair(text) == repaired


def test_a_violation_says_what_is_wanted() -> None:
    """A violation names the values and shows a little of the text."""
    text = "I do not know. " * 20
    end = ("I do not know. " * 20).strip()[-60:]
    assert choice().check(text) == Violation(
        f'The answer must have exactly one of A, B, C, D, and this has not: "…{end}".'
    )


def test_the_published_form_is_demanded() -> None:
    """With `render` an answer that says its value in another way may not be published."""
    contract = choice(render="ANSWER: {choice}")
    assert contract.check("The answer is C") == Violation('The answer must end with "ANSWER: C".')
    assert contract.check("It is.\nANSWER: C\n") is None


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"values": []}, id="no-values"),
        pytest.param({"values": ["A", " "]}, id="blank-value"),
        pytest.param({"values": ["A", "Ａ"]}, id="same-but-for-the-width"),
        pytest.param({"values": ["yes", "YES"]}, id="same-but-for-the-case"),
        pytest.param({"values": ["A"], "render": "ANSWER"}, id="render-without-place"),
        pytest.param(
            {"values": ["A"], "render": "It is {choice}", "extract": {"mode": "marker"}}, id="render-without-the-marker"
        ),
        pytest.param({"values": ["A"], "render": "no {choice} yes"}, id="render-that-cannot-be-read"),
        pytest.param({"values": ["A"], "extract": {"marker": " "}}, id="blank-marker"),
        pytest.param({"values": ["A"], "extract": {"marker": []}}, id="no-marker"),
        pytest.param({"values": ["A"], "extract": {"marker": "X", "mode": "exact"}}, id="marker-without-use"),
        pytest.param({"values": ["A"], "extract": {"field": "x", "mode": "marker"}}, id="field-without-use"),
        pytest.param({"values": ["A"], "extract": {"field": "x", "marker": "X"}}, id="field-and-marker"),
        pytest.param({"values": ["A"], "extract": {"mode": "first"}}, id="unknown-mode"),
        pytest.param({"values": ["A"], "colour": "red"}, id="unknown-key"),
    ],
)  # fmt: skip
def test_a_bad_configuration_does_not_load(settings: dict[str, Any]) -> None:
    """What could never work is an error at load."""
    with pytest.raises(ValidationError):
        ChoiceConfig.model_validate({"type": "choice", **settings})
