"""What is kept of runs, and who may see it, through a real Envoy."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from looper.simulate.server import Hang, Status
from tests.envoy.conftest import quick_models
from tests.envoy.requests import TEAM, ask, chat
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def runs_of(stack: Stack, path: str = "/runs") -> Any:
    connector = aiohttp.UnixConnector(str(stack.processor.admin))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(f"http://admin{path}") as response,
    ):
        return await response.json()


async def metrics_of(stack: Stack) -> list[str]:
    connector = aiohttp.UnixConnector(str(stack.processor.admin))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get("http://admin/metrics") as response,
    ):
        return (await response.text()).splitlines()


async def until_runs(stack: Stack, count: int) -> list[dict[str, Any]]:
    """The runs once there are so many: one is noted when its exchange is over, a moment after its client's."""
    async with asyncio.timeout(5):
        while len(found := await runs_of(stack)) < count:
            await asyncio.sleep(0.02)
    records: list[dict[str, Any]] = found
    return records


async def run_of(stack: Stack, run: str) -> Any:
    """The same of one run, by its id."""
    async with asyncio.timeout(5):
        while True:
            for record in await runs_of(stack):
                if record["run"] == run:
                    return record
            await asyncio.sleep(0.02)


async def test_a_run_is_kept_without_what_was_said() -> None:
    """The ring names stages, calls, times and usage of each run, newest first, and no word of prompt or answer."""
    async with run_stack(quick_models()) as stack:
        _, headers, _ = await ask(stack)
        async with stack.session.post(
            f"{stack.base_url}/chat/completions", json=chat(TEAM, stream=True)
        ) as response:
            await response.read()

        records = await until_runs(stack, 2)
        one = await runs_of(stack, f"/runs/{headers['x-looper-run']}")
        load = await runs_of(stack, "/load")
        log = stack.processor.log.read_text()

    assert records[1] == one
    assert "abandoned" not in json.dumps(records)
    assert (one["decision"], one["algorithm"], one["outcome"]) == ("panel", "fusion", "ok")
    assert [stage["stage"] for stage in one["stages"]] == ["panel", "judge", "final"]
    assert [call["role"] for call in one["calls"]] == ["panel"] * 3 + ["judge", "final"]
    assert all(call["state"] == "ok" and call["seconds"] >= 0 for call in one["calls"])
    assert "binary search" not in json.dumps(records)
    assert "O(log n)" not in json.dumps(records)
    assert "binary search" not in log
    assert load == {"open_runs": 0, "waiting": 0, "inflight_bytes": 0}


async def test_a_full_record_holds_what_was_said() -> None:
    """With `record: full` a run's prompt and each model's answer are kept, and written to the file of runs."""
    change = {"trace": {"record": "full"}}
    async with run_stack(quick_models(), change, runs_file=True) as stack:
        await ask(stack)
        (record,) = await until_runs(stack, 1)
        await stack.processor.stop()
        (line,) = (stack.folder / "runs.jsonl").read_text().splitlines()

    assert record["messages"] == [{"role": "user", "content": TEAM}]
    assert "O(log n)" in record["calls"][-1]["text"]
    assert json.loads(line) == record


async def test_every_run_says_what_became_of_it() -> None:
    """One that failed says with which error; one whose client left is abandoned. Counted and written down alike."""
    simulator = quick_models()
    async with run_stack(simulator) as stack:
        for name in simulator.models:
            simulator.fault(name, Status(status=500))
        status, failed, _ = await ask(stack)
        for stream in (False, True):
            for name in simulator.models:
                simulator.fault(name, Hang())
            async with asyncio.TaskGroup() as group:
                leaving = group.create_task(ask(stack, stream=stream))
                await simulator.wait_for(lambda: simulator.running() == 3)
                leaving.cancel()
            await simulator.wait_for(lambda: simulator.running() == 0)
        records = await until_runs(stack, 3)
        metrics = await metrics_of(stack)

    assert (status, records[2]["run"]) == (502, failed["x-looper-run"])
    assert (records[2]["outcome"], records[2]["code"]) == ("failed", "upstream_failed")
    assert [record["outcome"] for record in records[:2]] == ["abandoned"] * 2
    assert all("code" not in record for record in records[:2])
    for record in records[:2]:
        assert [call["state"] for call in record["calls"]] == ["cancelled"] * 3
    labels = 'algorithm="fusion",decision="panel",outcome="{}",recipe="general"'
    for outcome, count in (("failed", 1), ("abandoned", 2)):
        assert f"looper_runs_total{{{labels.format(outcome)}}} {count}.0" in metrics


@pytest.mark.parametrize("profile", ["fast", "metered"])
async def test_routed_requests_leave_a_record_beside_teams_runs(profile: str) -> None:
    """With decision, model and time; where answers pass by with tokens, too. However many, the team's run stays."""
    change = {
        "envoy": {"profile": profile},
        "trace": {"routed": {"keep": 2}, "keep": 2},
    }
    async with run_stack(quick_models(), change, runs_file=True) as stack:
        _, team, _ = await ask(stack)
        for _ in range(3):
            async with stack.session.post(
                f"{stack.base_url}/chat/completions", json=chat()
            ) as response:
                await response.read()
                last = response.headers["x-looper-run"]
        routed = await run_of(stack, last)
        records = await until_runs(stack, 3)
        await stack.processor.stop()
        lines = (stack.folder / "runs.jsonl").read_text().splitlines()

    known = {name: routed[name] for name in ("kind", "decision", "algorithm", "model")}
    assert known == {
        "kind": "routed", "decision": "default", "algorithm": "single", "model": "small"
    }  # fmt: skip
    assert 0 < routed["routing"] < 5
    read = {"seconds", "prompt_tokens", "completion_tokens", "cost_microusd"}
    assert read & routed.keys() == (read if profile == "metered" else set())
    assert [record["kind"] for record in records] == ["routed", "routed", "team"]
    assert records[-1]["run"] == team["x-looper-run"]
    assert [json.loads(line)["kind"] for line in lines] == ["team", *["routed"] * 3]
