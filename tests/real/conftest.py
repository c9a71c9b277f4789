"""One real server, with three names of one real model on it, behind a real Envoy."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from extproc.cli.up.llama import missing
from looper.simulate.server import Simulator
from tests.fakes.needs import lacking
from tests.fakes.stack import Stack, run_stack
from tests.real.server import Server, run_server

ENDLESS = ["garrulous", "wordy"]
TEAM = ["terse", "plain", "wild"]
CHOICE = {"type": "choice", "values": ["A", "B", "C", "D"]}
SURE: dict[str, Any] = {"type": "confidence", "confidence_method": "avg_logprob"}
STEPS = [
    {"id": "solve", "models": TEAM[:2], "prompt": "Answer in one sentence."},
    {
        "id": "check",
        "models": ["wild"],
        "needs": ["solve"],
        "prompt": "Say what is wrong, briefly.",
    },
]


def decision(contract: Any = None, signals: Any = None, **algorithm: Any) -> dict[str, Any]:
    agreed = {} if contract is None else {"contract": contract}
    only = {"name": "team", "algorithm": algorithm, "budget": {"deadline": "100s"}, **agreed}
    return {"decisions": [only]}


RECIPES: dict[str, Any] = {
    "routed": decision(type="single", model="plain"),
    "called": decision(type="single", model="plain", fallbacks=["terse"]),
    "first": decision(**SURE, stages=["plain", "terse"], threshold=0),
    "early": decision(**SURE, stages=["plain", "terse"], threshold=0.99, escalate_early=True),
    "vote": decision(CHOICE, type="ratings", models=TEAM),
    "remom": decision(type="remom", models=TEAM, breadth_schedule=[3], synthesis_model="plain"),
    "fusion": decision(type="fusion", analysis_models=TEAM, judge_model="plain"),
    "workflow": decision(type="workflows", steps=STEPS, final={"model": "plain"}),
    "endless": decision(type="single", model="garrulous", fallbacks=["wordy"]),
    "endless-team": decision(type="fusion", analysis_models=ENDLESS, judge_model="plain"),
    "signal": {
        "signals_deadline": "60s",
        "signals": {
            "wants": {
                **{"type": "model", "model": "terse", "timeout": "60s"},
                "labels": {"math": "a calculation", "story": "a story"},
            }
        },
        "decisions": [
            {"name": "labelled", "when": "wants", "algorithm": {"type": "single", "model": "wild"}},
            {"name": "other", "algorithm": {"type": "single", "model": "plain"}},
        ],
    },
}


CONFIG = {
    "models": [
        {
            "name": name,
            "url": "",
            "rating": 0.6,
            "capabilities": ["logprobs", "json_schema"],
            "max_output": 48,
        }
        for name in TEAM
    ]
    + [{"name": name, "url": ""} for name in ENDLESS],
    "recipes": RECIPES,
    "entrypoints": {name: name for name in RECIPES},
    "debug": True,
}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    if gone := missing():
        lacking(f"{' and '.join(gone)} are missing: make test-real installs them")
    async with run_server(tmp_path_factory.mktemp("llama") / "server.log") as running:
        await running.until(200)
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stack(server: Server) -> AsyncIterator[Stack]:
    async with run_stack(Simulator(), CONFIG, models_at=server.at) as running:
        yield running
