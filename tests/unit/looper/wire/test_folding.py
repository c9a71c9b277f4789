import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from looper.wire.folding import folded, plain


@pytest.mark.parametrize(
    "written",
    [
        "PASSWORD",
        "ｐａｓｓｗｏｒｄ",
        "ＰＡＳＳＷＯＲＤ",
        "pass\u200bword",
        "\ufeffp\u00ada\u2060s\u200ds\u200cw\u034fo\u202er\ufe0fd",
        "pass\U000e0020word",
        "𝐩𝐚𝐬𝐬𝐰𝐨𝐫𝐝",
        "ⓟⓐⓢⓢⓦⓞⓡⓓ",
        "paſſword",
    ],
)
def test_one_word_has_one_form(written: str) -> None:
    """However it is written, as far as Unicode knows."""
    assert folded(written) == "password"


@pytest.mark.parametrize("text", ["Straße", "ﬁx", "ΛΌΓΟΣ", "İ", "가", "한", "がカﾞ", "e\u0301"])
def test_what_is_composed_is_what_its_parts_are(text: str) -> None:
    """Letters with their marks, and syllables, whichever way they are written."""
    assert folded(unicodedata.normalize("NFD", text)) == folded(text)
    assert folded("x" * 255 + unicodedata.normalize("NFD", text)).endswith(folded(text))


@given(st.text())
def test_folding_once_is_enough(text: str) -> None:
    """What is folded stays as it is, and what is plain too."""
    assert folded(folded(text)) == folded(text)
    assert plain(plain(text)) == plain(text)


def test_marks_in_a_row_do_not_stall() -> None:
    """Of so many, Python's own normalisation would take seconds."""
    began = time.process_time()
    folded("a" + "\u0300\u0316" * 65_536)
    assert time.process_time() - began < 1
