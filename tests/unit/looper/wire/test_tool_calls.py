from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from looper.wire.chat import Choice, Completion, Reply
from looper.wire.tool_calls import ToolCalls

CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{"}, "extra": 1}
BITS = [{"index": 0, **CALL}, {"index": 0, "function": {"arguments": "}"}}]
bits = st.dictionaries(st.sampled_from(["id", "function", "extra"]), st.text(max_size=2))


def streamed(*calls: dict[str, Any], finish: str | None = None) -> Completion:
    delta = Reply(tool_calls=list(calls) or None)
    return Completion(choices=[Choice(delta=delta, finish_reason=finish)])


@given(st.lists(bits, max_size=3))
def test_what_is_not_allowed_never_comes_through(written: list[dict[str, Any]]) -> None:
    """Nothing of a call is left, and a choice that has made some ends as one that has made none."""
    calls = ToolCalls(allowed=False)
    (choice,) = calls.read(streamed(*written, finish="tool_calls")).choices

    assert choice.delta is not None
    assert not choice.delta.tool_calls
    assert choice.finish_reason == ("stop" if written else "tool_calls")


def test_what_is_allowed_stays_as_it_came() -> None:
    """Members of vendors too, in each bit of it."""
    calls = ToolCalls(allowed=True)
    assert [calls.read(streamed(bit)) for bit in BITS] == [streamed(bit) for bit in BITS]

    whole = Completion(choices=[Choice(message=Reply(tool_calls=[CALL]))])
    assert calls.read(whole) == whole


@pytest.mark.parametrize("function", [None, {}, {"name": ""}, {"name": None}, {"arguments": "{}"}])
def test_what_names_no_tool_is_no_call(function: object) -> None:
    """In a whole answer, where nothing can follow that would name one."""
    message = Reply(tool_calls=[{"id": "1", "function": function}])
    whole = Completion(choices=[Choice(message=message, finish_reason="tool_calls")])
    (choice,) = ToolCalls(allowed=True).read(whole).choices

    assert choice.message == Reply()
    assert choice.finish_reason == "stop"


@pytest.mark.parametrize(
    ("chunks", "finish"),
    [
        pytest.param([streamed(*BITS, finish="stop")], "tool_calls", id="at-once"),
        pytest.param([streamed(*BITS), streamed(finish="stop")], "tool_calls", id="behind"),
        pytest.param([streamed(*BITS), streamed(finish="length")], "length", id="cut"),
        pytest.param([streamed(finish="stop")], "stop", id="no-calls"),
    ],
)
def test_what_has_called_does_not_just_stop(chunks: list[Completion], finish: str) -> None:
    """A client goes by the reason to know that it has tools to run."""
    calls = ToolCalls(allowed=True)
    (*_, last) = [calls.read(chunk) for chunk in chunks]
    assert last.choices[0].finish_reason == finish
