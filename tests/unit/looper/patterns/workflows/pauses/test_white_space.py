import json
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from looper.patterns.workflows.pauses.ids import Ids, is_ours
from looper.patterns.workflows.pauses.white_space import read, written

IDS = Ids([b"k" * 32])
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ours = st.text(BASE62, min_size=32, max_size=32).map("call_".__add__).filter(is_ours)
blank = st.text(" \t\n\r", max_size=300)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(ours, st.text())
def test_an_id_comes_back(id: str, arguments: str) -> None:
    """Whatever stands before it, and in white space of its own too, is what it was."""
    assert read(arguments + written(id)) == (arguments, id)


@given(st.integers(0, 62**4 - 1))
def test_an_id_that_was_made_comes_back_as_one_that_is_known(number: int) -> None:
    """What is read is the very id, with its tag."""
    state = IDS.state()
    _, id = read("{}" + written(IDS.make(state, number)))
    assert id is not None
    assert IDS.read(id) == state


@given(ours, st.dictionaries(st.text(), values), blank)
def test_json_takes_no_notice(id: str, value: dict[str, object], after: str) -> None:
    """The arguments mean what they meant, though a model had ended them with white space itself."""
    assert json.loads(json.dumps(value) + after + written(id)) == value
    assert len(written(id)) == 111
    assert set(written(id)) <= set(" \t\n\r")


@given(st.text() | blank | st.tuples(st.text(), blank).map("".join))
@example(" " * 111)
@example("{}" + "\n" * 5000)
@example("{}" + " \t\n\r" * 500)
def test_other_white_space_is_left_alone(arguments: str) -> None:
    """What models write by themselves, some of them without an end, is no id."""
    assert read(arguments) == (arguments, None)


@given(ours, st.integers(0, 110), st.sampled_from([" ", "\t", "\n", "\r", "", "x", "\u2003"]))
def test_what_was_changed_is_no_id(id: str, at: int, instead: str) -> None:
    """One other character, or one that is missing, and nothing is read any more."""
    carried = written(id)
    changed = "{}" + carried[:at] + instead + carried[at + 1 :]
    if changed != "{}" + carried:
        assert read(changed) == (changed, None)


@pytest.mark.parametrize("arguments", ["{}", "", " " * 110, "x" * 111])
def test_what_is_too_short_or_no_white_space(arguments: str) -> None:
    """The text is what it was."""
    assert read(arguments) == (arguments, None)


def test_long_arguments_take_no_time() -> None:
    """A megabyte of white space is read by its end."""
    began = time.process_time()
    read(" " * 1_000_000)
    assert time.process_time() - began < 0.5
