"""A real Envoy and a real processor, watched by a real Prometheus while teams and models do well and badly."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest_asyncio
import yaml

from looper.simulate.faults import Status
from tests.envoy.conftest import quick_models
from tests.fakes.envoy import free_port
from tests.fakes.prometheus import SHIPPED, Prometheus, brisk, run_prometheus
from tests.fakes.stack import Stack, run_stack

ROUTED = "What is the capital of Canada?"
TEAM = "Think step by step: What is 15 percent of 240?"
VOTES = (
    "Which planet has the shortest year?\nA) Mercury\nB) Venus\nC) Mars\nD) Jupiter",
    "Which gas do plants take in for photosynthesis?\nA) oxygen\nB) nitrogen\nC) carbon dioxide\nD) hydrogen",
)
NO_CHOICE = "Which of them?"
CODE = "What does Python's len('héllo') return?"


def demo() -> dict[str, Any]:
    """The configuration of `make observe`, with a signal that asks a model: the demo's models know no labels."""
    config: dict[str, Any] = yaml.safe_load((SHIPPED / "demo.yaml").read_text())
    recipe = config["recipes"]["general"]
    recipe["signals"]["talk"] = {
        "type": "model", "model": "small", "labels": {"code": "a program", "talk": "anything else"}, "any": ["code"],
    }  # fmt: skip
    recipe["decisions"][-2]["when"] = {"any": ["code", "talk"]}
    return {name: config[name] for name in ("models", "recipes", "entrypoints", "envoy")}


@dataclass(frozen=True, slots=True)
class Watched:
    """All of it. `sent` counts requests by decision."""

    stack: Stack
    prometheus: Prometheus
    sent: dict[str, int]

    async def ask(self, text: str, *, stream: bool = False, model: str = "looper/auto") -> int:
        body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream}
        url = f"{self.stack.base_url}/chat/completions"
        async with self.stack.session.post(url, json=body) as response:
            await response.read()
            decision = response.headers.get("x-looper-decision", "")
            self.sent[decision] = self.sent.get(decision, 0) + 1
            return response.status

    async def is_up(self) -> bool:
        return await self.prometheus.total('up{job="looper-processor"}') == 1

    async def drive(self) -> None:
        """Each kind of request once or twice, and each kind of end."""
        simulator = self.stack.simulator
        for stream in (False, True):
            for text in (ROUTED, TEAM, CODE, *VOTES, NO_CHOICE):
                assert await self.ask(text, stream=stream) == 200
        simulator.fault("third", Status(status=503))
        assert await self.ask(TEAM) == 200  # degraded
        for model in ("small", "other", "large"):
            simulator.fault(model, Status(status=503))
        assert await self.ask(TEAM) == 502
        assert await self.ask(ROUTED) == 503
        assert await self.ask(ROUTED, model="nobody") == 404
        for model in simulator.models:
            simulator.fault(model, None)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def watched() -> AsyncIterator[Watched]:
    page = f"127.0.0.1:{free_port()}"
    with TemporaryDirectory(prefix="lp-", dir="/tmp") as folder:
        async with run_stack(quick_models(), demo(), metrics=page) as stack:
            targets = {
                "looper-envoy": stack.stats.removeprefix("http://"),
                "looper-processor": page,
            }
            config = brisk("prometheus-static.yaml", targets, Path(folder))
            async with run_prometheus(config) as prometheus:
                watched = Watched(stack, prometheus, {})
                await watched.drive()
                # What is first seen as 1 has grown by nothing yet; and Envoy shows histograms every five seconds.
                count = "sum (envoy_looper_confidence_permille_count)"
                await prometheus.until(lambda: _is(prometheus, count, at_least=1))
                before = await prometheus.total(count)
                await watched.drive()
                await prometheus.until(lambda: _is(prometheus, count, at_least=before + 1))
                yield watched


async def _is(prometheus: Prometheus, expression: str, *, at_least: float) -> bool:
    return await prometheus.total(expression) >= at_least


@dataclass(frozen=True, slots=True)
class Query:
    """One of the dashboard's, with its panel."""

    panel: str
    kind: str
    unit: str
    expression: str

    def now(self) -> str:
        """What Grafana would ask of five minutes, with nothing chosen."""
        text = self.expression
        for name, value in {
            "$__rate_interval": "5m",
            "$__range": "5m",
            "$namespace": ".*",
            "$decision": ".*",
            "$model": ".*",
            "${model:pipe}": ".*",
        }.items():
            text = text.replace(name, value)
        return text


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SHIPPED / "dashboard.json").read_text())
    return found


def queries() -> list[Query]:
    return [
        Query(panel["title"], panel["type"], panel["fieldConfig"]["defaults"]["unit"], each["expr"])
        for panel in dashboard()["panels"]
        for each in panel.get("targets", ())
    ]
