"""The record of a run, and what of it an error may tell."""

import pytest

from looper.calling.calls import CallFailed, Failure, Result
from looper.calling.drafts import Draft
from looper.calling.trace import Trace
from tests.fakes.models import chunk, completion, last_chunk, model, refused


def ended(trace: Trace, name: str, error: CallFailed) -> None:
    draft = Draft(model(name), "panel", {}, 0)
    with trace.call(draft) as record:
        record.end(Result(draft.model, "panel", "failed", error=error))


def test_before_any_call_there_is_nothing_to_tell() -> None:
    assert Trace().attempts() is None


def test_what_was_not_understood_is_told() -> None:
    """By the places of its members, beside the call."""
    trace = Trace()
    with trace.call(Draft(model("a"), "panel", {}, 0)) as record:
        record.unread = ("usage.prompt_tokens_details",)
    (call,) = trace.to_dict()["calls"]
    assert call["not_understood"] == ["usage.prompt_tokens_details"]


def test_attempts_are_told_by_model_and_kind_of_end() -> None:
    trace = Trace(full=True)
    ended(trace, "a", refused(429, 7))
    ended(trace, "b", CallFailed(Failure.BROKEN))
    assert trace.attempts() == {
        "attempts": [
            {"model": "a", "result": "failed", "status": 429},
            {"model": "b", "result": "failed"},
        ]
    }


def test_an_attempt_that_broke_the_contract_says_so() -> None:
    """The answer came, and was of no use: without that a client reads that all went well."""
    trace = Trace()
    draft = Draft(model("a"), "final", {}, 0)
    for _ in range(2):
        with trace.call(draft) as record:
            record.end(Result(draft.model, "final", "ok", completion("x", finish="stop")))
    trace.violated(trace.last("a", "final"))
    trace.violated(trace.last("b", "final"))
    assert trace.attempts() == {
        "attempts": [
            {"model": "a", "result": "ok"},
            {"model": "a", "result": "ok", "contract": "broken"},
        ]
    }
    assert [call.get("contract") for call in trace.to_dict()["calls"]] == [None, "broken"]


@pytest.mark.parametrize(
    ("said", "told"), [("stop", "stop"), ("length", "length"), ("MAX_TOKENS", "length")]
)
def test_each_call_says_how_its_answer_ended(said: str, told: str) -> None:
    """Whole and streamed, in OpenAI's words."""
    trace = Trace()
    draft = Draft(model("a"), "final", {}, 0)
    with trace.call(draft) as record:
        record.end(Result(draft.model, "final", "ok", completion("x", finish=said)))
    with trace.call(draft) as record:
        for each in (chunk("x"), chunk(finish=said), last_chunk()):
            record.spoke(each)
    assert [call.get("finish_reason") for call in trace.to_dict()["calls"]] == [told, told]


def test_what_is_told_is_bounded() -> None:
    """A hundred calls are no reason for an error of a hundred lines."""
    trace = Trace()
    for _ in range(100):
        ended(trace, "a", refused(500))
    told = trace.attempts()
    assert told is not None
    assert len(told["attempts"]) == 16
    assert told["more"] == 84
