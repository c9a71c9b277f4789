"""What screen readers, keyboards and weak eyes need: no page has anything that axe finds fault with."""

from typing import Any

import pytest
from playwright.async_api import Browser, expect

from tests.browser.test_console import ask, say
from tests.fakes.chromium import faults
from tests.fakes.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_is_accessible_and_fits(
    browser: Browser, console: str, stack: Stack, scheme: Any, width: int
) -> None:
    """In light and dark, on a screen and on a telephone, where nothing is wider than the page."""
    panel = await ask(stack, "looper/auto", stream=True)
    plan = await ask(stack, "plan")
    say(stack)
    vote = await ask(stack, "vote", "Which?")
    paths = [
        "runs",
        "overview",
        "why",
        "playground",
        *(f"runs/{run}" for run in (panel, plan, vote)),
    ]
    context = await browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = await context.new_page()
    found: dict[str, list[str]] = {}
    for path in paths:
        await page.goto(f"{console}/#/{path}")
        await expect(page.get_by_text("live", exact=True)).to_be_visible()
        await expect(page.get_by_role("heading", level=1)).to_be_visible()
        if path == "why":
            await page.get_by_label("Public name").select_option("looper/auto")
            await page.get_by_label("Text").fill("prove the sum")
            await page.get_by_role("button", name="Decide").click()
            await expect(page.locator(".tried.answers")).to_be_visible()
        if path == "playground":
            await page.get_by_label("Public name").select_option("looper/auto")
            await page.get_by_label("Prompt").fill("prove the sum")
            await page.get_by_role("button", name="Send").click()
            await expect(page.get_by_role("link", name="open run")).to_be_visible()
            await expect(page.get_by_role("button", name="Stop")).to_be_hidden()
        for closed in await page.locator("summary").all():
            await closed.click()
        if said := await faults(page):
            found[path] = said
        wide = await page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, path
    await context.close()
    assert found == {}
