"""Two processors behind one cluster of Envoy's, which share the runs that wait in a real Redis."""

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from looper.simulate import Hang, Simulator
from tests.envoy.test_tools import (
    ASKED,
    MODELS,
    OURS,
    QUESTION,
    answered,
    ask,
    billed,
    calls_of,
    change,
)
from tests.fakes.redis import run_redis
from tests.fakes.stack import Processor, Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

HEALTHY = 'envoy_cluster_membership_healthy{envoy_cluster_name="looper_ext_proc"}'
SECRETS = ("capital", "Canada", "lookup", "Find out", "long", "final", "result 0")
"""What was asked, what was offered, who works, and what a tool said."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def redis() -> AsyncIterator[Redis]:
    """A client of the Redis that both processors use."""
    with tempfile.TemporaryDirectory(prefix="lo-", dir="/tmp") as folder:
        async with run_redis(Path(folder)) as server:
            client = Redis.from_url(server.url)
            yield client
            await client.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(redis: Redis) -> AsyncIterator[Stack]:
    path = redis.connection_pool.connection_kwargs["path"]
    key = Path(path).with_name("key")
    key.write_text("k" * 32)
    state = {
        "type": "redis",
        "url": f"unix://{path}",
        "keys": [{"file": str(key)}],
        "lease": "1s",
        "identity": {"header": "x-user"},
    }
    async with run_stack(Simulator(MODELS), change(state=state), processors=2) as stack:
        yield stack


@pytest_asyncio.fixture(loop_scope="session")
async def stack(shared: Stack, redis: Redis) -> Stack:
    shared.simulator.reset()
    await redis.flushall()
    return shared


async def only(stack: Stack, processor: Processor) -> None:
    """Have one processor run alone, and wait until Envoy knows."""
    if processor.process is None or processor.process.returncode is not None:
        processor.socket.unlink(missing_ok=True)  # one that was killed leaves it
        await processor.start()
    await stack.until_series(lambda series: series[HEALTHY] >= 1)
    others = [each for each in stack.processors if each is not processor]
    for other in others:
        if other.process is not None and other.process.returncode is None:
            await stack.until_series(lambda series: series[HEALTHY] == len(stack.processors))
            await other.stop()
    await stack.until_series(lambda series: series[HEALTHY] == 1)


def handled(processor: Processor, headers: Mapping[str, str]) -> bool:
    """Whether a processor's log tells of the run that an answer's headers name."""
    run = f'"run":"{headers["x-looper-run"]}"'
    return any(run in line for line in processor.log.read_text().splitlines())


async def kept(redis: Redis) -> dict[bytes, bytes]:
    """All that is in Redis, as it is."""
    keys: list[Any] = await redis.keys("*")
    values: list[Any] = await redis.mget(keys)
    return dict(zip(keys, values, strict=True))


async def refused(stack: Stack, turn: dict[str, Any], status: int, user: str = "me") -> None:
    """A turn comes to nothing, and no model is asked."""
    count = stack.simulator.count()
    said, _, answer = await ask(stack, {**turn, "stream": False}, user)
    code = {409: "state_mismatch", 410: "state_expired"}[status]
    assert (said, answer["error"]["code"]) == (status, code)
    assert stack.simulator.count() == count


def forged(turn: dict[str, Any]) -> dict[str, Any]:
    """The turn with an id that differs in its last characters."""
    *head, last = turn["messages"]
    id = last["tool_call_id"]
    end = "AzZ" if not id.endswith("AzZ") else "ZzA"
    return {**turn, "messages": [*head, {**last, "tool_call_id": id[:-3] + end}]}


async def test_turns_go_on_in_the_other_process(stack: Stack, redis: Redis) -> None:
    """What one processor paused the other goes on with, and back; ids that are refused are refused by both."""
    first, second = stack.processors

    await only(stack, first)
    began = {**ASKED, "stream": True, "stream_options": {"include_usage": True}}
    status, headers, one = await ask(stack, began)
    assert (status, len(calls_of(one))) == (200, 2)
    runs = [headers]
    assert all(OURS.fullmatch(call["id"]) for call in calls_of(one))
    turn = answered(ASKED, one)
    await refused(stack, turn, 409, "you")
    await refused(stack, forged(turn), 409)
    in_redis = [await kept(redis)]

    await only(stack, second)
    await refused(stack, turn, 409, "you")
    await refused(stack, forged(turn), 409)
    status, headers, two = await ask(stack, turn)
    assert (status, len(calls_of(two))) == (200, 1)
    runs.append(headers)
    assert [call.model for call in stack.simulator.calls[4:]] == ["final"]
    last = answered(turn, two) | {"stream": True, "stream_options": {"include_usage": True}}
    await refused(stack, turn, 410)
    in_redis.append(await kept(redis))

    await only(stack, first)
    await refused(stack, turn, 410)
    await refused(stack, last, 409, "you")
    status, headers, three = await ask(stack, last)
    assert (status, three["choices"][0]["finish_reason"]) == (200, "stop")
    runs.append(headers)
    assert three["choices"][0]["message"]["content"] == "The tools say: result 0"
    assert sum(answer["usage"]["total_tokens"] for answer in (one, two, three)) == billed(stack)
    await refused(stack, last, 410)
    assert await redis.keys("*") == []

    await only(stack, second)
    await refused(stack, last, 410)
    await refused(stack, turn, 410)
    await second.stop()  # then all is in the logs

    assert [handled(first, headers) for headers in runs] == [True, False, True]
    assert [handled(second, headers) for headers in runs] == [False, True, False]
    assert [len(stored) for stored in in_redis] == [1, 1]
    values = [each for stored in in_redis for pair in stored.items() for each in pair]
    logs = [each.log.read_bytes() for each in stack.processors]
    ids = [call["id"] for answer in (one, two) for call in calls_of(answer)]
    assert max(map(len, values)) > 500
    for secret in (*SECRETS, *ids):
        assert not any(secret.encode() in value for value in values), secret
    for secret in (QUESTION["content"], *ids):
        assert not any(secret.encode() in log for log in logs), secret


async def test_a_process_that_dies_with_a_run_does_not_take_it_along(stack: Stack) -> None:
    """Killed while it goes on with a run, it holds that until its lease ends; then the other one goes on with it."""
    first, second = stack.processors
    await only(stack, first)
    _, _, one = await ask(stack, ASKED)
    turn = answered(ASKED, one)
    stack.simulator.fault("long", Hang())
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(ask(stack, turn))
        await stack.simulator.wait_for(lambda: stack.simulator.running("long") == 1)
        busy, _, answer = await ask(stack, turn)
        await first.stop(signal.SIGKILL)
        status, _, _ = await asking
    assert (busy, answer["error"]["code"]) == (409, "state_busy")
    assert status >= 500
    await stack.until_series(lambda series: series[HEALTHY] == 0)
    stack.simulator.fault("long", None)

    await only(stack, second)
    async with asyncio.timeout(5):
        while (result := await ask(stack, turn))[0] == 409:
            assert result[2]["error"]["code"] == "state_busy"
            await asyncio.sleep(0.05)
    status, headers, two = result
    assert (status, len(calls_of(two))) == (200, 1)
    status, _, three = await ask(stack, answered(turn, two))
    assert (status, three["choices"][0]["message"]["content"]) == (200, "The tools say: result 0")
    await second.stop()
    assert handled(second, headers)
