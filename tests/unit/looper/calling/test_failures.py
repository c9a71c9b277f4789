from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from looper.calling.calls import (
    RATE_LIMITED,
    TOO_LARGE,
    CallFailed,
    Failure,
    Result,
    State,
    nothing_said,
)
from looper.calling.failures import why_no_answer
from looper.errors import LooperError, NothingButThoughts
from looper.wire.chat import Choice
from tests.fakes.models import completion, model, refused

MODEL = model("m")
TIMEOUT, BUDGET = CallFailed(Failure.TIMEOUT), CallFailed(Failure.BUDGET)
CONNECT, BROKEN, UNUSABLE = (
    CallFailed(kind) for kind in (Failure.CONNECT, Failure.BROKEN, Failure.UNUSABLE)
)


def result(state: State, error: CallFailed | None = None) -> Result:
    return Result(MODEL, "panel", state, completion("x") if state == "ok" else None, error)


TOO_LONG = refused(400, body=b'{"error": {"code": "context_length_exceeded"}}')
FILTERED = refused(400, body=b'{"error": {"code": "content_filter"}}')
UNSUPPORTED = refused(400, body=b'{"error": {"code": "unsupported_value"}}')
UNSAID = nothing_said([Choice(finish_reason="content_filter")])
NO_ROOM = nothing_said([Choice(finish_reason="length")])
TOO_FAST = CallFailed(Failure.STATUS, status=413, reason=RATE_LIMITED)
LARGE = CallFailed(Failure.UNUSABLE, reason=TOO_LARGE)
NO_VISION = CallFailed(Failure.UNSUITABLE, reason="vision")
NO_WINDOW = CallFailed(Failure.UNSUITABLE, reason="context_window")
NOT_STARTED, CANCELLED, LATE = result("not_started"), result("cancelled"), result("timed_out")
UNAFFORDABLE = result("not_started", BUDGET)


