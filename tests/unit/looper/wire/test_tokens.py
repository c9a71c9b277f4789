import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from looper.wire.tokens import MARK, estimate, fit

# Of every script, half characters, and whatever else Python calls a text.
texts = st.text(st.characters(codec=None, exclude_categories=())) | st.text(
    st.sampled_from("ab \n\t0é我กिन́👍👨\u200d👩\ufe0f\u20e3🏽🇨🇦\ud83d\ude00"), max_size=80
)


class TestEstimate:
    @pytest.mark.parametrize(
        ("text", "tokens"),
        [
            pytest.param("", 0, id="nothing"),
            pytest.param("a", 1, id="one-letter"),
            pytest.param("What is the capital?", 5, id="english"),
            pytest.param("größe", 2, id="german"),
            pytest.param("привет!!", 4, id="russian"),
            pytest.param("שלום", 2, id="hebrew"),
            pytest.param("我们去北京", 5, id="chinese"),
            pytest.param("こんにちは", 5, id="japanese"),
            pytest.param("สวัสดี", 6, id="thai"),
            pytest.param("नमस्ते", 6, id="hindi"),
            pytest.param("👍", 2, id="emoji"),
            pytest.param("\ud83d", 1, id="half-a-character"),
            pytest.param("a" * 4 + "é" * 2 + "我" + "👍", 5, id="all-together"),
        ],
    )
    def test_goes_by_script(self, text: str, tokens: int) -> None:
        """What tokenisers take about so many tokens for."""
        assert estimate(text) == tokens

    @given(texts, texts)
    def test_more_text_is_never_fewer_tokens(self, one: str, other: str) -> None:
        """Whatever is put behind a text."""
        assert estimate(one + other) >= max(estimate(one), estimate(other))

    @given(texts, texts)
    def test_of_two_texts_is_the_sum_of_both(self, one: str, other: str) -> None:
        """But for one token by rounding, so that the parts of a prompt can be added up."""
        assert estimate(one + other) <= estimate(one) + estimate(other) <= estimate(one + other) + 1

    @given(texts)
    def test_is_never_more_than_the_bytes(self, text: str) -> None:
        """No tokeniser has more tokens than bytes."""
        assert 0 <= estimate(text) <= len(text.encode("utf-8", "surrogatepass"))

    def test_of_a_megabyte_is_quick(self) -> None:
        """It is asked for with every request."""
        began = time.process_time()
        estimate("aé我👍" * 100_000)
        assert time.process_time() - began < 2


class TestFit:
    def test_what_fits_stays(self) -> None:
        """Exactly the limit is no cut."""
        text = "x" * 400
        assert fit(text, 100) is text

    def test_head_and_tail_are_kept_around_a_mark(self) -> None:
        """Questions stand first and results last; where something is missing, it is said."""
        cut = fit("BEGIN " + "middle " * 1000 + " END", 100)
        head, mark, tail = cut.partition(MARK)
        assert mark
        assert head.startswith("BEGIN ")
        assert tail.endswith(" END")
        assert len(head) > len(tail) > len(head) / 2

    @pytest.mark.parametrize("unit", ["word ", "é", "我", "👍", "กิ"])
    def test_uses_the_room_that_there_is(self, unit: str) -> None:
        """Of what may be kept, most is, in every script."""
        cut = fit(unit * 5000, 500)
        assert 450 <= estimate(cut) <= 500

    @given(texts, st.integers(-5, 60))
    def test_never_exceeds(self, text: str, tokens: int) -> None:
        """Whatever the text, and however little room there is."""
        assert estimate(fit(text, tokens)) <= max(tokens, 0)

    @given(texts, st.integers(0, 60))
    def test_a_second_time_changes_nothing(self, text: str, tokens: int) -> None:
        """What was cut is not cut again."""
        once = fit(text, tokens)
        assert fit(once, tokens) == once

    @given(texts, st.integers(0, 60))
    def test_keeps_only_what_was_there(self, text: str, tokens: int) -> None:
        """A cut is the text, or nothing, or its beginning, the mark and its end."""
        cut = fit(text, tokens)
        if cut not in ("", text):
            at = cut.index(MARK)
            head, tail = cut[:at], cut[at + len(MARK) :]
            assert text.startswith(head)
            assert text.endswith(tail)
            assert len(head) + len(tail) < len(text)

    @pytest.mark.parametrize(
        "character",
        [
            pytest.param("e\u0301", id="an-accent"),
            pytest.param("e\u0301\u0323\u0308", id="several-accents"),
            pytest.param("नि", id="a-hindi-vowel"),
            pytest.param("กิ่", id="thai-vowel-and-tone"),
            pytest.param("கி", id="tamil"),
            pytest.param("1\ufe0f\u20e3", id="a-keycap"),
            pytest.param("❤\ufe0f", id="a-heart-in-colour"),
            pytest.param("👍🏽", id="a-tone-of-skin"),
            pytest.param("👨\u200d👩\u200d👧", id="a-family"),
        ],
    )
    def test_no_character_is_parted_from_its_marks(self, character: str) -> None:
        """Neither side of the cut begins or ends within what a reader sees as one character."""
        for tokens in range(20, 50):
            head, _, tail = fit("x" + character * 120 + "y", tokens).partition(MARK)
            head, tail = head.removeprefix("x"), tail.removesuffix("y")
            assert head == character * (len(head) // len(character))
            assert tail == character * (len(tail) // len(character))

    @given(st.text(st.sampled_from("ae\u0301\u0323 "), min_size=1), st.integers(0, 40))
    def test_no_side_begins_with_a_mark(self, text: str, tokens: int) -> None:
        """What stands behind the cut has all of its first character."""
        cut = fit("x" + text, tokens)
        if MARK in cut:
            tail = cut.partition(MARK)[2]
            assert not tail or not unicodedata.combining(tail[0])

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param("word " * 200_000, id="words"),
            pytest.param("我" * 1_000_000, id="chinese"),
            pytest.param("a" + "\u0301" * 300_000, id="one-letter-with-countless-accents"),
            pytest.param("\u200d" * 300_000, id="countless-joiners"),
            pytest.param("\ud800" * 1_000_000, id="half-characters"),
            pytest.param("a" * 500_000 + "👍" * 500_000, id="cheap-first"),
            pytest.param("👍" * 500_000 + "a" * 500_000, id="dear-first"),
        ],
    )
    def test_a_megabyte_is_quick(self, text: str) -> None:
        """Whatever a model sends cannot hold up other requests."""
        began = time.process_time()
        cut = fit(text, 1000)
        assert time.process_time() - began < 2
        assert estimate(cut) <= 1000
