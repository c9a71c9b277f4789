"""`make observe`, and the page of plots in a real browser."""

import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.fakes.chromium import faults, launched, untroubled
from tests.fakes.needs import command
from tests.fakes.prometheus import SHIPPED
from tests.monitoring.conftest import dashboard

# Whichever is first waits for figures to come.
pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

OBSERVE = SHIPPED / "observe.py"
STARTED = "Everything stays up"
QUIET = {
    "Errors by model and code", "Errors by code", "Degraded, by reason", "Broken contracts, by their end",
    "Spend of signals per hour",
}  # fmt: skip
"""Panels that show nothing while all is well, and the demo has no signals that cost anything."""


@dataclass(frozen=True, slots=True)
class Observing:
    """A running `make observe`, and what it printed."""

    process: asyncio.subprocess.Process
    said: str

    @property
    def plots(self) -> str:
        found = re.search(r"^Plots +(\S+)$", self.said, re.MULTILINE)
        assert found, self.said
        return found[1]


async def start(*arguments: str, env: dict[str, str] | None = None) -> Observing:
    command("prometheus", "prometheus")
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(OBSERVE), *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=env,
    )  # fmt: skip
    assert process.stdout is not None
    said = ""
    async with asyncio.timeout(50):
        while STARTED not in said:
            line = await process.stdout.readline()
            assert line, said
            said += line.decode()
    return Observing(process, said)


async def stop(observing: Observing) -> None:
    """As Ctrl-C does: nothing goes wrong, and nobody is left behind."""
    observing.process.send_signal(signal.SIGINT)
    async with asyncio.timeout(20):
        assert await observing.process.wait() == 0
    assert observing.process.stdout is not None
    assert await observing.process.stdout.read() == b""
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(observing.plots)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def observing() -> AsyncIterator[Observing]:
    observing = await start()
    yield observing
    await stop(observing)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with launched() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser, observing: Observing) -> AsyncIterator[Page]:
    async with untroubled(browser) as page:
        await page.goto(observing.plots)
        yield page


def panel(page: Page, title: str) -> Any:
    return page.get_by_role("region", name=title, exact=True)


async def test_every_panel_is_drawn(page: Page) -> None:
    """What the dashboard has, this page has: each panel in its row, with something in it where there is something."""
    # A page so high that all of it is in sight is all drawn.
    await page.set_viewport_size({"width": 1280, "height": 8000})
    await expect(page.get_by_text("live", exact=True)).to_be_visible()
    kinds = {each["title"]: each["type"] for each in dashboard()["panels"]}
    drawn = {"stat": ".spark", "timeseries": ".plot .line", "bargauge": ".meter"}
    for title, kind in kinds.items():
        if kind == "row":
            await expect(
                page.get_by_role("heading", level=2, name=title, exact=True)
            ).to_be_visible()
        elif title not in QUIET:
            await expect(panel(page, title).locator(drawn[kind]).first).to_be_attached(
                timeout=45_000
            )
    assert await page.locator(".alarm").count() == 0
    await expect(panel(page, "Requests by decision")).to_contain_text("ballot")
    await expect(panel(page, "Spend per hour")).to_contain_text("$")


async def test_a_choice_is_kept_to(page: Page) -> None:
    """Of one decision nothing else is shown, and of all again all."""
    shown = panel(page, "Requests by decision")
    await expect(shown).to_contain_text("panel", timeout=30_000)
    await page.get_by_role("combobox", name="Decision", exact=True).select_option("ballot")
    await expect(shown).not_to_contain_text("panel")
    await expect(shown).to_contain_text("ballot")
    await page.get_by_role("combobox", name="Time", exact=True).select_option("1 hour")
    await page.get_by_role("combobox", name="Decision", exact=True).select_option("all")
    await expect(shown).to_contain_text("panel", timeout=30_000)


async def test_variables_are_put_in_as_grafana_does(page: Page) -> None:
    """Envoy has a cluster of a name with underscores where the model's has dots."""
    asked = 'm=~"$model", c=~"model_(${model:pipe})", d=~"$decision" [$__rate_interval] [$__range]'
    filled = await page.evaluate(
        """async (asked) => (await import("./prometheus.js")).filled(
          asked, { rate: 20, seconds: 300 }, { model: "gpt-5.5", decision: "" })""",
        asked,
    )
    assert filled == 'm=~"gpt-5\\\\.5", c=~"model_(gpt-5.5)", d=~".*" [20s] [300s]'


