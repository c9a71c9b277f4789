import json
import math
import time
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from looper.wire.model_json import NotRead, Sentences, read_json


class Verdict(BaseModel):
    """Something to be read, with what schemas have."""

    score: Annotated[float, Field(ge=0, le=1)]
    winner: Annotated[int, Field(ge=1)] | None = None
    reasons: list[str] = []


HALF = Verdict(score=0.5)


class TestGood:
    @pytest.mark.parametrize(
        ("text", "verdict"),
        [
            pytest.param('{"score": 0.5}', HALF, id="plain"),
            pytest.param('{"score": 0}', Verdict(score=0), id="whole-number"),
            pytest.param('\n {"score": 0.5}\n', HALF, id="spaces"),
            pytest.param('{"score": 0.5, "winner": null}', HALF, id="null"),
            pytest.param('{"score": 0.5, "mood": "good"}', HALF, id="more-than-asked-for"),
            pytest.param('{"score": 0.5, "reasons": ["é\\n"]}', Verdict(score=0.5, reasons=["é\n"]), id="text"),
        ],
    )  # fmt: skip
    def test_json_is_read(self, text: str, verdict: Verdict) -> None:
        """What is JSON and fits is what it says."""
        assert read_json(text, Verdict) == verdict

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param('```json\n{"score": 0.5}\n```', id="fence"),
            pytest.param('```\n{"score": 0.5}\n```\nThat is all.', id="fence-and-prose"),
            pytest.param('Here you are: {"score": 0.5}', id="prose-before"),
            pytest.param('{"score": 0.5} I hope this helps!', id="prose-behind"),
            pytest.param('{"score": 0.5}\n{"mood": "good"}', id="something-else-behind"),
            pytest.param('My verdict:\n\n{"score": 0.5}\n\nGood luck.', id="prose-around"),
            pytest.param('{"score": 0.5,}', id="trailing-comma"),
            pytest.param('{"score": 0.5, "reasons": ["a",],}', id="trailing-commas"),
            pytest.param("{“score”: 0.5}", id="curly-quotes"),
            pytest.param("{'score': 0.5}", id="single-quotes"),
            pytest.param("{score: 0.5}", id="no-quotes"),
            pytest.param('{"score": 0.5 // sure\n}', id="comment"),
            pytest.param('<think>Let me see {"score": 0.1}.</think>{"score": 0.5}', id="thoughts"),
            pytest.param('<think>\n</think>\n```json\n{"score": 0.5}\n```', id="thoughts-and-fence"),
            pytest.param('First I thought {"score": 0.1}.</think>{"score": 0.5}', id="end-of-thoughts-only"),
        ],
    )  # fmt: skip
    def test_what_models_put_around_and_into_json_is_mended(self, text: str) -> None:
        """The way in which something is said does not make it unsaid."""
        verdict = read_json(text, Verdict)
        assert isinstance(verdict, Verdict)
        assert verdict.score == 0.5

    @pytest.mark.parametrize(
        ("written", "reason"),
        [
            pytest.param(r'"\(x\)"', r"\(x\)", id="latex"),
            pytest.param(r'"\\(x\\) and \(y"', r"\(x\) and \(y", id="half-of-it-escaped"),
            pytest.param(r'"\frac{1}{2} \beta \(x\)"', r"\frac{1}{2} \beta \(x\)", id="commands"),
            pytest.param(r'"\u00e9 \underline \(x"', r"é \underline \(x", id="no-code"),
            pytest.param(r'"it\'s"', "it's", id="escaped-apostrophe"),
            pytest.param('"one\ntwo\tthree"', "one\ntwo\tthree", id="raw-newlines"),
            pytest.param('"one\\\ntwo"', "one\\\ntwo", id="backslash-before-a-newline"),
            pytest.param('`one "two"`', 'one "two"', id="back-ticks"),
            pytest.param('`one\ntwo`', "one\ntwo", id="back-ticks-over-two-lines"),
            pytest.param(r'`a \` tick`', "a ` tick", id="escaped-back-tick"),
            pytest.param(r"'\(x\)'", r"\(x\)", id="latex-in-single-quotes"),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize(
        "around",
        ["{}", "```json\n{}\n```", "For all x in {1, 2}, and [0, 1]:\n{}", "<think>hm</think>{}"],
        ids=["alone", "fenced", "behind-prose", "behind-thoughts"],
    )
    def test_strings_that_json_does_not_know_are_mended(
        self, around: str, written: str, reason: str
    ) -> None:
        """Judges of mathematics write LaTeX, and lines end where they end: what was meant is clear."""
        text = around.replace("{}", f'{{"score": 0.5, "reasons": [{written}]}}')
        assert read_json(text, Verdict) == Verdict(score=0.5, reasons=[reason])

    @pytest.mark.parametrize(
        "reason",
        [
            "a <think> tag",
            "<think>",
            "</think>",
            "```",
            "“quoted”",
            "a,]",
            "{",
            "}",
            "// no comment",
        ],
    )
    def test_what_is_json_is_not_mended(self, reason: str) -> None:
        """A text inside valid JSON may hold anything, and stays as it is."""
        text = json.dumps(
            {"score": 0.5, "reasons": [reason, "more"], "winner": 3}, ensure_ascii=False
        )
        assert read_json(text, Verdict) == Verdict(score=0.5, reasons=[reason, "more"], winner=3)


class TestBad:
    @pytest.mark.parametrize(
        "text",
        [
            pytest.param('{"score": 0.5', id="broken-off"),
            pytest.param('{"score": 95}', id="out-of-range"),
            pytest.param('{"score": -0.1}', id="negative"),
            pytest.param('{"score": "high"}', id="word"),
            pytest.param('{"score": NaN}', id="nan"),
            pytest.param('{"score": Infinity}', id="infinity"),
            pytest.param('{"score": 1e999}', id="beyond-all-numbers"),
            pytest.param('{"score": null}', id="null"),
            pytest.param('{"score": [0.5]}', id="list"),
            pytest.param('{"score": {"value": 0.5}}', id="object"),
            pytest.param('{"score": true}', id="yes"),
            pytest.param('{"score": 0.5, "winner": 0}', id="winner-out-of-range"),
            pytest.param('{"score": 0.5, "winner": 1.5}', id="half-a-winner"),
            pytest.param('{"score": 0.5, "winner": true}', id="yes-for-a-winner"),
            pytest.param('{"score": 0.5, "reasons": "one"}', id="text-for-a-list"),
            pytest.param('{"score": 0.5, "reasons": [1]}', id="number-for-a-text"),
            pytest.param('As in {"score": 0.5}.\n{"score": 90}', id="after-an-example"),
            pytest.param('It says {"score": 1}. I say:\n```\n{"score": "low"}\n```', id="after-a-quote"),
            pytest.param("{}", id="nothing-in-it"),
            pytest.param("[]", id="array"),
            pytest.param('["score", 0.5]', id="array-of-words"),
            pytest.param("null", id="bare-null"),
            pytest.param("0.5", id="bare-number"),
            pytest.param('"score"', id="bare-text"),
            pytest.param("", id="blank"),
            pytest.param("1. The answer is wrong", id="prose"),
            pytest.param("The set {1, 2} is best.", id="prose-with-braces"),
            pytest.param("<think>{\"score\": 0.5}</think>", id="only-a-thought"),
            pytest.param("<think>{\"score\": 0.5}", id="a-thought-without-end"),
        ],
    )  # fmt: skip
    def test_what_is_no_such_value_is_none(self, text: str) -> None:
        """A wrong type or a value out of range is not mended: nobody knows what was meant."""
        assert isinstance(read_json(text, Verdict), NotRead)

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param("[" * 100_000, id="brackets"),
            pytest.param("{" * 50_000, id="braces"),
            pytest.param('{"a":' * 100_000, id="nested-objects"),
            pytest.param("{" + "[" * 100_000, id="brackets-in-a-brace"),
            pytest.param("{ " + "word " * 100_000, id="prose-behind-a-brace"),
            pytest.param("{ " + '" ' * 200_000, id="quotes"),
            pytest.param('{"score": ' + "9" * 200_000 + "}", id="digits"),
            pytest.param("<think>" * 100_000, id="thoughts"),
            pytest.param('{"a": 1}' * 50_000, id="many-objects"),
            pytest.param('{"a": "' + "\\(" * 60_000, id="backslashes"),
            pytest.param('{"a": ' + "`" * 120_000, id="back-ticks"),
            pytest.param("{ x " + '{"' * 60_000, id="beginnings"),
        ],
    )
    def test_no_text_stalls_or_crashes_the_process(self, text: str) -> None:
        """What a model says is not to be trusted: at its worst it is none, and soon."""
        begun = time.process_time()
        assert isinstance(read_json(text, Verdict), NotRead)
        assert time.process_time() - begun < 1


