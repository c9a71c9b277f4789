"""A real Prometheus for tests, run with the shipped configuration, and gone when the test is over."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.fakes.envoy import free_port
from tests.fakes.needs import command

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "deploy" / "monitoring"
START_SECONDS = 20

Found = dict[tuple[tuple[str, str], ...], float]
"""The values of a query, by their labels."""


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running one."""

    url: str
    session: aiohttp.ClientSession = field(repr=False)

    async def get(self, path: str, **params: str) -> Any:
        """What its API answers. A query that cannot be understood is an AssertionError."""
        async with self.session.get(f"{self.url}/api/v1/{path}", params=params) as response:
            answer = await response.json()
            assert answer["status"] == "success", (params, answer)
            return answer["data"]

    async def query(self, expression: str) -> Found:
        """What there is now, without what is no number."""
        found = await self.get("query", query=expression)
        pairs = ((each["metric"], float(each["value"][1])) for each in found["result"])
        return {tuple(sorted(labels.items())): value for labels, value in pairs if value == value}

    async def total(self, expression: str) -> float:
        return math.fsum((await self.query(expression)).values())

    async def until(self, holds: Callable[[], Awaitable[bool]], timeout: float = 30.0) -> None:
        async with asyncio.timeout(timeout):
            while not await holds():
                await asyncio.sleep(0.2)


def brisk(name: str, targets: Mapping[str, str], folder: Path) -> Path:
    """The shipped configuration of this name with targets of ours by job, and all that it does every second."""
    config = yaml.safe_load((SHIPPED / name).read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    for rules in SHIPPED.glob("rules/*.yaml"):
        groups = yaml.safe_load(rules.read_text())
        for group in groups["groups"]:
            group.pop("interval", None)
        (folder / rules.name).write_text(yaml.safe_dump(groups))
    config["rule_files"] = [str(folder / rules.name) for rules in SHIPPED.glob("rules/*.yaml")]
    path = folder / "prometheus.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@asynccontextmanager
async def run_prometheus(config: Path, *, log: str = "prometheus.log") -> AsyncIterator[Prometheus]:
    """With this configuration, keeping what it has beside it."""
    address = f"127.0.0.1:{free_port()}"
    path = config.with_name(log)
    with path.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            command("prometheus", "prometheus"),
            *(f"--config.file={config}", f"--storage.tsdb.path={config.parent}/tsdb"),
            *(f"--web.listen-address={address}", "--log.level=warn"),
            stdout=output,
            stderr=output,
        )
    try:
        async with aiohttp.ClientSession() as session:
            await _ready(f"http://{address}", session, process, path)
            yield Prometheus(f"http://{address}", session)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _ready(
    url: str, session: aiohttp.ClientSession, process: asyncio.subprocess.Process, log: Path
) -> None:
    async with asyncio.timeout(START_SECONDS):
        while True:
            assert process.returncode is None, log.read_text()
            try:
                async with session.get(f"{url}/-/ready") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.05)