@pytest.mark.parametrize(
    ("outcomes", "status", "code"),
    [
        pytest.param([CONNECT], 502, "upstream_failed", id="unreachable"),
        pytest.param([TOO_FAST], 429, "rate_limited", id="quota-with-413"),
        pytest.param([TOO_FAST, refused(429)], 429, "rate_limited", id="quota-with-both"),
        pytest.param([NO_ROOM, UNUSABLE], 502, "upstream_failed", id="no-room-and-garbage"),
        pytest.param([BROKEN], 502, "upstream_failed", id="cut"),
        pytest.param([UNUSABLE], 502, "upstream_failed", id="garbage"),
        pytest.param([refused(500)], 502, "upstream_failed", id="500"),
        pytest.param([refused(503)], 502, "upstream_failed", id="503"),
        pytest.param([refused(301)], 502, "upstream_failed", id="redirect"),
        pytest.param([refused(429)], 429, "rate_limited", id="429"),
        pytest.param([refused(429), refused(429)], 429, "rate_limited", id="all-429"),
        pytest.param([refused(429), refused(500)], 502, "upstream_failed", id="429-and-500"),
        pytest.param([refused(429), CONNECT], 502, "upstream_failed", id="429-and-unreachable"),
        pytest.param([refused(400)], 400, "invalid_request", id="400"),
        pytest.param([refused(400), refused(422)], 400, "invalid_request", id="refused"),
        pytest.param([TOO_LONG], 400, "context_length_exceeded", id="too-long"),
        pytest.param([TOO_LONG, refused(413)], 400, "context_length_exceeded", id="all-too-long"),
        pytest.param([TOO_LONG, NO_WINDOW], 400, "context_length_exceeded", id="too-long-here-and-there"),
        pytest.param([TOO_LONG, refused(400)], 400, "context_length_exceeded", id="too-long-and-no-reason"),
        pytest.param([FILTERED, UNSAID], 400, "content_filter", id="filtered"),
        pytest.param([NO_VISION], 400, "unsupported_by_model", id="unsuitable"),
        pytest.param([NO_VISION, UNSUPPORTED], 400, "unsupported_by_model", id="unsupported"),
        pytest.param([TOO_LONG, FILTERED], 400, "invalid_request", id="each-its-own-reason"),
        pytest.param([TOO_LONG, NO_VISION, FILTERED], 400, "invalid_request", id="three-reasons"),
        pytest.param([TOO_LONG, refused(500)], 502, "upstream_failed", id="too-long-and-500"),
        pytest.param([TOO_LONG, refused(401)], 502, "upstream_failed", id="too-long-and-401"),
        pytest.param([NO_WINDOW, refused(429)], 429, "rate_limited", id="unsuitable-and-429"),
        pytest.param([NO_VISION, refused(401)], 502, "upstream_misconfigured", id="unsuitable-and-401"),
        pytest.param([refused(403, body=b"was flagged"), FILTERED], 400, "content_filter", id="filtered-by-403"),
        pytest.param([refused(400), refused(500)], 502, "upstream_failed", id="400-and-500"),
        pytest.param([refused(400), TIMEOUT], 502, "upstream_failed", id="400-and-timeout"),
        pytest.param([refused(401)], 502, "upstream_misconfigured", id="401"),
        pytest.param([refused(401), refused(403), refused(404)], 502, "upstream_misconfigured", id="misconfigured"),
        pytest.param([refused(401), refused(400)], 502, "upstream_failed", id="401-and-400"),
        pytest.param([LARGE, LARGE], 502, "answer_too_large", id="too-large"),
        pytest.param([LARGE, BROKEN], 502, "upstream_failed", id="too-large-and-cut"),
        pytest.param([TIMEOUT], 504, "deadline_exceeded", id="timeout"),
        pytest.param([CallFailed(Failure.TIMEOUT, status=504)], 504, "deadline_exceeded", id="504"),
        pytest.param([LATE, result("timed_out", TIMEOUT)], 504, "deadline_exceeded", id="all-late"),
        pytest.param([LATE, NOT_STARTED], 504, "deadline_exceeded", id="late-and-never-begun"),
        pytest.param([LATE, CONNECT], 502, "upstream_failed", id="late-and-unreachable"),
        pytest.param([BUDGET], 402, "budget_exhausted", id="budget"),
        pytest.param([UNAFFORDABLE, UNAFFORDABLE], 402, "budget_exhausted", id="all-unaffordable"),
        pytest.param([UNAFFORDABLE, result("failed", CONNECT)], 502, "upstream_failed", id="unaffordable-and-down"),
        pytest.param([result("failed", refused(429)), CANCELLED], 429, "rate_limited", id="429-and-cancelled"),
        pytest.param([CANCELLED, NOT_STARTED], 502, "upstream_failed", id="nothing-to-go-by"),
        pytest.param([], 502, "upstream_failed", id="nobody"),
    ],
)  # fmt: skip
def test_what_went_wrong_with_all_is_what_the_client_reads(
    outcomes: list[Result | CallFailed], status: int, code: str
) -> None:
    """One kind of failure gives its own error; a mixture is the upstreams' failure."""
    error = why_no_answer(outcomes)
    assert isinstance(error, LooperError)
    assert (error.status, error.code) == (status, code)


@pytest.mark.parametrize(
    "refusal", [refused(400), refused(401), refused(429)], ids=["400", "401", "429"]
)
def test_what_went_wrong_with_some_is_not_said_of_all(refusal: CallFailed) -> None:
    """Where somebody answered, it is not true that every model refused."""
    error = why_no_answer([result("ok"), result("failed", refusal)])
    assert (error.status, error.code) == (502, "upstream_failed")


@pytest.mark.parametrize(
    ("after", "seconds"),
    [
        pytest.param([5, 3, 9], 3, id="smallest"),
        pytest.param([None, 7], 7, id="unknown-beside-known"),
        pytest.param([None, None], 60, id="unknown"),
        pytest.param([300], 60, id="at-most-a-minute"),
        pytest.param([300, 90], 60, id="all-above-a-minute"),
        pytest.param([0], 1, id="at-least-a-second"),
        pytest.param([0, 30], 1, id="at-once-beside-later"),
    ],
)
def test_retry_after_is_the_smallest_within_reason(after: list[int | None], seconds: int) -> None:
    """A client may come back when the first of the models is free again, and at the latest in a minute."""
    error = why_no_answer([refused(429, each) for each in after])
    assert error.retry_after == seconds


@pytest.mark.parametrize(
    ("quorum", "seconds"),
    [
        pytest.param(1, 3, id="one"),
        pytest.param(2, 5, id="two"),
        pytest.param(3, 9, id="all"),
        pytest.param(9, 9, id="more-than-there-are"),
    ],
)
def test_retry_after_lets_as_many_answer_as_it_takes(quorum: int, seconds: int) -> None:
    error = why_no_answer([refused(429, each) for each in (5, 9, 3)], quorum=quorum)
    assert error.retry_after == seconds


