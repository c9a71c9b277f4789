import pytest
from hypothesis import given
from hypothesis import strategies as st

from looper.contract.base import visible
from looper.wire.tokens import estimate, fit_all


@pytest.mark.parametrize(
    ("text", "left"),
    [
        pytest.param("yes", "yes", id="none"),
        pytest.param("<think>hm</think>yes", "yes", id="before"),
        pytest.param("a<think>hm</think>b<think>x</think>c", "a b c", id="several"),
        pytest.param("yes<think>hm", "yes", id="never-ends"),
        pytest.param("hm</think>yes", "yes", id="opened-in-the-prompt"),
        pytest.param("<think>only</think>", "", id="nothing-else"),
        pytest.param(
            "a < b and <thinkpad> is no tag", "a < b and <thinkpad> is no tag", id="alike"
        ),
    ],
)
def test_thoughts_are_no_part_of_an_answer(text: str, left: str) -> None:
    """What stands between the tags of thoughts is taken out, however they are opened or left open."""
    assert visible(text) == left


@given(st.text())
def test_a_text_without_tags_stays_as_it_is(text: str) -> None:
    """Nothing is taken out of what is no thought."""
    if "think" not in text.casefold():
        assert visible(text) == text


@given(st.lists(st.text(max_size=400), max_size=6), st.integers(0, 500))
def test_texts_share_their_room(texts: list[str], tokens: int) -> None:
    """Cut texts fit together, a text that is short enough for its share stays whole, and their number is the same."""
    cut = fit_all(texts, tokens)
    assert len(cut) == len(texts)
    if sum(map(estimate, texts)) <= tokens:
        assert cut == texts
    else:
        assert sum(map(estimate, cut)) <= tokens
    share = tokens // max(1, len(texts))
    for before, after in zip(texts, cut, strict=True):
        if estimate(before) <= share:
            assert after == before
