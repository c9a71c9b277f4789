"""Headers of clients that go with the calls made for them, and traces that are continued."""

import re

import pytest

from looper.calling.propagation import FORWARDED, child, forwarded, trail

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def test_only_what_is_named_goes_on() -> None:
    headers = {"x-request-id": "r", "authorization": "Bearer sk-secret", "x-tenant": "acme"}
    assert forwarded(headers, FORWARDED) == {"x-request-id": "r"}
    assert forwarded(headers, ["x-tenant", "x-other"]) == {"x-tenant": "acme"}
    assert forwarded(headers, []) == {}


@pytest.mark.parametrize(
    ("said", "read"),
    [
        pytest.param(PARENT, PARENT, id="good"),
        pytest.param(f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-00", id="not-sampled"),
        pytest.param(f"01-{TRACE}-{SPAN}-01", PARENT, id="a-later-version"),
        pytest.param(f"01-{TRACE}-{SPAN}-01-more", PARENT, id="a-later-version-with-more"),
        pytest.param(f"00-{TRACE}-{SPAN}-01-more", None, id="more-than-its-version-has"),
        pytest.param(f"ff-{TRACE}-{SPAN}-01", None, id="no-version"),
        pytest.param(f"00-{TRACE.upper()}-{SPAN}-01", None, id="upper-case"),
        pytest.param(f"00-{'0' * 32}-{SPAN}-01", None, id="no-trace"),
        pytest.param(f"00-{TRACE}-{'0' * 16}-01", None, id="no-span"),
        pytest.param(f"00-{TRACE[1:]}-{SPAN}-01", None, id="short"),
        pytest.param(f"00-{TRACE}-{SPAN}", None, id="no-flags"),
        pytest.param(f"{PARENT}\n", None, id="a-line-end"),
        pytest.param(f"{PARENT},{PARENT}", None, id="twice"),
        pytest.param("", None, id="empty"),
    ],
)
def test_a_trace_is_continued_if_it_is_one(said: str, read: str | None) -> None:
    """What is none is dropped, and the vendors' state with it."""
    kept = forwarded({"traceparent": said, "tracestate": "v=1"}, FORWARDED)
    assert kept == ({} if read is None else {"traceparent": read, "tracestate": "v=1"})


def test_state_without_a_trace_is_dropped() -> None:
    assert forwarded({"tracestate": "v=1"}, FORWARDED) == {}


def test_every_call_is_a_span_of_its_own() -> None:
    """Of the same trace, with the same flags."""
    headers = {"traceparent": PARENT, "x-request-id": "r"}
    calls = [child(headers) for _ in range(20)]
    for sent, span in calls:
        assert sent["traceparent"] == f"00-{TRACE}-{span}-01"
        assert sent["x-request-id"] == "r"
        assert re.fullmatch("[0-9a-f]{16}", span or "")
    assert len({span for _, span in calls} | {SPAN}) == 21
    assert headers["traceparent"] == PARENT


def test_without_a_trace_there_is_no_span() -> None:
    assert child({"x-request-id": "r"}) == ({"x-request-id": "r"}, None)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, {}),
        ({"x-request-id": "mine", "traceparent": "none"}, {"request_id": "mine"}),
        ({"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}, {"trace_id": "a" * 32}),
    ],
)
def test_a_request_is_known_by_its_trace_and_its_name(
    headers: dict[str, str], expected: dict[str, str]
) -> None:
    assert trail(headers) == expected
