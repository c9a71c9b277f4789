from typing import Any

import pytest
from pydantic import ValidationError

from extproc.signals.structure import MOST, StructureConfig
from tests.fakes.subjects import read


def value(text: str, **settings: Any) -> float | None:
    return read(text, type="structure", **settings).value


class TestOptions:
    @pytest.mark.parametrize(
        ("text", "number"),
        [
            pytest.param("Which?\nA) one\nB) two\nC) three", 3, id="lines"),
            pytest.param("Which? (A) one (B) two (C) three (D) four", 4, id="one-line"),
            pytest.param("A. one\n\nB. two", 2, id="dots"),
            pytest.param("**A)** one\n**B)** two", 2, id="bold"),
            pytest.param("[A] one [B] two", 2, id="brackets"),
            pytest.param("a) one b) two c) three", 3, id="small"),
            pytest.param("А) один\nБ) два\nВ) три", 3, id="cyrillic"),
            pytest.param("أ) واحد\nب) اثنان\nج) ثلاثة", 3, id="arabic"),
            pytest.param("ก. หนึ่ง\nข. สอง\nค. สาม", 3, id="thai"),
            pytest.param("A、一 B、二 C、三", 3, id="chinese"),
            pytest.param("①一つ ②二つ ③三つ", 3, id="circled"),
            pytest.param("가) 하나\n나) 둘\n다) 셋", 3, id="korean"),
            pytest.param("क) एक\nख) दो", 2, id="hindi"),
            pytest.param("", 0, id="nothing"),
            pytest.param("Vitamin A) is good", 0, id="one-is-no-choice"),
            pytest.param("plan B. Then plan C. Done", 0, id="begins-with-the-first"),
            pytest.param("A) one\nC) three\nB) two", 0, id="in-order"),
            pytest.param("A) x B) y. Again: A) x B) y C) z", 3, id="the-longest"),
            pytest.param("1) one\n2) two", 0, id="steps-are-no-options"),
            pytest.param("U.S.A. and B.B. King", 0, id="abbreviations"),
        ],
    )
    def test_the_longest_list_counts(self, text: str, number: int) -> None:
        """Labels of one alphabet, from its first, one after the other."""
        assert value(text, of="options") == number


class TestFences:
    @pytest.mark.parametrize(
        ("text", "number"),
        [
            pytest.param("no code", 0, id="none"),
            pytest.param("```py\nx\n```", 1, id="one"),
            pytest.param("```\na\n```\nand\n~~~\nb\n~~~", 2, id="two"),
            pytest.param("```\nnot closed", 1, id="open"),
            pytest.param("> ```\n> a\n> ```", 1, id="quoted"),
            pytest.param("a ``` in a line", 0, id="inside-a-line"),
        ],
    )
    def test_blocks_count(self, text: str, number: int) -> None:
        """A fence stands at the beginning of a line."""
        assert value(text, of="fences") == number


class TestQuestions:
    @pytest.mark.parametrize(
        ("text", "number"),
        [
            pytest.param("Why? How?", 2, id="latin"),
            pytest.param("Why?? Really?!", 1, id="several-ask-once"),
            pytest.param('"Why?" he asked', 1, id="quoted"),
            pytest.param("http://a/b?c=d and x?y:z", 0, id="address-and-code"),
            pytest.param("为什么？怎么办？", 2, id="chinese"),
            pytest.param("لماذا؟", 1, id="arabic"),
            pytest.param("Почему? Как?", 2, id="cyrillic"),
            pytest.param("τι\u037e", 1, id="greek"),
            pytest.param("ทำไม?", 1, id="thai"),
        ],
    )
    def test_question_marks_of_all_scripts_count(self, text: str, number: int) -> None:
        """Where they end something."""
        assert value(text, of="questions") == number


