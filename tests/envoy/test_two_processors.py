"""Two processors behind one cluster of Envoy's, which share the runs that wait in a real Redis."""

import asyncio
import json
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import yaml
from redis.asyncio import Redis

from looper.simulate.server import Hang, Simulator
from tests.envoy.series import count
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
        "lease": "3s",
        "timeout": "10s",
        "identity": {"header": "x-user"},
    }
    async with run_stack(
        Simulator(MODELS), change(state=state), processors=2, edit=keeping_request_ids
    ) as stack:
        yield stack


def keeping_request_ids(envoy: Path) -> None:
    """Have clients' own `x-request-id` kept, as behind a proxy that is trusted with them."""
    path = envoy / "bootstrap.yaml"
    bootstrap = yaml.safe_load(path.read_text())
    (chain,) = next(
        each["filter_chains"]
        for each in bootstrap["static_resources"]["listeners"]
        if each["name"] == "ingress"
    )
    chain["filters"][0]["typed_config"]["preserve_external_request_id"] = True
    path.write_text(yaml.safe_dump(bootstrap))


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


async def both(stack: Stack) -> None:
    """Have both run, and wait until Envoy knows."""
    for processor in stack.processors:
        if processor.process is None or processor.process.returncode is not None:
            processor.socket.unlink(missing_ok=True)
            await processor.start()
    await stack.until_series(lambda series: series[HEALTHY] == len(stack.processors))


async def resume(
    stack: Stack, turn: Mapping[str, Any], request_id: str
) -> tuple[int, Mapping[str, str], Any]:
    headers = {"x-user": "me", "x-request-id": request_id}
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json=turn, headers=headers
    ) as response:
        return response.status, response.headers, json.loads(await response.read())


async def at_work(stack: Stack) -> list[Processor]:
    """The processors that have a team at work."""
    found = []
    for processor in stack.processors:
        connector = aiohttp.UnixConnector(str(processor.admin))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get("http://admin/load") as response,
        ):
            if (await response.json())["open_runs"]:
                found.append(processor)
    return found


def handled(processor: Processor, headers: Mapping[str, str]) -> bool:
    """Whether a processor's log tells of the run that an answer's headers name."""
    run = f'"run":"{headers["x-looper-run"]}"'
    return any(run in line for line in processor.log.read_text().splitlines())


async def reads_of(redis: Redis) -> int:
    """How often states were read; Redis has no count of what it was never asked."""
    stats: Mapping[str, Any] = await redis.info("commandstats")
    return int(stats.get("cmdstat_get", {"calls": 0})["calls"])


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
    async with asyncio.timeout(30):
        while (result := await ask(stack, turn))[0] == 409:
            assert result[2]["error"]["code"] == "state_busy"
            await asyncio.sleep(0.05)
    status, headers, two = result
    assert (status, len(calls_of(two))) == (200, 1)
    status, _, three = await ask(stack, answered(turn, two))
    assert (status, three["choices"][0]["message"]["content"]) == (200, "The tools say: result 0")
    await second.stop()
    assert handled(second, headers)


async def test_of_many_at_once_one_goes_on(stack: Stack) -> None:
    """The same turn, sent to both processors at once and again after its lease: one runs, others come back later."""
    await both(stack)
    _, _, one = await ask(stack, ASKED)
    turn = answered(ASKED, one)
    go_on = asyncio.Event()

    async def answers_late(request: dict[str, Any]) -> str:
        await go_on.wait()
        return "by long"

    stack.simulator.script("long", answers_late)
    before = [processor.log.read_text().count("state_busy") for processor in stack.processors]
    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(resume(stack, turn, f"at-once-{at}")) for at in range(12)]
        while sum(each.done() for each in asking) < len(asking) - 1:
            await asyncio.sleep(0.02)
        (holder,) = await at_work(stack)
        await asyncio.sleep(3.5)
        late = [await resume(stack, turn, f"late-{at}") for at in range(8)]
        assert (await at_work(stack), stack.simulator.count()) == ([holder], 4)
        go_on.set()
    results = [each.result() for each in asking]
    busy = [headers for status, headers, _ in results if status == 409]
    codes = [answer["error"]["code"] for status, _, answer in (*results, *late) if status != 200]
    await only(stack, stack.processors[0])
    await stack.processors[0].stop()

    assert sorted(status for status, _, _ in results) == [200, *[409] * 11]
    assert codes == ["state_busy"] * 19
    for headers in (*busy, *(headers for _, headers, _ in late)):
        assert (headers["retry-after"], headers["x-should-retry"]) == ("3", "true")
    assert [call.model for call in stack.simulator.calls[4:]] == ["final"]
    logs = [processor.log.read_text().count("state_busy") for processor in stack.processors]
    assert all(after > earlier for after, earlier in zip(logs, before, strict=True))


@pytest_asyncio.fixture(loop_scope="session")
async def patient(redis: Redis, tmp_path: Path) -> AsyncIterator[Stack]:
    """Two processors whose leases last for longer than a test."""
    path = redis.connection_pool.connection_kwargs["path"]
    key = tmp_path / "key"
    key.write_text("k" * 32)
    state = {"type": "redis", "url": f"unix://{path}", "keys": [{"file": str(key)}], "lease": "60s"}
    async with run_stack(
        Simulator(MODELS), change(state=state), processors=2, edit=keeping_request_ids
    ) as stack:
        await both(stack)
        yield stack


