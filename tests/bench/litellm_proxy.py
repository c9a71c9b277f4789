"""LiteLLM's proxy as a peer: installed into a virtual environment of its own, in front of the same model."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import yaml

from tests.bench import h2load, workload
from tests.bench.echo import CACHE, make_cache
from tests.bench.front import Listener
from tests.bench.meter import metered
from tests.bench.plan import Plan, Rounds, in_order, processes
from tests.bench.processes import BenchFailed, output_of, running, tail
from tests.bench.results import Measured
from tests.bench.rig import Rig
from tests.bench.sample import Sample, ratio
from tests.fakes.envoy import free_port

_PACKAGE = "litellm[proxy]"
_START_SECONDS = 120
_CONNECTIONS = 32


async def install() -> Path:
    """A virtual environment with LiteLLM, kept for the next time. Raises BenchFailed if it cannot be installed."""
    folder = CACHE / "litellm"
    ready = folder / ".ready"
    if not ready.exists():
        make_cache()
        sys.stderr.write(f"installing {_PACKAGE} into {folder}\n")
        await output_of(sys.executable, "-m", "venv", "--clear", str(folder))
        pip = (str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet")
        await output_of(*pip, _PACKAGE, timeout=1200)
        ready.touch()
    return folder


async def version(venv: Path) -> str:
    code = "import importlib.metadata; print(importlib.metadata.version('litellm'))"
    return (await output_of(str(venv / "bin" / "python"), "-c", code)).strip()


@dataclass(frozen=True, slots=True)
class AgainstLiteLLM:
    """A routed request of 1 kB at c=32: one process of ours with Envoy, and one process of LiteLLM without."""

    name: str = "litellm/1kB/c32"
    missing: str | None = None

    async def measure(self, rig: Rig, plan: Plan) -> Measured:
        if plan.litellm is None:
            return Measured(self.name, missing="not asked for: --litellm")
        async with _proxy(rig, plan.litellm) as (pid, url):
            body = rig.body("litellm", workload.chat(workload.AUTO))
            ours = h2load.Load(rig.url(Listener("ours")), _CONNECTIONS, body, plan.seconds)
            theirs = h2load.Load(url, _CONNECTIONS, body, plan.seconds)
            await h2load.drive(theirs, rig.folder)
            rounds: Rounds = {"ours": [], "litellm": []}
            for round_ in range(plan.rounds):
                for side in in_order(tuple(rounds), round_):
                    load = ours if side == "ours" else theirs
                    pids = processes(rig, side) if side == "ours" else {"processor": pid}
                    rounds[side].append(await metered(pids, _driving(load, rig)))
        rates = [
            ratio(ours["rps"], theirs["rps"])
            for ours, theirs in zip(rounds["ours"], rounds["litellm"], strict=True)
        ]
        return Measured(self.name, rounds, {"rps ÷ LiteLLM's": rates})


def _driving(load: h2load.Load, rig: Rig) -> Callable[[], Awaitable[Sample]]:
    return lambda: h2load.drive(load, rig.folder)


@asynccontextmanager
async def _proxy(rig: Rig, venv: Path) -> AsyncIterator[tuple[int, str]]:
    port = free_port()
    config = rig.folder / "litellm.yaml"
    parameters = {
        "model": "openai/bench",
        "api_base": rig.backend.url("instant"),
        "api_key": "none",
    }
    settings = {
        "model_list": [{"model_name": workload.AUTO, "litellm_params": parameters}],
        # Checking a key would be work that ours is not asked to do. Nobody but us can reach it.
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},
    }
    config.write_text(yaml.safe_dump(settings))
    log = rig.folder / "litellm.log"
    command = (str(venv / "bin" / "litellm"), "--config", str(config), "--host", "127.0.0.1")
    async with running((*command, "--port", str(port), "--num_workers", "1"), log) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not await _is_up(f"{url}/health/liveliness"):
                    if process.returncode is not None:
                        raise BenchFailed(f"litellm ended:\n{tail(log)}")
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise BenchFailed(f"litellm did not start:\n{tail(log)}") from None
        yield process.pid, f"{url}/v1/chat/completions"


async def _is_up(url: str) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False
