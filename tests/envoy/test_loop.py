"""Requests that a team answers, through a real Envoy."""

import asyncio
import json
import time
from typing import Any

import pytest

from looper.simulate.server import Cut, Hang, Reset, Simulator, Status
from looper.wire.sse import DONE, EventReader
from tests.envoy.requests import TEAM, ask, chat
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

PANEL = ["small", "other", "third"]


async def stream(stack: Stack, **members: Any) -> list[Any]:
    """The chunks of a streamed answer, and "[DONE]"."""
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json=chat(TEAM, stream=True, **members)
    ) as response:
        assert response.status == 200, await response.text()
        assert response.headers["content-type"] == "text/event-stream"
        events = EventReader().feed(await response.read())
    return ["[DONE]" if event.data == DONE else json.loads(event.data) for event in events]


def content(chunks: list[Any]) -> str:
    deltas = [choice["delta"] for chunk in chunks[:-1] for choice in chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


async def test_a_team_answers_as_one_completion(stack: Stack) -> None:
    """Panel, judge and final are asked, and the client reads one completion with the sum of what they used."""
    status, headers, answer = await ask(stack)

    assert status == 200
    assert "O(log n)" in answer["choices"][0]["message"]["content"]
    assert answer["model"] == "looper/auto"
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert headers["x-looper-decision"] == "panel"
    assert headers["x-looper-algorithm"] == "fusion"
    assert headers["x-looper-outcome"] == "ok"
    called = [call.model for call in stack.simulator.calls]
    assert sorted(called[:3]) == sorted(PANEL)
    assert called[3:] == ["large", "large"]


async def test_streams_the_final_stage(stack: Stack) -> None:
    """A streamed answer has one id, the role first, one finish, no usage unless asked for, and one [DONE]."""
    chunks = await stream(stack)

    assert chunks[-1] == "[DONE]"
    assert chunks.count("[DONE]") == 1
    assert len({chunk["id"] for chunk in chunks[:-1]}) == 1
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    finishes = [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]]
    assert finishes == [None] * (len(finishes) - 1) + ["stop"]
    assert not any("usage" in chunk for chunk in chunks[:-1])
    assert "O(log n)" in content(chunks)


async def test_streamed_and_unstreamed_say_the_same(stack: Stack) -> None:
    """The same request gives the same text, streamed or not."""
    _, _, answer = await ask(stack, seed=7)
    chunks = await stream(stack, seed=7)

    assert content(chunks) == answer["choices"][0]["message"]["content"]


async def test_usage_is_the_sum_over_all_calls(stack: Stack) -> None:
    """Usage, which a stream tells if asked to, is what the backends billed, all calls together."""
    _, _, answer = await ask(stack, seed=7)
    chunks = await stream(stack, seed=7, stream_options={"include_usage": True})

    assert chunks[-2]["choices"] == []
    assert all(chunk["usage"] is None for chunk in chunks[:-2])
    # A simulated model bills the same for the same request.
    assert chunks[-2]["usage"] == answer["usage"]
    assert answer["usage"]["total_tokens"] > 5 * 20


async def test_the_first_token_follows_the_final_backends_own(stack: Stack) -> None:
    """What the final model says is on its way to the client while the model still speaks."""
    slow = next(model for model in stack.simulator.models.values() if model.name == "large")
    stack.simulator.put(slow.model_copy(update={"token_latency": 0.03}))

    first: float | None = None
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json=chat(TEAM, stream=True)
    ) as response:
        reader = EventReader()
        async for data in response.content.iter_any():
            for event in reader.feed(data):
                if first is None and event.data != DONE and b'"content":"' in event.data:
                    chunk = json.loads(event.data)
                    if chunk["choices"][0]["delta"].get("content"):
                        first = time.monotonic()

    final = stack.simulator.calls[-1]
    assert first is not None
    assert final.finished_at is not None
    assert first < final.finished_at


async def test_silence_is_filled_with_comments() -> None:
    """When nothing can be said yet, the stream opens after `heartbeat` with the role, and comments keep it alive."""
    simulator = Simulator()
    for name in PANEL:
        simulator.put(simulator.models[name].model_copy(update={"latency": 1.5}))
    async with (
        run_stack(simulator, {"heartbeat": "250ms"}) as stack,
        stack.session.post(
            f"{stack.base_url}/chat/completions", json=chat(TEAM, stream=True)
        ) as response,
    ):
        text = await response.text()

    role, _, rest = text.partition("\n\n")
    assert json.loads(role.removeprefix("data: "))["choices"][0]["delta"]["role"] == "assistant"
    assert rest.startswith(": working\n\n: working\n\n")
    assert text.endswith("data: [DONE]\n\n")


async def test_a_client_that_leaves_ends_every_call(stack: Stack) -> None:
    """When the client closes its connection, every backend's connection of the run is closed at once."""
    for name in PANEL:
        stack.simulator.fault(name, Hang())
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(ask(stack))
        await stack.simulator.wait_for(lambda: stack.simulator.running() == 3)
        left = time.monotonic()
        asking.cancel()
    await stack.simulator.wait_for(lambda: stack.simulator.running() == 0)

    assert {call.outcome for call in stack.simulator.calls} == {"disconnected"}
    assert max(call.finished_at or 0 for call in stack.simulator.calls) - left < 0.2
    assert stack.simulator.count() == 3


async def test_a_client_that_leaves_mid_stream_ends_the_final_call(stack: Stack) -> None:
    """When the client leaves a stream that has begun, the final backend's connection is closed at once."""
    large = stack.simulator.models["large"]
    stack.simulator.script("large", '{"winner": 1}')
    stack.simulator.put(large.model_copy(update={"token_latency": 0.2}))
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json=chat(TEAM, stream=True)
    ) as response:
        await response.content.readany()
        left = time.monotonic()
        response.close()
    await stack.simulator.wait_for(lambda: stack.simulator.running() == 0)

    final = stack.simulator.calls[-1]
    assert final.outcome == "disconnected"
    assert final.finished_at is not None
    assert final.finished_at - left < 0.2


