import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from looper.voting.calibration import (
    ALWAYS_ESCALATE,
    Accepted,
    Calibration,
    HeldOut,
    accepted_from,
    allows,
    most_wrong,
    threshold_for,
    thresholds_for,
)


def calibration(*knots: tuple[float, float]) -> Calibration:
    return Calibration(knots=knots)


def row(score: float, answers: int, wrong: int) -> Accepted:
    return Accepted(score=score, answers=answers, wrong=wrong)


class TestKnots:
    @pytest.mark.parametrize(
        ("score", "probability"),
        [(0.0, 0.2), (0.5, 0.2), (0.6, 0.35), (0.7, 0.5), (0.8, 0.7), (0.9, 0.9), (1.0, 0.9)],
    )
    def test_lines_between_and_level_beyond(self, score: float, probability: float) -> None:
        """A score between two knots is on the line that joins them; beyond, the last one counts."""
        found = calibration((0.5, 0.2), (0.7, 0.5), (0.9, 0.9)).probability(score)
        assert found == pytest.approx(probability)

    def test_one_knot_is_one_probability(self) -> None:
        """A model whose score says nothing is right as often as it is."""
        assert calibration((0.5, 0.6)).probability(0.1) == 0.6
        assert calibration((0.5, 0.6)).probability(0.5) == 0.6

    @given(st.floats(-2, 2), st.floats(-2, 2))
    def test_a_better_score_is_never_less_probable(self, one: float, other: float) -> None:
        """What calibration makes of two scores keeps their order."""
        found = calibration((-1.0, 0.1), (0.0, 0.1), (0.3, 0.5), (1.0, 1.0))
        assert found.probability(min(one, other)) <= found.probability(max(one, other))

    @pytest.mark.parametrize(
        "knots", [[], [[0.5, 0.3], [0.5, 0.4]], [[0.5, 0.3], [0.6, 0.2]], [[0.5, 1.1]]]
    )
    def test_knots_must_rise(self, knots: Any) -> None:
        """Knots that fall, stand twice or are no probability are refused."""
        with pytest.raises(ValidationError):
            Calibration.model_validate({"knots": knots})


class TestBound:
    @pytest.mark.parametrize(
        ("wrong", "answers", "bound"),
        [(0, 22, 0.099372), (0, 21, 0.103849), (1, 10, 0.336848), (5, 100, 0.090771), (3, 3, 1.0), (0, 1, 0.9)],
    )  # fmt: skip
    def test_clopper_and_pearson(self, wrong: int, answers: int, bound: float) -> None:
        """The bound is the one in the tables, for a doubt of a tenth."""
        assert most_wrong(wrong, answers) == pytest.approx(bound, abs=1e-6)

    @given(st.integers(1, 200), st.data())
    def test_the_bound_is_above_what_was_seen(self, answers: int, data: st.DataObject) -> None:
        """It is above the share that is wrong, and falls as more answers show the same share."""
        wrong = data.draw(st.integers(0, answers))
        assert wrong / answers <= most_wrong(wrong, answers) <= 1
        assert most_wrong(2 * wrong, 2 * answers) <= most_wrong(wrong, answers) + 1e-9

    @given(st.integers(1, 300), st.floats(0.001, 0.999), st.data())
    def test_what_it_allows(self, answers: int, most: float, data: st.DataObject) -> None:
        """As many wrong ones as leave the bound below the limit, and no more."""
        wrong = data.draw(st.integers(0, answers))
        bound = most_wrong(wrong, answers)
        if abs(bound - most) > 1e-6:
            assert allows(wrong, answers, most) == (bound <= most)

    def test_many_answers_are_no_trouble(self) -> None:
        """Neither the smallest probabilities nor large counts are lost."""
        assert allows(900, 10_000, 0.1)
        assert not allows(1100, 10_000, 0.1)


class TestThreshold:
    def test_the_lowest_that_passes(self) -> None:
        """Of the scores that keep the error below the limit, the lowest escalates least."""
        rows = [row(0.95, 50, 0), row(0.9, 100, 1), row(0.8, 200, 8), row(0.7, 300, 60)]
        assert threshold_for(rows, 0.1) == 0.8

    def test_too_little_data_always_escalates(self) -> None:
        """Twenty-one right answers do not show that fewer than a tenth are wrong."""
        assert threshold_for([row(0.9, 21, 0)], 0.1) == ALWAYS_ESCALATE
        assert threshold_for([row(0.9, 22, 0)], 0.1) == 0.9
        assert threshold_for([], 0.1) == math.inf

    def test_few_answers_at_the_top_are_passed_over(self) -> None:
        """The highest scores have few answers, whatever they show."""
        assert threshold_for([row(0.99, 3, 1), row(0.9, 100, 1)], 0.1) == 0.9

    def test_a_few_at_the_top_that_are_wrong_do_not_end_the_search(self) -> None:
        """What is tried first has answers enough to pass with one of them wrong, where there are so many."""
        rows = [row(0.95, 30, 1), row(0.9, 60, 2), row(0.8, 200, 8)]
        assert not allows(1, 30, 0.1)
        assert threshold_for(rows, 0.1) == 0.8

    def test_what_fails_ends_the_search(self) -> None:
        """A lower score that passes where a higher one failed would be luck."""
        assert threshold_for([row(0.9, 100, 20), row(0.8, 1000, 20)], 0.1) == ALWAYS_ESCALATE

    def test_more_cannot_be_wrong_than_there_are(self) -> None:
        """Impossible counts are refused."""
        with pytest.raises(ValidationError):
            row(0.9, 3, 4)


