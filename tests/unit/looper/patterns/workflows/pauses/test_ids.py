import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from looper.patterns.workflows.pauses.ids import Forged, Ids, is_ours

KEY, OTHER = b"k" * 32, b"o" * 32
BASE62 = string.ascii_letters + string.digits


@given(st.integers(0, 62**4 - 1))
def test_an_id_says_which_state_it_belongs_to(number: int) -> None:
    """It has 37 characters that every backend takes, and is read back by whoever has the key."""
    ids = Ids([KEY])
    state = ids.state()
    id = ids.make(state, number)

    assert re.fullmatch(r"call_[0-9A-Za-z]{32}", id)
    assert Ids([KEY]).read(id) == state


def test_ids_of_a_state_differ() -> None:
    """Each call has an id of its own, and each state too."""
    ids = Ids([KEY])
    state = ids.state()

    assert len({ids.make(state, number) for number in range(500)}) == 500
    assert len({ids.state() for _ in range(500)}) == 500


@given(st.integers(5, 36), st.sampled_from(BASE62))
def test_no_changed_id_is_taken(at: int, character: str) -> None:
    """One other character anywhere makes an id that is refused."""
    ids = Ids([KEY])
    id = ids.make(ids.state(), 0)
    changed = id[:at] + character + id[at + 1 :]
    if changed != id and is_ours(changed):
        with pytest.raises(Forged):
            ids.read(changed)


@given(st.text(alphabet=BASE62, min_size=32, max_size=32))
def test_no_made_up_id_is_taken(text: str) -> None:
    """What nobody made with our key is forged, or, where others write such ids, none of ours."""
    id = f"call_{text}"
    try:
        assert Ids([KEY]).read(id) is None
        assert not is_ours(id)
    except Forged:
        assert is_ours(id)


@given(st.text(max_size=60))
def test_any_text_is_read(text: str) -> None:
    """Nothing that a client sends breaks the reading."""
    try:
        assert Ids([KEY]).read(text) is None
    except Forged:
        assert is_ours(text)


@pytest.mark.parametrize(
    "id",
    [
        "call_abcdefghijklmnopqrstuvwx",  # OpenAI's  # pragma: allowlist secret
        "chatcmpl-tool-0123456789abcdef0123456789abcdef",  # vLLM's
        "call_0123456789abcdef0123456789abcdef",  # a UUID's
        "a1b2c3d4e",  # Mistral's
        "toolu_01A09q90qw90lq917835lq9",
        "",
    ],
)
def test_others_ids_are_not_ours(id: str) -> None:
    """A conversation with another provider's calls in it is an ordinary request."""
    assert not is_ours(id)
    assert Ids([KEY]).read(id) is None


def test_keys_rotate() -> None:
    """The first key makes ids, each reads them; a key that is gone is a forger's."""
    old = Ids([KEY])
    id = old.make(old.state(), 0)

    assert Ids([OTHER, KEY]).read(id) is not None
    with pytest.raises(Forged):
        Ids([OTHER]).read(id)