@pytest.mark.parametrize("streamed", [False, True], ids=["unstreamed", "streamed"])
@pytest.mark.parametrize(
    ("fault", "status", "type_", "code"),
    [
        pytest.param(Status(status=500), 502, "upstream_error", "upstream_failed", id="500"),
        pytest.param(
            Status(status=429, retry_after=7), 429, "rate_limit_error", "rate_limited", id="429"
        ),
        pytest.param(Status(status=400), 400, "invalid_request_error", "invalid_request", id="400"),
        pytest.param(
            Status(status=400, code="context_length_exceeded"),
            400, "invalid_request_error", "context_length_exceeded", id="too-long",
        ),
        pytest.param(
            Status(status=403, message="simulated: it was flagged"),
            400, "invalid_request_error", "content_filter", id="filtered",
        ),
        pytest.param(
            Status(status=429, retry_after=7, retry_after_date=True),
            429, "rate_limit_error", "rate_limited", id="429-date",
        ),
        pytest.param(Status(status=401), 502, "upstream_error", "upstream_misconfigured", id="401"),
        pytest.param(Reset(), 502, "upstream_error", "upstream_failed", id="reset"),
        pytest.param(Cut(), 502, "upstream_error", "upstream_failed", id="cut"),
    ],
)  # fmt: skip
async def test_when_nobody_answers_the_client_gets_the_right_error(
    stack: Stack, fault: Any, status: int, type_: str, code: str, streamed: bool
) -> None:
    """When the whole panel fails, the client gets one typed error, a status of its own even if it wanted a stream."""
    for name in PANEL:
        stack.simulator.fault(name, fault)

    seen, headers, answer = await ask(stack, stream=streamed)

    assert seen == status
    assert (answer["error"]["type"], answer["error"]["code"]) == (type_, code)
    assert "simulated" not in json.dumps(answer)
    assert headers["x-should-retry"] == "false"
    assert headers.get("retry-after") in (("6", "7") if status == 429 else (None,))
    attempts = answer["error"]["looper"]["attempts"]
    assert sorted(attempt["model"] for attempt in attempts) == sorted(PANEL)
    assert all(attempt.keys() <= {"model", "result", "status"} for attempt in attempts)
    log = stack.processor.log.read_text()
    assert "simulated" not in log
    assert "exchange.crashed" not in log


async def test_members_that_refuse_for_different_reasons_are_one_error(stack: Stack) -> None:
    """No reason is true of all of them, so none is told."""
    codes = ("context_length_exceeded", "content_filter", "unsupported_value")
    for name, code in zip(PANEL, codes, strict=True):
        stack.simulator.fault(name, Status(status=400, code=code))

    status, headers, answer = await ask(stack)

    assert (status, answer["error"]["code"]) == (400, "invalid_request")
    assert not [code for code in codes if code in json.dumps(answer)]
    assert headers["x-should-retry"] == "false"


async def test_a_final_stage_that_fails_is_replaced_by_the_panels_best(stack: Stack) -> None:
    """When the final model is down, the panel was not paid for in vain: its best answer is published."""
    stack.simulator.script("large", '{"winner": 1}', Status(status=500))

    status, headers, answer = await ask(stack)

    assert status == 200
    assert headers["x-looper-outcome"] == "fallback"
    assert answer["choices"][0]["message"]["content"]


async def test_a_final_stage_that_breaks_off_ends_in_an_error_event(stack: Stack) -> None:
    """When the final stream breaks after its first words, the client reads an error event, then [DONE]."""
    stack.simulator.script("large", '{"winner": 1}', Cut(after_chunks=3))

    chunks = await stream(stack)

    assert chunks[-2]["error"]["code"] == "upstream_failed"
    attempts = chunks[-2]["error"]["looper"]["attempts"]
    assert {"model": "large", "result": "failed"} in attempts
    assert chunks[-1] == "[DONE]"


async def test_a_deadline_is_kept() -> None:
    """With backends that hang, the client has an error at the deadline, and not at Envoy's."""
    simulator = Simulator()
    for name in PANEL:
        simulator.fault(name, Hang())
    recipes = {
        "general": {
            "decisions": [
                {
                    "name": "panel",
                    "algorithm": {
                        "type": "fusion",
                        "analysis_models": PANEL,
                        "judge_model": "large",
                    },
                    "budget": {"deadline": "1s"},
                }
            ]
        }
    }
    async with run_stack(simulator, {"recipes": recipes}) as stack:
        began = time.monotonic()
        status, _, answer = await ask(stack)
        took = time.monotonic() - began

    assert (status, answer["error"]["code"]) == (504, "deadline_exceeded")
    assert took < 6


async def test_members_hear_the_request_as_it_was(stack: Stack) -> None:
    """A panel member gets the client's members byte for byte, and unknown ones too."""
    await ask(stack, seed=123456789012345678901234567890, vendor={"a": [1]})

    bodies = [call.body for call in stack.simulator.calls if call.model in PANEL]
    assert len(bodies) == 3
    assert all(b'"seed":123456789012345678901234567890' in body for body in bodies) or all(
        b'"seed": 123456789012345678901234567890' in body for body in bodies
    )


async def test_the_request_id_goes_with_every_call(stack: Stack) -> None:
    """Every call of a run carries the request id that Envoy gave the request."""
    await ask(stack)

    ids = {call.headers["x-request-id"] for call in stack.simulator.calls}
    assert len(ids) == 1
