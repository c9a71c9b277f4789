"""The console in a real browser, over a real Envoy with teams of every kind behind it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from looper.simulate.server import SimulatedModel, Simulator
from tests.fakes.chromium import launched, untroubled
from tests.fakes.stack import Stack, run_stack

CHOICE = {"type": "choice", "values": ["A", "B", "C", "D"]}
PANEL = {"type": "fusion", "analysis_models": ["small", "other", "third"], "judge_model": "large"}
RECIPES: dict[str, Any] = {
    "general": {
        "signals": {
            "hard": {"type": "keyword", "any": ["prove", "step by step", "<b>bold</b>"]},
            "sums": {"type": "keyword", "any": ["sum", "percent", "integral"]},
            "long": {"type": "context", "at_least": "1k"},
        },
        "projections": {
            "task": {"type": "partition", "members": {"maths": "sums", "proof": "hard"}, "default": "chat"},
            "difficulty": {
                "type": "score",
                "weights": {"hard": 0.5, "sums": 0.3, "long": 0.2},
                "bands": [{"easy": 0.35}, {"medium": 0.65}, {"hard": 1}],
            },
        },
        "decisions": [
            {
                "name": "panel",
                "when": {"any": ["hard", {"all": ["task.maths", {"not": "difficulty.easy"}]}]},
                "algorithm": PANEL,
                "budget": {"calls": 6, "cost_usd": "0.05", "deadline": "20s"},
            },
            {"name": "default", "algorithm": {"type": "single", "model": "small"}},
        ],
    },
    "vote": {
        "decisions": [
            {
                "name": "ballot",
                "algorithm": {
                    "type": "ratings", "models": ["small", "other", "third"], "escalate_to": ["large"],
                    "substitutes": ["spare"], "hedge_after": "300ms",
                },
                "contract": CHOICE,
                "budget": {"deadline": "10s"},
            }
        ]
    },
    "chain": {
        "decisions": [
            {
                "name": "climb",
                "algorithm": {"type": "confidence", "stages": [["small", "other"], "large"]},
                "contract": CHOICE,
                "budget": {"deadline": "10s"},
            }
        ]
    },
    "plan": {
        "decisions": [
            {
                "name": "work",
                "algorithm": {
                    "type": "workflows",
                    "steps": [
                        {"id": "look", "models": ["small", "other"], "prompt": "Look into it."},
                        {"id": "draft", "models": ["third"], "prompt": "Write <i>it</i>.", "needs": ["look"]},
                        {"id": "check", "role": "verifier", "models": ["large"], "prompt": "?", "needs": ["draft"]},
                    ],
                    "final": {"model": "large", "prompt": "Answer."},
                },
                "budget": {"deadline": "20s"},
            }
        ]
    },
}  # fmt: skip
PRICES = {"small": 0.05, "other": 0.10, "third": 0.08, "large": 2.0, "spare": 0.1}
RATINGS = {"small": 0.70, "other": 0.72, "third": 0.68, "large": 0.90, "spare": 0.6}
CHANGE: dict[str, Any] = {
    "models": [
        {
            "name": name,
            "url": "",
            "price": {"input": price, "output": price * 4},
            "rating": RATINGS[name],
            "max_output": 2000,
        }
        for name, price in PRICES.items()
    ],
    "recipes": RECIPES,
    "entrypoints": {
        "looper/auto": "general",
        **{name: name for name in RECIPES if name != "general"},
    },
    "trace": {"record": "full", "keep": 6000},
}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_stack() -> AsyncIterator[Stack]:
    simulator = Simulator(
        [SimulatedModel(name=name, latency=0.05, token_latency=0.003) for name in PRICES]
    )
    async with run_stack(simulator, CHANGE, console=True) as stack:
        yield stack


@pytest.fixture
def stack(shared_stack: Stack) -> Stack:
    shared_stack.simulator.reset()
    return shared_stack


@pytest.fixture
def console(stack: Stack) -> str:
    return f"http://{stack.processor.console}"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with launched() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page in which nothing may go wrong."""
    async with untroubled(browser) as page:
        yield page
