"""Body mode BUFFERED, for gateways that cannot stream local replies."""

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from looper.wire.sse import DONE, EventReader
from tests.envoy.conftest import quick_models
from tests.envoy.requests import TEAM, body, chat
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def buffered() -> AsyncIterator[Stack]:
    async with run_stack(quick_models(), {"envoy": {"body_mode": "buffered"}}) as stack:
        yield stack


async def test_routes_with_the_right_length(buffered: Stack) -> None:
    """A routed body is exchanged whole: nothing but the name changes, and its length is right."""
    buffered.simulator.reset()
    sent = body("x" * 300_000)

    async with buffered.session.post(
        f"{buffered.base_url}/chat/completions", data=sent
    ) as response:
        assert response.status == 200
        assert response.headers["x-looper-decision"] == "default"

    (call,) = buffered.simulator.calls
    assert call.body == sent.replace(b"looper/auto", b"small", 1)


async def test_a_team_answers(buffered: Stack) -> None:
    """A team's answer is one message at the end."""
    async with buffered.session.post(
        f"{buffered.base_url}/chat/completions", json=chat(TEAM)
    ) as response:
        answer = await response.json()

    assert response.status == 200
    assert "O(log n)" in answer["choices"][0]["message"]["content"]


async def test_a_stream_is_sent_at_once(buffered: Stack) -> None:
    """A client that wants a stream gets a complete one, all at once."""
    async with buffered.session.post(
        f"{buffered.base_url}/chat/completions", json=chat(TEAM, stream=True)
    ) as response:
        assert response.headers["content-type"] == "text/event-stream"
        events = EventReader().feed(await response.read())

    chunks = [json.loads(event.data) for event in events[:-1]]
    assert events[-1].data == DONE
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert "O(log n)" in text


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"{", 400, id="not-json"),
        pytest.param(b'{"model":"x","messages":[{"role":"user"}]}', 404, id="unknown-model"),
        pytest.param(b"", 400, id="no-body"),
    ],
)
async def test_refuses_in_openais_shape(buffered: Stack, sent: bytes, status: int) -> None:
    """Errors look the same in this mode."""
    async with buffered.session.post(
        f"{buffered.base_url}/chat/completions", data=sent
    ) as response:
        error = (await response.json())["error"]

    assert response.status == status
    assert error["type"] == "invalid_request_error"


async def test_lists_models(buffered: Stack) -> None:
    """A request without a body is answered from its headers."""
    async with buffered.session.get(f"{buffered.base_url}/models") as response:
        assert [model["id"] for model in (await response.json())["data"]] == ["looper/auto"]
