from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.signals import Subject
from looper.tokens import IMAGE, Correction, estimate
from tests.fakes.subjects import read, subject

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}


def tokens(asked: Subject) -> float:
    value = read(asked, type="context").value
    assert value is not None
    return value


class TestSize:
    @pytest.mark.parametrize(
        ("text", "least", "most"),
        [
            pytest.param("word " * 800, 900, 1_100, id="latin"),
            pytest.param("слово " * 800, 2_000, 2_700, id="cyrillic"),
            pytest.param("语言模型" * 250, 900, 1_100, id="chinese"),
            pytest.param("ภาษา" * 250, 900, 1_100, id="thai"),
            pytest.param("كلمة " * 800, 1_600, 2_300, id="arabic"),
        ],
    )
    def test_every_script_has_its_measure(self, text: str, least: int, most: int) -> None:
        """A character of Chinese is about a token, four of English are."""
        assert least <= tokens(subject(text)) <= most

    def test_an_image_does_not_count_by_its_bytes(self) -> None:
        """A hundred kilobytes of base64 are no thirty thousand tokens."""
        asked = subject({"role": "user", "content": [{"type": "text", "text": "What?"}, PICTURE]})
        assert IMAGE < tokens(asked) < IMAGE + 20

    def test_tools_and_their_calls_count(self) -> None:
        """They are part of the prompt."""
        tool = {"type": "function", "function": {"name": "f", "description": "d" * 4_000}}
        call = {"id": "1", "function": {"name": "f", "arguments": "a" * 4_000}}
        said = {"role": "assistant", "content": None, "tool_calls": [call]}
        assert tokens(subject("x", tools=[tool])) > 1_000
        assert tokens(subject("x", said)) > 1_000

    def test_every_turn_counts(self) -> None:
        """Whoever spoke, and with what a template puts around it."""
        assert tokens(subject("a" * 400, {"role": "assistant", "content": "b" * 400})) >= 200

    def test_a_very_long_text_is_taken_from_all_over(self) -> None:
        """Its middle is not taken to be like its ends."""
        ends, middle = "word " * 100_000, "语言模型" * 250_000
        whole = estimate(ends + middle + ends)
        assert whole == pytest.approx(estimate(ends) * 2 + estimate(middle), rel=0.1)


class TestCalibration:
    def test_reports_correct_estimates(self) -> None:
        """Within a request the factor stays as it was when the request came."""
        correction = Correction()
        asked = replace(subject("word " * 1_000), correction=correction.factor)
        before = tokens(asked)
        for _ in range(200):
            correction.learn(1_000, 1_300)
        assert tokens(asked) == before
        corrected = replace(asked, correction=correction.factor)
        assert tokens(corrected) == pytest.approx(before * 1.3, rel=0.01)

    def test_one_report_says_little(self) -> None:
        """A model that counts strangely does not turn everything over."""
        correction = Correction()
        correction.learn(1_000, 10**9)
        assert correction.factor < 1.05

    def test_short_prompts_say_nothing(self) -> None:
        """Of them, most is the template's."""
        correction = Correction()
        correction.learn(10, 100)
        correction.learn(1_000, 0)
        assert correction.factor == 1.0

    @given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(-1, 10**12)), max_size=500))
    def test_the_factor_stays_within_bounds(self, reports: list[tuple[int, int]]) -> None:
        """Whatever models report."""
        correction = Correction()
        for estimated, reported in reports:
            correction.learn(estimated, reported)
        assert 0.5 <= correction.factor <= 2.0
