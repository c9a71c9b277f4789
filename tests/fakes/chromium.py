"""Debian's Chromium, and what may not go wrong in a page of ours."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright

from tests.fakes.needs import lacking

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
AXE = Path(__file__).parents[1] / "browser" / ".axe" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@asynccontextmanager
async def launched() -> AsyncIterator[Browser]:
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


@asynccontextmanager
async def untroubled(browser: Browser, **options: Any) -> AsyncIterator[Page]:
    """A page in which nothing may go wrong."""
    context = await browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
    page = await context.new_page()
    page.set_default_timeout(15_000)
    trouble = Trouble(page)
    yield page
    await context.close()
    assert trouble.said == []


async def faults(page: Page) -> list[str]:
    """What axe finds, by rule and place."""
    if not AXE.exists():
        lacking("axe-core is missing: make test-browser gets it")
    # The page's own policy lets no script in, so this one comes by the debugger.
    await page.evaluate(AXE.read_text())
    found: Any = await page.evaluate(
        "rules => axe.run({runOnly: {type: 'tag', values: rules}, resultTypes: ['violations']})",
        RULES,
    )
    return [
        f"{each['id']}: {node['target']} {node['failureSummary']}"
        for each in found["violations"]
        for node in each["nodes"]
    ]