class Remarks(BaseModel):
    said: Sentences = []


@pytest.mark.parametrize(
    ("text", "said"),
    [('{"said": "one"}', ["one"]), ('{"said": ["one", "two"]}', ["one", "two"]), ("{}", [])],
)
def test_one_sentence_is_a_list_of_one(text: str, said: list[str]) -> None:
    assert read_json(text, Remarks) == Remarks(said=said)


@pytest.mark.parametrize("text", ['{"said": 1}', '{"said": [1]}', '{"said": {"a": "b"}}'])
def test_what_is_no_sentence_is_none(text: str) -> None:
    assert isinstance(read_json(text, Remarks), NotRead)


@settings(deadline=None, max_examples=100)
@given(
    st.floats(0, 1),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=3),
    st.sampled_from(["{}", "```json\n{}\n```", "<think>hm</think>{}", "\n{}\n"]),
)
def test_reads_what_was_written(score: float, reasons: list[str], around: str) -> None:
    """Whatever an object says comes through what stands around it."""
    text = around.replace("{}", json.dumps({"score": score, "reasons": reasons}))
    assert read_json(text, Verdict) == Verdict(score=score, reasons=reasons)


@settings(deadline=None, max_examples=100)
@given(st.text(st.sampled_from('{}[]":,\\ \n0.5eNa<think>/`“”\\(b'), max_size=40))
def test_no_text_does_worse_than_be_none(text: str) -> None:
    """Whatever a model says, it is a value within its range or none."""
    verdict: Any = read_json(text, Verdict)
    assert isinstance(verdict, NotRead) or (
        0 <= verdict.score <= 1 and not math.isnan(verdict.score)
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("I like it.", "it is not JSON.", id="prose"),
        pytest.param('{"score": 95}', "score: Input should be less than or equal to 1", id="range"),
        pytest.param('{"score": "high"}', "score: Input should be a valid number", id="type"),
        pytest.param('{"winner": 1}', "score: Field required", id="missing"),
        pytest.param(
            '{"score": 2, "winner": 0}',
            "score: Input should be less than or equal to 1; winner: Input should be greater than or equal to 1",
            id="several",
        ),
    ],
)
def test_what_cannot_be_read_says_why(text: str, why: str) -> None:
    """The model that wrote it is told what to mend, member by member."""
    assert read_json(text, Verdict) == NotRead(why)