outcomes = st.one_of(
    st.builds(
        refused,
        st.sampled_from([400, 401, 403, 404, 413, 418, 422, 429, 500, 503]),
        st.none() | st.integers(0, 10**6),
        st.sampled_from([b"", b"was flagged", b"unsupported", b"context length is"]),
    ),
    st.sampled_from([TIMEOUT, BUDGET, CONNECT, BROKEN, UNUSABLE, UNSAID, NO_VISION, NO_WINDOW]),
    st.sampled_from([NOT_STARTED, CANCELLED, LATE, UNAFFORDABLE, result("ok")]),
)
TOLD = {
    *("context_length_exceeded", "content_filter", "unsupported_by_model", "invalid_request"),
    *("upstream_failed", "upstream_misconfigured", "rate_limited", "budget_exhausted"),
    "deadline_exceeded",
}


@given(st.lists(outcomes, max_size=6), st.integers(1, 6), st.randoms())
def test_whatever_went_wrong_is_told_in_a_word_of_ours(
    ends: list[Result | CallFailed], quorum: int, random: Random
) -> None:
    """The same one for the same ends in any order; and who is told to come back is told when."""
    error = why_no_answer(ends, quorum=quorum)
    assert error.code in TOLD
    assert (error.retry_after is not None) == (error.code == "rate_limited")
    assert error.retry_after is None or 1 <= error.retry_after <= 60
    again = why_no_answer(random.sample(ends, len(ends)), quorum=quorum)
    assert (again.code, again.message, again.retry_after) == (
        error.code,
        error.message,
        error.retry_after,
    )


def test_only_if_all_thought_to_the_end_it_is_an_answer() -> None:
    """Which is an empty one, as models that think give it."""
    thought = why_no_answer([NO_ROOM, result("unusable", NO_ROOM), NO_VISION])
    assert isinstance(thought, NothingButThoughts)
    assert not isinstance(why_no_answer([NO_ROOM, refused(500)]), NothingButThoughts)
    assert not isinstance(why_no_answer([NO_ROOM], everybody=False), NothingButThoughts)


def test_only_rate_limits_say_when_to_come_back() -> None:
    """What is broken is not mended by waiting for a time that nobody knows."""
    assert why_no_answer([refused(500, 5)]).retry_after is None
    assert why_no_answer([refused(503, 5), refused(429, 5)]).retry_after is None


def test_no_error_says_what_an_upstream_said() -> None:
    """The text is ours: it names no model, no status and no place."""
    for outcome in (refused(418), refused(429, 5), CONNECT, TIMEOUT, BUDGET):
        said = why_no_answer([outcome]).to_json().decode()
        assert "418" not in said
        assert MODEL.name not in said.split('"message"')[1].split('"type"')[0].split()


UNNAMED = refused(400, body=b"not supported")


def unsupported(member: str) -> CallFailed:
    return CallFailed(Failure.STATUS, status=400, refusal="unsupported_by_model", param=member)


@pytest.mark.parametrize(
    ("outcomes", "words", "param"),
    [
        pytest.param([CONNECT], "could not be reached", None, id="unreachable"),
        pytest.param([CONNECT, CallFailed(Failure.CONNECT, status=503)], "could not be reached", None, id="dead"),
        pytest.param([CONNECT, NO_VISION], "could not be reached", None, id="dead-or-unsuitable"),
        pytest.param([CONNECT, UNUSABLE], "usable answers", None, id="dead-and-garbage"),
        pytest.param([result("ok"), CONNECT], "usable answers", None, id="too-few-as-others-are-dead"),
        pytest.param([UNUSABLE], "usable answers", None, id="garbage"),
        pytest.param([CANCELLED], "usable answers", None, id="nobody-failed"),
        pytest.param([NO_VISION], "messages", "messages", id="vision"),
        pytest.param([unsupported("seed"), unsupported("seed")], "`seed`", "seed", id="one-member"),
        pytest.param([unsupported("seed"), UNNAMED], "`seed`", "seed", id="named-once"),
        pytest.param([unsupported("seed"), unsupported("n")], "cannot do", None, id="two-members"),
        pytest.param([UNNAMED], "cannot do", None, id="unnamed"),
    ],
)  # fmt: skip
def test_the_words_say_what_it_was(
    outcomes: list[Result | CallFailed], words: str, param: str | None
) -> None:
    """Who is not there has given no unusable answer, and what is not supported has a name."""
    error = why_no_answer(outcomes)
    assert words in error.message
    assert error.param == param
