"""Loops: how long Fusion takes over its critical path, how soon it speaks, and what open runs cost."""

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp

from tests.bench import h2load, load, workload
from tests.bench.backend import STAGE_SECONDS
from tests.bench.front import Listener
from tests.bench.load import Crowd
from tests.bench.meter import metered
from tests.bench.plan import Plan, Rounds, in_order, processes
from tests.bench.processes import BenchFailed, memory
from tests.bench.results import Measured
from tests.bench.rig import Rig
from tests.bench.sample import Numbers, Sample, ratio

STAGES = 3
CRITICAL_MS = STAGES * STAGE_SECONDS * 1000
_OURS = Listener("ours")
_NONE = Listener("none")


@dataclass(frozen=True, slots=True)
class Fusion:
    """Panel of four, judge and final, 100 ms each, beside three calls that do nothing but wait as long."""

    runs: int
    missing: str | None = None

    @property
    def name(self) -> str:
        return f"fusion/{self.runs}"

    async def measure(self, rig: Rig, plan: Plan) -> Measured:
        rounds: Rounds = {"calls": [], "ours": []}
        count = 1 if plan.short else max(2, plan.rounds - 2)
        for round_ in range(count):
            for side in in_order(tuple(rounds), round_):
                rounds[side].append(await self._slice(rig, plan, side))
        walls = [numbers["p50_ms"] for numbers in rounds["ours"]]
        calls = [numbers["p50_ms"] for numbers in rounds["calls"]]
        figures: dict[str, list[float | None]] = {
            "p50 ÷ critical path": [ratio(wall, CRITICAL_MS) for wall in walls],
            "p50 ÷ three plain calls": list(map(ratio, walls, calls)),
            "p95 ÷ critical path": [
                ratio(numbers["p95_ms"], CRITICAL_MS) for numbers in rounds["ours"]
            ],
            "failed runs": [numbers["errors"] for numbers in rounds["ours"]],
        }
        return Measured(self.name, rounds, figures)

    async def _slice(self, rig: Rig, plan: Plan, side: str) -> Numbers:
        seconds = 0.0 if plan.short else max(6.0, plan.seconds)
        body = workload.chat(workload.FUSION)
        # Clients come one by one over one critical path, or all would go through each stage at once.
        crowd = Crowd(self.runs, seconds, spread=CRITICAL_MS / 1000)
        if side == "ours":
            work = partial(load.at_once, rig.url(_OURS), body, crowd)
            return await metered(processes(rig, side), work)
        urls = [f"{rig.backend.url('stage')}/chat/completions"] * STAGES
        return (await load.chains(urls, body, crowd)).numbers()


@dataclass(frozen=True, slots=True)
class FirstToken:
    """From the final model's first byte to the client's first token; beside it, the same without us and Envoy."""

    name: str = "first-token/c1"
    missing: str | None = None

    async def measure(self, rig: Rig, plan: Plan) -> Measured:
        rounds: Rounds = {"direct": [], "ours": []}
        for round_ in range(plan.rounds):
            for side in in_order(tuple(rounds), round_):
                rounds[side].append(await self._slice(rig, plan, side))
        figures: dict[str, list[float | None]] = {
            "delay, ms": [numbers["p50_ms"] for numbers in rounds["ours"]]
        }
        return Measured(self.name, rounds, figures)

    async def _slice(self, rig: Rig, plan: Plan, side: str) -> Numbers:
        if side == "ours":
            url, model = rig.url(_OURS), workload.STREAM
        else:
            url, model = f"{rig.simulator}/v1/chat/completions", "live-final"
        await _simulator(rig, "POST", "/reset")
        work = partial(_delays, rig, url, workload.chat(model, stream=True), plan)
        return await metered(processes(rig, side), work)


async def _delays(rig: Rig, url: str, body: bytes, plan: Plan) -> Sample:
    began = time.monotonic()
    answers = await load.in_turn(url, body, seconds=plan.seconds, least=5)
    seconds = time.monotonic() - began
    calls = (await _simulator(rig, "GET", "/calls"))["calls"]
    spoke = [call["first_byte_at"] for call in calls if call["model"] == "live-final"]
    if len(spoke) != len(answers):
        raise BenchFailed(f"{len(answers)} answers, but {len(spoke)} calls of the final model")
    pairs = zip(answers, spoke, strict=True)
    delays = [answer.token_at - at for answer, at in pairs if answer.token_at is not None]
    if not delays:
        raise BenchFailed(f"no token came: {answers[0].body[:200]!r}")
    return Sample(delays, seconds, errors=len(answers) - len(delays))


async def _simulator(rig: Rig, method: str, path: str) -> Any:
    url = f"{rig.simulator}/_simulator{path}"
    async with aiohttp.ClientSession() as session, session.request(method, url) as response:
        response.raise_for_status()
        return await response.json()


@dataclass(frozen=True, slots=True)
class OpenRuns:
    """Many runs whose panel is slow: the processor's memory, and routed requests beside them."""

    name: str = "open-runs"
    missing: str | None = None

    async def measure(self, rig: Rig, plan: Plan) -> Measured:
        rounds: Rounds = {"idle": [], "beside": []}
        figures: dict[str, list[float | None]] = {
            name: [] for name in ("routed p50 ÷ idle's", "open", "lost", "RSS, MiB", "MiB per run")
        }
        body = rig.body("beside", workload.chat(workload.AUTO))
        for _ in range(1 if plan.short else 2):
            idle = await _routed(rig, plan, body)
            before = memory(rig.processor).resident
            beside, held, sample = await _beside(rig, plan, partial(_routed, rig, plan, body))
            rounds["idle"].append(idle)
            rounds["beside"].append(beside)
            figures["routed p50 ÷ idle's"].append(ratio(beside["p50_ms"], idle["p50_ms"]))
            figures["open"].append(held["open"])
            figures["lost"].append(plan.open_runs - len(sample.latencies))
            figures["RSS, MiB"].append(held["rss"])
            figures["MiB per run"].append((held["rss"] - before) / max(1.0, held["open"]))
        return Measured(self.name, rounds, figures)


async def _routed(rig: Rig, plan: Plan, body: Any) -> Numbers:
    seconds = 0.2 if plan.short else 2 * plan.seconds
    one = h2load.Load(rig.url(_OURS), 1, body, seconds)
    return await metered(processes(rig, "ours"), lambda: h2load.drive(one, rig.folder))


async def _beside(rig: Rig, plan: Plan, routed: Any) -> tuple[Numbers, Numbers, Sample]:
    """Open the runs, measure while all of them wait for their panels, and see them end."""
    body = workload.chat(workload.SLOW)
    spread = plan.slow_seconds / 12
    async with asyncio.TaskGroup() as group:
        runs = group.create_task(
            load.at_once(rig.url(_OURS), body, Crowd(plan.open_runs, 0, spread))
        )
        waiting = await _until_open(rig, plan)
        beside = await routed()
        waiting = min(waiting, await rig.backend.waiting())
        held = {"open": waiting / workload.PANEL, "rss": memory(rig.processor).resident}
    return beside, held, runs.result()


async def _until_open(rig: Rig, plan: Plan) -> int:
    """How many calls wait, once that is all of them, or there is no more time to wait for the rest."""
    end = time.monotonic() + plan.slow_seconds * 0.6
    waiting = 0
    while waiting < plan.open_runs * workload.PANEL and time.monotonic() < end:
        await asyncio.sleep(0.1)
        waiting = await rig.backend.waiting()
    return waiting
