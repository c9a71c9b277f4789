"""Words of clients, models and operators are text, whatever they look like; and nobody else's page gets at them."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from playwright.async_api import Browser, Page, expect

from extproc.config import load_config
from extproc.serving.admin import Access, Facts, admin
from extproc.serving.lag import Lag
from extproc.serving.reload import Reloads
from extproc.serving.versions import at_work
from tests.fakes.envoy import free_port
from tests.fakes.records import record
from tests.fakes.stack import DEMO

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAYLOADS = [
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    "<svg/onload=window.pwned=1>",
    "<a href='javascript:window.pwned=1'>click</a>",
    "javascript:window.pwned=1",
    "\"><iframe srcdoc='<script>parent.pwned=1</script>'></iframe>",
    "{{constructor.constructor('window.pwned=1')()}}",
    "</pre></style><style>*{display:none}</style>",
    "${window.pwned=1}",
    "\u202e\u0000<b>bold</b>",
    "__proto__",
]
TOKEN = "a token of some length"


HOSTILE = yaml.safe_load(Path(__file__).with_name("hostile.yaml").read_text())


def hostile(payload: str, number: int) -> dict[str, Any]:
    """A record in which everything that is a string is a payload."""

    def put(value: Any) -> Any:
        match value:
            case dict():
                return {put(name): put(each) for name, each in value.items()}
            case list():
                return [put(each) for each in value]
            case "PAYLOAD":
                return payload
            case _:
                return value

    filled: dict[str, Any] = put(HOSTILE)
    return {**filled, "run": f"{number:016x}"}


@pytest_asyncio.fixture(loop_scope="session")
async def facts() -> AsyncIterator[tuple[Facts, str]]:
    address = f"127.0.0.1:{free_port()}"
    async with at_work(load_config(DEMO)) as versions:
        found = Facts(versions, Reloads(), Lag())
        async with admin(found, Access(address)):
            yield found, f"http://{address}"


async def unharmed(page: Page) -> None:
    """Nothing ran, and nothing became an element."""
    assert await page.evaluate("window.pwned") is None
    assert (
        await page.locator("iframe, main img, main script, main style, main b, main object").count()
        == 0
    )
    assert await page.locator("a:not([href^='#'])").count() == 0


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_payloads_are_text_wherever_they_stand(
    page: Page, facts: tuple[Facts, str], payload: str
) -> None:
    """In the list, its filters, a run with every section open, and the overview."""
    found, url = facts
    for number in range(3):
        found.process.runs.add(hostile(payload, number))
    found.reloads.problems = [payload]
    await page.goto(url)
    await expect(page.locator(".rows .row")).to_have_count(3)
    await unharmed(page)
    shown = payload.replace("\u0000", "")
    await page.locator(".rows .row").first.click()
    await expect(page.get_by_role("heading", name="Timeline")).to_be_visible()
    for closed in await page.locator("summary, button.call").all():
        await closed.click()
    texts: str = await page.evaluate("document.querySelector('main').textContent")
    assert texts.replace("\u0000", "").count(shown) > 40
    await unharmed(page)
    await page.goto(f"{url}/#/overview")
    await expect(page.get_by_role("region", name="Decisions", exact=True)).to_be_visible()
    await expect(page.get_by_role("alert")).to_be_visible()
    await unharmed(page)
    await page.locator("body").click()
    await unharmed(page)


async def test_no_script_gets_in_that_is_not_the_consoles(
    browser: Browser, facts: tuple[Facts, str]
) -> None:
    """Even if something were put in as HTML: the policy refuses to run it, and refuses HTML itself."""
    _, url = facts
    page = await browser.new_page()
    await page.goto(url)
    tried = """() => {
      const script = document.createElement("script");
      const link = document.createElement("a");
      const ways = [
        () => { script.textContent = "window.pwned = 1"; },
        () => { script.src = "data:text/javascript,window.pwned=1"; },
        () => { document.body.innerHTML = "<img src=x onerror='window.pwned = 1'>"; },
        () => { document.write("<script>window.pwned = 1</" + "script>"); },
      ];
      const ends = ways.map((way) => { try { way(); return "done"; } catch (error) { return error.name; } });
      link.setAttribute("href", "javascript:window.pwned=1");
      document.body.append(script, link);
      link.click();
      return ends;
    }"""
    assert await page.evaluate(tried) == ["TypeError"] * 4
    assert await page.evaluate("window.pwned") is None
    await page.close()


async def test_another_origins_page_reads_and_sends_nothing(
    browser: Browser, facts: tuple[Facts, str]
) -> None:
    """Not the console in a frame, not its data, and no request that does anything."""
    found, url = facts
    found.process.runs.add(record(1))
    other = f"127.0.0.1:{free_port()}"
    # Any other page on this machine: its port makes it another origin, though the same site.
    async with (
        at_work(load_config(DEMO)) as versions,
        admin(Facts(versions, Reloads(), Lag()), Access(other)),
    ):
        page = await browser.new_page(bypass_csp=True)
        await page.goto(f"http://{other}")
        ask = """async ([url, options]) => {
          try { return await (await fetch(url, options)).text(); }
          catch (error) { return error.name; }
        }"""
        simple = {
            "method": "POST",
            "body": json.dumps({"model": "looper/auto", "messages": []}),
            "headers": {"content-type": "text/plain"},
        }
        assert await page.evaluate(ask, [f"{url}/runs", {}]) == "TypeError"
        assert await page.evaluate(ask, [f"{url}/explain", simple]) == "TypeError"
        assert await page.evaluate(ask, [f"{url}/runs", {"mode": "no-cors"}]) == "TypeError"
        await page.close()


async def test_a_process_that_wants_a_token_is_opened_with_it(page: Page, browser: Browser) -> None:
    """A wrong one asks again; the right one is kept for the tab, and stands in no address."""
    address = f"127.0.0.1:{free_port()}"
    async with at_work(load_config(DEMO)) as versions:
        found = Facts(versions, Reloads(), Lag())
        found.process.runs.add(record(1))
        async with admin(found, Access(address, TOKEN)):
            other = await browser.new_page()
            await other.goto(f"http://{address}")
            field = other.get_by_label("Token")
            await field.fill("something that is wrong")
            await field.press("Enter")
            await expect(field).to_have_value("")
            await field.fill(TOKEN)
            await field.press("Enter")
            await expect(other.locator(".rows .row")).to_have_count(1)
            await other.reload()
            await expect(other.locator(".rows .row")).to_have_count(1)
            assert TOKEN not in other.url
            await other.close()


async def test_without_full_records_there_is_nothing_of_what_was_said(
    page: Page, facts: tuple[Facts, str]
) -> None:
    """And the page says why."""
    found, url = facts
    found.process.runs.add(record(1))
    await page.goto(f"{url}/#/runs/{1:016x}")
    await expect(page.get_by_text("What was said is not kept")).to_be_visible()
    await expect(page.locator("code", has_text="trace: {record: full}")).to_be_visible()
    await expect(page.get_by_role("heading", name="Answers")).to_have_count(0)


async def test_a_routed_request_is_shown_as_one(page: Page, facts: tuple[Facts, str]) -> None:
    """It has no stages and no calls of ours, but a place in the list, the overview, and a page."""
    found, url = facts
    known = ("version", "run", "time", "recipe", "decision", "algorithm", "seconds", "request")
    routed = {name: value for name, value in record(1).items() if name in known}
    found.process.runs.add({**routed, "kind": "routed", "model": "small", "cost_microusd": 7})
    await page.goto(url)
    line = page.locator(".rows .row")
    await expect(line).to_contain_text("routed")
    await expect(line).to_contain_text("small")
    await expect(line.locator(".calls")).to_have_text("1")
    await expect(line).to_contain_text("$0.000007")
    await line.click()
    await expect(page.locator(".runhead .badge")).to_have_text("routed")
    await page.goto(f"{url}/#/overview")
    models = page.get_by_role("region", name="Models", exact=True)
    await expect(models.get_by_role("row").filter(has_text="small")).to_contain_text("1")
