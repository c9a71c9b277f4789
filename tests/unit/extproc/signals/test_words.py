from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.signals.words import count, find, is_spelt, similar, spelling

thorough = settings(deadline=None, max_examples=500)
letters = st.text("abc", max_size=7)


def faults(one: str, other: str) -> int:
    """The optimal string alignment distance, by its table."""
    table = [[max(i, j) for j in range(len(other) + 1)] for i in range(len(one) + 1)]
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            table[i][j] = min(
                table[i - 1][j] + 1,
                table[i][j - 1] + 1,
                table[i - 1][j - 1] + (one[i - 1] != other[j - 1]),
            )
            if i > 1 and j > 1 and one[i - 1] == other[j - 2] and one[i - 2] == other[j - 1]:
                table[i][j] = min(table[i][j], table[i - 2][j - 2] + 1)
    return table[-1][-1]


class TestSimilar:
    @thorough
    @given(letters, letters, st.integers(0, 2))
    def test_agrees_with_the_table(self, one: str, other: str, distance: int) -> None:
        """Letters wrong, missing, too many or swapped are counted as the textbook counts them."""
        assert similar(one, other, distance) == (faults(one, other) <= distance)

    @thorough
    @given(letters, letters, st.integers(0, 2))
    def test_goes_both_ways(self, one: str, other: str, distance: int) -> None:
        """Neither word is the right one."""
        assert similar(one, other, distance) == similar(other, one, distance)


class TestFind:
    def test_goes_on_behind_the_last_one(self) -> None:
        """A search may begin anywhere, and says where its word ends."""
        assert find("a", "a ba a") == 1
        assert find("a", "a ba a", 1) == 6
        assert find("a", "a ba a", 6) == -1

    def test_counts_whole_words_as_far_as_it_is_told(self) -> None:
        """Parts of other words do not count."""
        assert count("so", "so also so, so", 9) == 3
        assert count("so", "so " * 50, 9) == 9


class TestSpelling:
    def test_vowel_signs_belong_to_their_words(self) -> None:
        """In scripts whose vowels are marks, a word is not broken at each of them."""
        assert spelling("यह हिन्दी है") == ["यह", "हिन्दी", "है"]
        assert spelling("cafe\u0301 שָׁלוֹם كتبَ") == ["cafe\u0301", "שָׁלוֹם", "كتبَ"]

    def test_a_word_is_one_of_a_script_with_spaces(self) -> None:
        """Of scripts without, nobody can say where a word ends."""
        assert is_spelt("straße")
        assert is_spelt("हिन्दी")
        assert not is_spelt("two words")
        assert not is_spelt("代码")
