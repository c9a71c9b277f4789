"""The console in a real browser, over a real Envoy with teams of every kind behind it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright

from looper.simulate.server import SimulatedModel, Simulator
from tests.fakes.needs import lacking
from tests.fakes.stack import Stack, run_stack

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip

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
    if not CHROMIUM.exists():
        lacking(f"{CHROMIUM} is missing (Debian: apt-get install chromium)")
    async with async_playwright() as play:
        browser = await play.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        await browser.close()


class Trouble:
    """What went wrong in a page: scripts that failed or were refused, and what was asked of anybody else."""

    def __init__(self, page: Page) -> None:
        self.said: list[str] = []
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("console", self._logged)
        page.on("dialog", lambda dialog: self.said.append(f"dialog {dialog.message}"))
        page.on("request", self._asked)

    def _logged(self, line: ConsoleMessage) -> None:
        # That something is not there is for the page to say.
        if line.type == "error" and not line.text.startswith("Failed to load resource"):
            self.said.append(line.text)

    def _asked(self, request: Request) -> None:
        if not request.url.startswith("http://127.0.0.1:"):
            self.said.append(f"asked {request.url}")


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page in which nothing may go wrong."""
    context = await browser.new_context(viewport={"width": 1280, "height": 860})
    page = await context.new_page()
    page.set_default_timeout(15_000)
    trouble = Trouble(page)
    yield page
    await context.close()
    assert trouble.said == []
