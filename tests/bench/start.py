"""What a processor costs before its first request: time until it is healthy, memory, imports."""

import asyncio
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from tests.bench.plan import Plan, Rounds, in_order
from tests.bench.processes import BenchFailed, cpu_seconds, memory, output_of, running, until_exists
from tests.bench.results import Measured
from tests.bench.rig import Rig
from tests.bench.sample import Numbers, ratio

_SETTLE_SECONDS = 0.5
_LIBRARIES = "import grpc, aiohttp, pydantic"
_OURS = "import extproc.serving.serve, extproc.serving.http2.server"
_LINE = re.compile(r"import time: +(\d+) \| +(\d+) \| (\S+)")


@dataclass(frozen=True, slots=True)
class Start:
    """From the start of `looper serve` to the first SERVING, beside an interpreter that imports three libraries."""

    name: str = "start"
    missing: str | None = None

    async def measure(self, rig: Rig, plan: Plan) -> Measured:
        rounds: Rounds = {"imports": [], "ours": []}
        for round_ in range(plan.starts):
            for side in in_order(tuple(rounds), round_):
                measure = _serve(rig, round_) if side == "ours" else _import()
                rounds[side].append(await measure)
        times = [
            ratio(ours["seconds"], imports["seconds"])
            for ours, imports in zip(rounds["ours"], rounds["imports"], strict=True)
        ]
        figures: dict[str, list[float | None]] = {
            "time ÷ imports'": times,
            "idle RSS, MiB": [numbers["rss_mib"] for numbers in rounds["ours"]],
        }
        return Measured(self.name, rounds, figures)


async def _serve(rig: Rig, round_: int) -> Numbers:
    socket = rig.folder / f"start{round_}.sock"
    log = rig.folder / "start.log"
    command = (sys.executable, "-m", "extproc", "serve", "-c", str(rig.config))
    began = time.monotonic()
    async with running((*command, "--listen", f"unix:{socket}", "--drain", "0"), log) as process:
        await until_exists(socket, process, log)
        await _until_serving(socket)
        seconds = time.monotonic() - began
        cpu = cpu_seconds(process.pid)
        await asyncio.sleep(_SETTLE_SECONDS)
        return {"seconds": seconds, "cpu_s": cpu, "rss_mib": memory(process.pid).resident}


async def _until_serving(socket: Path) -> None:
    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(HealthCheckRequest(), wait_for_ready=True, timeout=10)
    if answer.status != HealthCheckResponse.SERVING:
        raise BenchFailed("the processor is not healthy")


async def _import() -> Numbers:
    began = time.monotonic()
    await output_of(sys.executable, "-c", _LIBRARIES)
    return {"seconds": time.monotonic() - began}


@dataclass(frozen=True, slots=True)
class Imports:
    """What importing the processor takes, by the interpreter's own account, beside the three libraries."""

    name: str = "imports"
    missing: str | None = None

    async def measure(self, rig: Rig, plan: Plan) -> Measured:
        rounds: Rounds = {"libraries": [], "ours": []}
        statements = {"libraries": _LIBRARIES, "ours": _OURS}
        for round_ in range(plan.starts):
            for side in in_order(tuple(rounds), round_):
                rounds[side].append(await _import_time(statements[side]))
        figures: dict[str, list[float | None]] = {
            "time ÷ libraries'": [
                ratio(ours["ms"], libraries["ms"])
                for ours, libraries in zip(rounds["ours"], rounds["libraries"], strict=True)
            ]
        }
        return Measured(self.name, rounds, figures)


async def _import_time(statement: str) -> Numbers:
    """Milliseconds in modules that the statement brings in, and how many they are."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "importtime", "-c", statement), stderr=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()
    if process.returncode:
        raise BenchFailed(f"`{statement}` fails")
    own = [int(found[1]) for found in _LINE.finditer(err.decode())]
    return {"ms": sum(own) / 1000, "modules": float(len(own))}