class TestMatches:
    def test_matches_of_a_pattern_are_counted(self) -> None:
        """Case counts, and lines may be meant."""
        text = "- a\n- b\nx - c\n"
        assert value(text, regex=r"(?m)^- ", at_least=2) == 2

    def test_presence_may_reach_over_lines(self) -> None:
        """Without bounds, whether there is a match at all is found out in one look."""
        text = "BEGIN" + "\n" * 20_000 + "END"
        assert read(text, type="structure", regex="(?s)BEGIN.*END").match

    def test_a_match_is_counted_wherever_it_stands(self) -> None:
        """Texts are counted in stretches, which lose nothing that ends with its line."""
        text = "item 12\n" * 900 + "other\n" * 9_000
        assert value(text, regex=r"item \d+\n", at_most=MOST) == 900
        assert value("я" * 9_000 + " " + "12 " * 900, regex=r"\d+", at_most=MOST) == 900

    def test_there_is_an_end_to_counting(self) -> None:
        """More than a thousand are a thousand."""
        assert value("1 " * 5_000, regex=r"\d", at_most=MOST) == MOST
        assert value("so " * 5_000, words=["so"]) == MOST

    def test_words_are_counted_as_wholes(self) -> None:
        """Without regard to case, in any script."""
        assert value("If so, IF not; iffy. Если", words=["if", "если"]) == 3

    def test_a_density_is_for_each_hundred_tokens(self) -> None:
        """It is the same for a text that says the same twice as long."""
        text = "12 apples and 3 pears. " * 40
        once = value(text, regex=r"\d+", measure="density", at_least=1)
        twice = value(text * 2, regex=r"\d+", measure="density", at_least=1)
        assert once is not None
        assert twice == pytest.approx(once, rel=0.02)


class TestSequence:
    @pytest.mark.parametrize(
        ("text", "number"),
        [
            pytest.param("First do this, then that, finally rest.", 3, id="all"),
            pytest.param("Finally, then, first.", 1, id="the-wrong-way-round"),
            pytest.param("First this, next that.", 2, id="an-alternative"),
            pytest.param("Nothing", 0, id="none"),
            pytest.param("then first then then finally", 3, id="what-comes-before-does-not-count"),
        ],
    )
    def test_steps_count_as_far_as_they_come_in_order(self, text: str, number: int) -> None:
        """Each may be one of several words."""
        assert value(text, sequence=["first", ["then", "next"], "finally"]) == number

    def test_by_default_all_are_needed(self) -> None:
        """Or as many as it says."""
        steps = ["先", "然后", "最后"]
        assert read("先洗,然后切,最后煮", type="structure", sequence=steps).match
        assert not read("先洗,然后切", type="structure", sequence=steps).match
        assert read("先洗,然后切", type="structure", sequence=steps, at_least=2).match


class TestBounds:
    @pytest.mark.parametrize(
        ("settings", "match", "score"),
        [
            pytest.param({}, True, 1.0, id="any"),
            pytest.param({"at_least": 4}, False, 0.5, id="half-way"),
            pytest.param({"at_least": 2}, True, 1.0, id="just-enough"),
            pytest.param({"at_most": 1}, False, 0.5, id="twice-too-many"),
            pytest.param({"at_most": 2}, True, 1.0, id="not-too-many"),
            pytest.param({"at_most": 0}, False, 0.0, id="none-wanted"),
            pytest.param({"at_least": 1, "at_most": 3}, True, 1.0, id="between"),
        ],
    )
    def test_the_score_says_how_near_it_is(
        self, settings: dict[str, Any], match: bool, score: float
    ) -> None:
        """1 within the bounds, and less the farther away."""
        reading = read("Why? How?", type="structure", of="questions", **settings)
        assert (reading.match, reading.score, reading.value) == (match, score, 2)

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"of": "fences", "words": ["a"]},
            {"of": "fences", "at_least": 3, "at_most": 2},
            {"of": "fences", "at_least": 2_000},
            {"sequence": ["a", "b"], "measure": "density"},
            {"regex": "("},
            {"words": [""]},
            {"sequence": [[]]},
        ],
        ids=["nothing", "two", "no-room", "too-many", "density", "regex", "blank", "no-choice"],
    )  # fmt: skip
    def test_settings_that_ask_for_nothing_are_refused(self, settings: dict[str, Any]) -> None:
        """So are those that could never hold."""
        with pytest.raises(ValidationError):
            StructureConfig.model_validate({"type": "structure", **settings})