async def test_values_are_read_by_pointer_and_by_keyboard(page: Page) -> None:
    shown = panel(page, "Requests by decision")
    plot = shown.locator(".plot")
    await expect(plot).to_be_visible(timeout=30_000)
    await plot.hover()
    tip = shown.locator(".tip")
    await expect(tip).to_contain_text(re.compile(r"\d\d:\d\d:\d\d"))
    await page.mouse.move(0, 0)
    await expect(tip).to_be_hidden()
    await page.get_by_role("combobox", name="Model", exact=True).focus()
    for _ in range(12):
        await page.keyboard.press("Tab")
        if await plot.evaluate("plot => plot === document.activeElement"):
            break
    await page.keyboard.press("Home")
    first = await tip.inner_text()
    await page.keyboard.press("End")
    await expect(tip).not_to_have_text(first)
    await page.keyboard.press("Escape")
    await expect(tip).to_be_hidden()


@pytest.mark.parametrize("width", [1280, 375])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_is_accessible_and_fits(
    browser: Browser, observing: Observing, scheme: str, width: int
) -> None:
    viewport = {"width": width, "height": 900}
    async with untroubled(
        browser, viewport=viewport, color_scheme=scheme, reduced_motion="reduce"
    ) as page:
        await page.goto(observing.plots)
        await expect(page.locator(".plot").first).to_be_visible(timeout=30_000)
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        assert await faults(page) == []


async def test_alerts_say_what_to_do(page: Page) -> None:
    """Whatever they are about is text."""
    alert = {
        "labels": {"alertname": "LooperModelDown", "model": "<b>large</b>"},
        "annotations": {
            "summary": "<img src=x onerror=alert(1)> fails",
            "action": "Ask its server.",
        },
        "state": "firing",
    }
    answer = json.dumps({"status": "success", "data": {"alerts": [alert]}})
    await page.route(
        "**/api/v1/alerts*",
        lambda route: route.fulfill(body=answer, content_type="application/json"),
    )
    await page.reload()
    told = page.get_by_role("region", name="What to do", exact=True)
    await expect(told).to_contain_text("LooperModelDown <img src=x onerror=alert(1)> fails")
    await expect(told).to_contain_text("Ask its server.")
    await expect(told.locator("img")).to_have_count(0)


async def test_prometheus_that_is_gone_is_told(page: Page) -> None:
    await expect(page.get_by_text("live", exact=True)).to_be_visible()
    await page.route("**/api/v1/**", lambda route: route.abort())
    await expect(page.get_by_text("Prometheus does not answer")).to_be_visible(timeout=20_000)


async def test_the_page_is_written_for_a_prometheus_of_ones_own(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(OBSERVE), "--page", str(tmp_path / "page")
    )
    assert await process.wait() == 0
    html = (tmp_path / "page" / "index.html").read_text()
    for file in re.findall(r'(?:src|href)="([^"#]+)"', html):
        assert (tmp_path / "page" / file).exists(), file
    for script in (tmp_path / "page").glob("*.js"):
        for other in re.findall(r'from "\./([^"]+)"', script.read_text()):
            assert (tmp_path / "page" / other).exists(), other


GRAFANA = """#!{python}
import http.server, json, os, pathlib, sys
class Told(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        folder = pathlib.Path(os.environ["GF_PATHS_PROVISIONING"])
        files = {{str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*.*")}}
        self.send_response(200); self.end_headers()
        self.wfile.write(json.dumps({{"arguments": sys.argv[1:], "files": files}}).encode())
    def log_message(self, *_): pass
at = os.environ["GF_SERVER_HTTP_ADDR"], int(os.environ["GF_SERVER_HTTP_PORT"])
http.server.HTTPServer(at, Told).serve_forever()
"""


async def test_grafana_is_started_where_there_is_one(tmp_path: Path) -> None:
    """This one only tells what it was given: there is none to be had for a test."""
    program = tmp_path / "bin" / "grafana"
    program.parent.mkdir()
    program.write_text(GRAFANA.format(python=sys.executable))
    program.chmod(0o755)
    observing = await start(env={"PATH": f"{program.parent}:/usr/bin:/bin", "HOME": str(tmp_path)})
    try:
        url = re.search(r"^Grafana +(\S+)$", observing.said, re.MULTILINE)
        assert url, observing.said
        async with aiohttp.ClientSession() as session, session.get(url[1]) as response:
            given = await response.json(content_type=None)
    finally:
        await stop(observing)
    assert url[1].endswith("/d/" + dashboard()["uid"])
    assert given["arguments"][:2] == ["server", "--homepath"]
    assert json.loads(given["files"]["shown/dashboard.json"]) == dashboard()
    assert observing.plots.removesuffix("/user/") in given["files"]["datasources/looper.yaml"]
    assert "/shown" in given["files"]["dashboards/looper.yaml"]