def stage(*answers: tuple[float, bool]) -> HeldOut:
    return HeldOut(
        sure=tuple(sure for sure, _ in answers),
        right="".join("1" if right else "0" for _, right in answers),
    )


def _right(one: float, other: float) -> float:
    """How probably a second stage that is so sure is right, on a question of which the first was so sure."""
    return float(other ** (1.2 - one))


def _wrong(low: float, high: float) -> float:
    """What is wrong of what a second stage accepts, of the questions that the first does not: the mean over both."""
    cells = [(at + 0.5) / 60 for at in range(60)]
    rights = [_right(low * one, high + (1 - high) * other) for one in cells for other in cells]
    return 1 - sum(rights) / len(rights)


class TestHeldOut:
    def test_equal_scores_stand_together(self) -> None:
        """A threshold takes all of them or none, and every step has some answers more."""
        said = [(0.9, True)] * 15 + [(0.8, False)] * 3 + [(0.7, True)] * 12
        found = accepted_from(said)
        assert [(each.score, each.answers, each.wrong) for each in found] == [
            (0.9, 15, 0),
            (0.7, 30, 3),
        ]
        assert accepted_from([]) == []

    @given(st.lists(st.tuples(st.floats(0.01, 1), st.booleans()), max_size=300))
    def test_steps_count_what_is_accepted(self, said: list[tuple[float, bool]]) -> None:
        """Each says of its score how many there are from there on, and how many of them are wrong."""
        for each in accepted_from(said):
            rights = [right for score, right in said if score >= each.score]
            assert (each.answers, each.wrong) == (len(rights), rights.count(False))

    def test_a_later_stage_is_measured_on_what_comes_to_it(self) -> None:
        """What the first stage accepts makes the second look better than it is where it is needed."""
        easy, hard = [(0.9, True)] * 200, [(0.3, False)] * 100
        first = stage(*easy, *hard)
        second = stage(*[(0.9, True)] * 200, *[(0.9, True), (0.9, False)] * 50)
        assert list(thresholds_for([second], 0.25)) == [0.9]  # a sixth is wrong
        assert list(thresholds_for([first, second], 0.25)) == [0.9, ALWAYS_ESCALATE]  # a half is

    def test_the_promise_is_kept_in_nine_of_ten_data_sets(self) -> None:
        """At either stage, of what comes there, where the truth is known: the second errs more on what is hard."""
        chance = random.Random(0)
        kept, broken = [0, 0], [0, 0]
        for _ in range(300):
            surely = [(chance.random(), chance.random()) for _ in range(400)]
            first = stage(*((one, chance.random() < one) for one, _ in surely))
            second = stage(
                *((other, chance.random() < _right(one, other)) for one, other in surely)
            )
            low, high = thresholds_for([first, second], 0.2)
            # Of what is accepted at the first stage, (1 - low) / 2 is wrong.
            for at, wrong in enumerate(((1 - low) / 2, _wrong(min(low, 1), high))):
                if (low, high)[at] < 1:
                    kept[at] += wrong <= 0.2
                    broken[at] += wrong > 0.2
        assert broken[0] <= 0.15 * (kept[0] + broken[0])
        assert broken[1] <= 0.15 * (kept[1] + broken[1])
        assert min(kept) > 50  # and it accepts something

    def test_silence_is_never_accepted(self) -> None:
        """However low a threshold comes out to be."""
        (threshold,) = thresholds_for([stage(*[(0.0, True)] * 100, *[(0.2, True)] * 30)], 0.1)
        assert threshold == 0.2

    def test_without_stages_there_is_no_threshold(self) -> None:
        assert list(thresholds_for([], 0.1)) == []

    def test_both_are_about_the_same_questions(self) -> None:
        with pytest.raises(ValidationError, match="different numbers"):
            HeldOut(sure=(0.5,), right="11")