async def ended(stack: Stack, turn: Mapping[str, Any], how: signal.Signals) -> int:
    """What a client gets of a turn whose process ends in the middle of it."""
    stack.simulator.fault("long", Hang())
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(resume(stack, turn, "mine"))
        await stack.simulator.wait_for(lambda: stack.simulator.running("long") == 1)
        (holder,) = await at_work(stack)
        await holder.stop(how)
        status, _, _ = await asking
    await stack.simulator.wait_for(lambda: stack.simulator.running() == 0)
    stack.simulator.fault("long", None)
    return status


def asked_since(stack: Stack, count: int) -> list[str]:
    """Who was asked after so many calls; the two workers in the order of their names."""
    asked = [call.model for call in stack.simulator.calls[count:]]
    return [*sorted(asked[:2]), *asked[2:]]


async def test_the_same_request_goes_on_in_the_other_process_at_once(patient: Stack) -> None:
    """After a crash the lease keeps others waiting, but not whoever sends the same `x-request-id`."""
    _, _, one = await ask(patient, ASKED)
    turn = answered(ASKED, one)
    lost = await ended(patient, turn, signal.SIGKILL)
    count = patient.simulator.count()
    refused, headers, answer = await resume(patient, turn, "another")
    assert (refused, answer["error"]["code"]) == (409, "state_busy")
    assert headers["retry-after"] == "60"
    assert patient.simulator.count() == count
    status, _, two = await resume(patient, turn, "mine")

    assert (lost, status, len(calls_of(two))) == (503, 200, 1)
    assert asked_since(patient, count) == ["long", "short", "final"]


async def test_a_process_that_is_stopped_lets_its_runs_go(patient: Stack) -> None:
    """Told to end in the middle of a turn, it leaves the run to the other one, for whom nobody has to wait."""
    _, _, one = await ask(patient, ASKED)
    turn = answered(ASKED, one)
    lost = await ended(patient, turn, signal.SIGTERM)
    count = patient.simulator.count()
    status, _, two = await resume(patient, turn, "another")

    assert lost >= 500
    assert (status, len(calls_of(two))) == (200, 1)
    assert asked_since(patient, count) == ["long", "short", "final"]


async def test_a_process_that_dies_before_it_began_is_not_missed(
    stack: Stack, redis: Redis
) -> None:
    """Killed while it claims a run, it has asked nobody: Envoy has the other one do it, and no client hears of it."""
    first, second = stack.processors
    await only(stack, first)
    _, _, one = await ask(stack, ASKED)
    turn = answered(ASKED, one)
    reads = await reads_of(redis)
    await redis.client_pause(60_000, all=False)  # of all that writes, such as claims
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(resume(stack, turn, "mine"))
        async with asyncio.timeout(30):
            while await reads_of(redis) == reads:
                await asyncio.sleep(0.01)
        await both(stack)
        assert await at_work(stack) == []
        await first.stop(signal.SIGKILL)
        await redis.client_unpause()
        status, headers, two = await asking
    await second.stop()

    assert (status, len(calls_of(two))) == (200, 1)
    assert handled(second, headers)
    assert sorted(call.model for call in stack.simulator.calls[2:]) == ["final", "long", "short"]


async def test_without_redis_only_what_waits_fails(tmp_path: Path) -> None:
    """503, without a call for a run that waits; what needs no store is answered, and after it is back all goes on."""
    key = tmp_path / "key"
    key.write_text("k" * 32)
    with tempfile.TemporaryDirectory(prefix="lo-", dir="/tmp") as folder:
        async with run_redis(Path(folder)) as server:
            state = {"type": "redis", "url": server.url, "keys": [{"file": str(key)}]}
            async with run_stack(Simulator(MODELS), change(state=state)) as stack:
                _, _, one = await ask(stack, ASKED)
                turn = answered(ASKED, one)
                await server.stop()
                status, headers, failed = await ask(stack, turn)
                assert (status, failed["error"]["code"]) == (503, "state_unavailable")
                assert (headers["x-should-retry"], stack.simulator.count()) == ("true", 2)

                status, headers, failed = await ask(stack, ASKED)
                assert (status, failed["error"]["code"]) == (503, "state_unavailable")
                assert (headers["x-should-retry"], stack.simulator.count()) == ("false", 4)
                assert "redis" not in str(failed).lower()
                assert (await ask(stack, {**ASKED, "tools": []}))[0] == 200
                lost = {"error": "state_unavailable"}
                await stack.until_series(
                    lambda now: count(now, "envoy_looper_errors_total", **lost) == 2
                )

                Path(server.url.removeprefix("unix://")).unlink(missing_ok=True)
                await server.start()
                calls = stack.simulator.count()
                status, _, gone = await ask(stack, turn)
                assert (status, gone["error"]["code"]) == (410, "state_expired")
                assert stack.simulator.count() == calls
                _, _, one = await ask(stack, ASKED)
                assert (await ask(stack, answered(ASKED, one)))[0] == 200
