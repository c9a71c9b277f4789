import json
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from looper.calling.calls import CallFailed, Failure, usable
from looper.calling.function_calls import FunctionCalls
from looper.wire.chat import Completion
from looper.wire.deltas import Gathering

CALL = {"name": "f", "arguments": '{"x": 1}'}


def read(*chunks: dict[str, Any] | Sequence[dict[str, Any]]) -> list[Completion]:
    """What is made of chunks, each with the one choice or the choices that are given."""
    calls = FunctionCalls()
    said = [list(chunk) if isinstance(chunk, Sequence) else [chunk] for chunk in chunks]
    return [
        calls.read(msgspec.json.decode(json.dumps({"choices": choices}), type=Completion))
        for choices in said
    ]


def streamed(*deltas: dict[str, Any], index: int = 0) -> list[dict[str, Any]]:
    return [{"index": index, "delta": delta} for delta in deltas]


def calls_in(completions: Sequence[Completion], index: int = 0) -> list[dict[str, Any]]:
    replies = [
        choice.delta or choice.message
        for completion in completions
        for choice in completion.choices
        if choice.index == index
    ]
    return [call for reply in replies if reply for call in reply.tool_calls or ()]


def test_a_whole_answer_calls_a_tool() -> None:
    """The function is the tool's, the id is new, and the answer is one that can be used."""
    message = {"role": "assistant", "content": None, "function_call": CALL}
    (answer,) = read({"message": message, "finish_reason": "function_call"})
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message is not None
    assert choice.message.function_call is None
    [call] = choice.message.tool_calls or []
    assert re.fullmatch(r"call_[0-9a-f]{24}", call.pop("id"))
    assert call == {"type": "function", "function": CALL}
    assert usable(answer)


def test_a_streamed_answer_calls_one_tool() -> None:
    """Only the first bit has the id, so that whoever joins them has one call."""
    bits = streamed(
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ""}},
        {"function_call": {"arguments": '{"x"'}},
        {"function_call": {"arguments": ": 1}"}},
    )
    answer = read(*bits, {"delta": {}, "finish_reason": "function_call"})
    calls = calls_in(answer)
    assert [call["index"] for call in calls] == [0, 0, 0]
    assert ["id" in call for call in calls] == [True, False, False]
    gathering = Gathering()
    for chunk in answer:
        gathering.add(chunk)
    (choice,) = gathering.completion().choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message is not None
    [call] = choice.message.tool_calls or []
    assert call["function"] == CALL


def test_each_choice_has_its_own_call() -> None:
    """Two choices in one answer, and in one stream, have ids that differ."""
    two = [{"index": at, "message": {"function_call": CALL}} for at in (0, 1)]
    for answer in (
        read(two),
        read(*streamed({"function_call": CALL}, index=1), *streamed({"function_call": CALL})),
    ):
        ids = {calls_in(answer, at)[0]["id"] for at in (0, 1)}
        assert len(ids) == 2  # fmt: skip


@pytest.mark.parametrize(
    "choice",
    [
        pytest.param({"message": {"content": "hi"}, "finish_reason": "stop"}, id="text"),
        pytest.param({"delta": {"content": "hi"}}, id="bit"),
        pytest.param({"message": {"tool_calls": [], "function_call": None}}, id="no-tools"),
        pytest.param({"message": None}, id="nothing"),
    ],
)
def test_another_answer_is_the_same(choice: dict[str, Any]) -> None:
    """What calls no function stays the very object."""
    completion = msgspec.convert({"choices": [choice]}, Completion)
    assert FunctionCalls().read(completion) is completion


@pytest.mark.parametrize(
    "message",
    [
        pytest.param({"content": "hi", "function_call": {}}, id="nothing-in-it"),
        pytest.param({"tool_calls": [{"id": "a"}], "function_call": CALL}, id="beside-tools"),
    ],
)
def test_tools_are_what_counts(message: dict[str, Any]) -> None:
    """Of servers that say it in both ways the newer one is read, and an empty call is none."""
    (answer,) = read({"message": message})
    said = answer.choices[0].message
    assert said is not None
    assert (said.tool_calls, said.function_call) == (message.get("tool_calls"), None)


def test_the_end_alone_is_read_too() -> None:
    """The chunk that ends a stream has no delta worth the name."""
    (answer,) = read({"delta": {}, "finish_reason": "function_call"})
    assert answer.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        pytest.param('{"x": 1}', '{"x": 1}', id="text"),
        pytest.param({"x": "é"}, '{"x":"é"}', id="object"),
        pytest.param([1, 2], "[1,2]", id="list"),
        pytest.param({}, "{}", id="empty"),
    ],
)
@pytest.mark.parametrize("older", [False, True], ids=["tool", "function"])
def test_arguments_are_a_text(arguments: object, text: str, older: bool) -> None:
    """Some servers write the object in its place."""
    function = {"name": "f", "arguments": arguments}
    message = {"function_call": function} if older else {"tool_calls": [{"function": function}]}
    (call,) = calls_in(read({"message": message}))
    assert call["function"] == {"name": "f", "arguments": text}


def test_what_a_custom_tool_is_given_is_a_text() -> None:
    """It is where functions have arguments, and as some servers write it."""
    custom = {"type": "custom", "custom": {"name": "py", "input": ["1+1"]}}
    (call,) = calls_in(read({"message": {"tool_calls": [custom]}}))
    assert call == {"type": "custom", "custom": {"name": "py", "input": '["1+1"]'}}


def test_a_call_is_as_it_came() -> None:
    """Members of a vendor's own are kept, and an index that is null is none."""
    own = {
        "id": "a",
        "type": "function",
        "function": {"name": "f", "arguments": "{}", "x": 1},
        "y": [2],
    }
    assert calls_in(read({"message": {"tool_calls": [own]}})) == [own]
    assert calls_in(read({"message": {"tool_calls": [{**own, "index": None}]}})) == [own]
    assert calls_in(read({"delta": {"tool_calls": [{**own, "index": 1}]}})) == [{**own, "index": 1}]


@pytest.mark.parametrize(
    "call",
    [
        pytest.param({"function": "f"}, id="function"),
        pytest.param({"function": {"name": 1}}, id="name"),
        pytest.param({"function": {"arguments": 1}}, id="arguments"),
        pytest.param({"custom": "f"}, id="custom"),
        pytest.param({"custom": {"input": 1}}, id="input"),
        pytest.param({"index": "0"}, id="index"),
        pytest.param({"id": 1}, id="id"),
    ],
)
def test_what_nobody_can_make_sense_of_is_no_answer(call: dict[str, Any]) -> None:
    """The call has failed, and another model may answer."""
    with pytest.raises(CallFailed) as failed:
        read({"message": {"tool_calls": [call]}})
    assert failed.value.failure is Failure.UNUSABLE
