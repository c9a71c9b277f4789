"""What the programs of clients talk to: one model, a team, and a team whose last model is slow."""

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from looper.simulate.server import SimulatedModel, Simulator
from tests.fakes.stack import Stack, run_stack

NAMES = ("one", "two", "final", "slow", "agent")


def _team(final: str) -> dict[str, Any]:
    return {
        "type": "fusion",
        "analysis_models": ["one", "two"],
        "judge_model": "one",
        "final_model": final,
    }


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def programs_stack() -> AsyncIterator[Stack]:
    algorithms = {
        "one": {"type": "single", "model": "one"},
        "team": _team("final"),
        "slow": _team("slow"),
        "agent": {"type": "single", "model": "agent"},
    }
    change: dict[str, Any] = {
        "models": [{"name": name, "url": ""} for name in NAMES],
        "recipes": {
            name: {"decisions": [{"name": name, "algorithm": algorithm}]}
            for name, algorithm in algorithms.items()
        },
        "entrypoints": {f"looper/{name}": name for name in algorithms},
    }
    models = [
        SimulatedModel(
            name=name, skill=1.0, latency=0.0, token_latency=0.1 if name == "slow" else 0.0
        )
        for name in NAMES
    ]
    async with run_stack(Simulator(models), change) as stack:
        yield stack
