"""One request, one trail: records, log lines and debug answers say by which names others know it."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio

from looper.wire.sse import DONE, EventReader
from tests.envoy.conftest import quick_models
from tests.envoy.requests import TEAM, chat
from tests.envoy.test_runs import runs_of
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

TRACE = "0af7651916cd43dd8448eb211c80319c"
SENT = {
    "x-request-id": "the-clients-own",
    "traceparent": f"00-{TRACE}-b7ad6b7169203331-01",
    "looper-debug": "1",
}


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=[True, False])
async def traced(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Stack, bool]]:
    """With ids of clients kept, and with Envoy's own in their place."""
    change = {
        "debug": True,
        "trace": {"record": "metadata"},
        "envoy": {"preserve_external_request_id": request.param},
    }
    async with run_stack(quick_models(), change) as stack:
        yield stack, request.param


async def ask(stack: Stack, *, stream: bool) -> tuple[str, Mapping[str, Any]]:
    """The run's id, and what its answer says of itself."""
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json=chat(TEAM, stream=stream), headers=SENT
    ) as response:
        assert response.status == 200
        raw, headers = await response.read(), response.headers
    if not stream:
        return headers["x-looper-run"], {
            "request_id": headers["x-looper-request-id"],
            "trace_id": headers["x-looper-trace-id"],
        }
    told = [json.loads(event.data) for event in EventReader().feed(raw) if event.data != DONE]
    return headers["x-looper-run"], next(each["looper"] for each in told if "looper" in each)


async def logged(stack: Stack, run: str) -> Mapping[str, Any]:
    """The exchange's line in the log, once it is written."""
    async with asyncio.timeout(20):
        while True:
            for line in map(json.loads, stack.processor.log.read_text().splitlines()):
                if line["event"] == "exchange.finished" and line.get("run") == run:
                    return dict(line)
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_each_can_be_found_from_the_other(traced: tuple[Stack, bool], stream: bool) -> None:
    """The record, its line in the list, the log and the answer say the same, and calls went by it, too."""
    stack, kept = traced
    stack.simulator.reset()
    run, told = await ask(stack, stream=stream)
    named = told["request_id"]
    assert (named == SENT["x-request-id"]) is kept
    assert named
    record, listed = await runs_of(stack, f"/runs/{run}"), await runs_of(stack)
    line = next(each for each in listed if each["run"] == run)
    for each in (told, record, line, await logged(stack, run)):
        assert (each["request_id"], each["trace_id"]) == (named, TRACE)
    assert {call.headers["x-request-id"] for call in stack.simulator.calls} == {named}
    assert {call.headers["traceparent"].split("-")[1] for call in stack.simulator.calls} == {TRACE}
