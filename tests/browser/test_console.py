"""What an operator sees and does, in Chromium, of runs that went through Envoy."""

import asyncio
import json
import re
from typing import Any

import pytest
from playwright.async_api import Locator, Page, Route, expect

from looper.simulate.server import Hang, Status
from tests.fakes.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

HARD = "Think step by step: What is the time complexity of binary search?"
VOTES = {"small": "ANSWER: B", "other": "ANSWER: C", "third": "ANSWER: B", "large": "ANSWER: B"}


async def ask(stack: Stack, model: str, text: str = HARD, **members: Any) -> str:
    """Ask a public name, and return the id of the run."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], **members}
    async with stack.session.post(f"{stack.base_url}/chat/completions", json=body) as answer:
        await answer.read()
        return answer.headers["x-looper-run"]


def say(stack: Stack, **said: str) -> None:
    for name, text in (said or VOTES).items():
        stack.simulator.script(name, *[text] * 3)


async def opened(page: Page, console: str, run: str) -> None:
    await page.goto(f"{console}/#/runs/{run}")
    await expect(page.get_by_title("Copy run id")).to_contain_text(run)
    # An exchange is over a moment after its client has the answer; until then the page is drawn again and again.
    await expect(page.locator(".runhead .badge")).not_to_have_text("running")


def section(page: Page, name: str) -> Locator:
    heading = page.get_by_role("heading", name=name, exact=True)
    return page.locator("section").filter(has=heading)


def call(page: Page, number: int) -> Locator:
    return page.get_by_role("row").filter(has=page.get_by_role("button", name=f"#{number} "))


# The list...


async def test_a_run_appears_while_it_goes_on_and_ends_before_ones_eyes(
    page: Page, console: str, stack: Stack
) -> None:
    """Without anything being loaded again."""
    await page.goto(console)
    await expect(page.get_by_text("live", exact=True)).to_be_visible()
    stack.simulator.fault("small", Hang())
    rows = page.get_by_role("grid").get_by_role("row")
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(ask(stack, "looper/auto"))
        await expect(rows.nth(1)).to_contain_text("running")
        await expect(rows.nth(1)).to_contain_text("panel")
        await rows.nth(1).click()
        await expect(page.get_by_text("running").first).to_be_visible()
        await expect(call(page, 0)).to_contain_text("running")
        await call(page, 0).get_by_role("button").press("Enter")
        asking.cancel()
    await expect(page.locator(".runhead")).to_contain_text("abandoned")
    await expect(call(page, 0)).to_contain_text("cancelled")
    # What was opened meanwhile still is, and has the focus.
    await expect(call(page, 0).get_by_role("button")).to_be_focused()
    await expect(call(page, 0).get_by_role("button")).to_have_attribute("aria-expanded", "true")


async def test_runs_are_found_by_what_one_knows_of_them(
    page: Page, console: str, stack: Stack
) -> None:
    """By id and request id, decision, outcome, model, cost and time, all of them together."""
    run = await ask(stack, "looper/auto")
    say(stack)
    other = await ask(stack, "vote")
    await page.goto(f"{console}/#/runs/{run}")
    request = (await page.get_by_title("Copy request id").inner_text()).strip()
    await page.get_by_role("link", name="Runs", exact=True).click()
    find, grid = page.get_by_label("Find"), page.get_by_role("grid")

    for text in (run, request, request[9:20].upper()):
        await find.fill(text)
        await expect(page.locator(f"#run-{run}")).to_be_visible()
        await expect(grid.get_by_role("row")).to_have_count(2)
    await find.fill("nobody")
    await expect(page.get_by_text("No run is like that.")).to_be_visible()
    await find.fill("")
    await page.get_by_label("Decision").select_option("vote.ballot")
    await expect(page.locator(f"#run-{other}")).to_be_visible()
    await expect(page.locator(f"#run-{run}")).to_have_count(0)
    await page.get_by_label("Model").select_option("third")
    await page.get_by_label("Time").select_option("300")
    await expect(page.locator(f"#run-{other}")).to_be_visible()
    await page.get_by_label("Cost").select_option("100000")
    await expect(page.get_by_text("No run is like that.")).to_be_visible()
    await expect(page.get_by_text(re.compile(r"^0 of \d+ runs$"))).to_be_visible()


async def test_the_list_is_used_without_a_mouse(page: Page, console: str, stack: Stack) -> None:
    """Skip link, arrows, End, Home, Enter; and the page that opens has the focus."""
    runs = [await ask(stack, "vote", "Which?") for _ in range(3)]
    await page.goto(console)
    await page.evaluate("sessionStorage.clear()")
    await expect(page.locator(f"#run-{runs[2]}")).to_be_visible()
    await page.keyboard.press("Tab")
    await expect(page.get_by_text("Skip to content")).to_be_focused()
    await page.get_by_role("grid").focus()
    selected = page.locator("[aria-selected=true]")
    await expect(selected).to_have_id(f"run-{runs[2]}")
    await page.keyboard.press("ArrowDown")
    await expect(selected).to_have_id(f"run-{runs[1]}")
    await expect(page.get_by_role("grid")).to_have_attribute(
        "aria-activedescendant", f"run-{runs[1]}"
    )
    await page.keyboard.press("End")
    await page.keyboard.press("Home")
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(re.compile(f"#/runs/{runs[0]}$"))
    await expect(page.locator("main")).to_be_focused()


# ... one run...


async def test_a_run_shows_its_calls_on_one_axis(page: Page, console: str, stack: Stack) -> None:
    """Stages, first token, end; what each took, and what of the budget that was."""
    run = await ask(stack, "looper/auto", stream=True)
    await opened(page, console, run)
    timeline = page.get_by_role("region", name="Timeline of calls")
    for stage in ("panel", "judge", "final"):
        await expect(timeline.get_by_role("rowheader", name=stage, exact=True)).to_be_visible()
    await expect(call(page, 4)).to_contain_text("large")
    await expect(call(page, 4).locator(".firsttoken")).to_be_visible()
    bars = [await call(page, at).locator(".bar").first.bounding_box() for at in (0, 3, 4)]
    panel, judge, final = (bar for bar in bars if bar is not None)
    assert panel["x"] + panel["width"] <= judge["x"] + 2
    assert judge["x"] + judge["width"] <= final["x"] + 2
    await call(page, 4).get_by_role("button").click()
    await expect(page.get_by_text(re.compile(r"\d+ in, \d+ out$")).last).to_be_visible()
    await expect(section(page, "Budget")).to_contain_text("5 of 6")
    await expect(section(page, "Judge")).to_contain_text("best")


async def test_a_run_says_who_was_asked_beside_and_in_place_of_whom(
    page: Page, console: str, stack: Stack
) -> None:
    say(stack)
    stack.simulator.fault("third", Status(status=500))
    stack.simulator.fault("other", Hang(times=1))
    stack.simulator.script("small", "hm")
    await opened(page, console, await ask(stack, "vote", "Who?"))
    timeline = page.get_by_role("region", name="Timeline of calls")
    for text in ("hedge", "substitute", "the other call was quicker", "500"):
        await expect(timeline.get_by_text(text).first).to_be_visible()


async def test_a_vote_shows_who_stands_where_and_what_escalation_hung_on(
    page: Page, console: str, stack: Stack
) -> None:
    say(stack, **{**VOTES, "third": "ANSWER: D"})
    await opened(page, console, await ask(stack, "vote", "Which of them?"))
    votes, checks = section(page, "Votes"), section(page, "Sure enough?")
    await expect(votes.locator("li.leads")).to_contain_text("B")
    await expect(votes.locator("li.leads")).to_contain_text("weight")
    await expect(votes).to_contain_text("none of these")
    await expect(checks).to_contain_text("goes on")
    await expect(checks).to_contain_text(re.compile(r"0\.\d+ < 0\.\d+"))


async def test_a_plan_is_drawn_and_each_step_stands_behind_what_it_needs(
    page: Page, console: str, stack: Stack
) -> None:
    await opened(page, console, await ask(stack, "plan"))
    plan = section(page, "Plan")
    places = [
        await plan.locator("g.node").filter(has_text=step).bounding_box()
        for step in ("look", "draft", "check")
    ]
    lefts = [place["x"] for place in places if place is not None]
    assert lefts == sorted(lefts)
    assert len(set(lefts)) == 3
    await expect(plan.locator("path.edge")).to_have_count(2)
    await expect(plan.get_by_role("row").filter(has_text="check.1")).to_contain_text("done")


async def test_a_run_that_memory_has_lost_is_said_to_be(page: Page, console: str) -> None:
    await page.goto(f"{console}/#/runs/0000000000000000")
    await expect(page.get_by_text("not in memory any more")).to_be_visible()
    errors = page.get_by_text("404")
    await expect(errors).to_have_count(0)


async def test_a_page_stays_as_it_is_when_the_process_is_heard_of_late(
    page: Page, console: str, stack: Stack
) -> None:
    """What has been opened stays open, and the playground is offered."""
    run, heard = await ask(stack, "looper/auto"), asyncio.Event()

    async def late(route: Route) -> None:
        await heard.wait()
        await route.continue_()

    await page.route("**/api/about", late)
    await opened(page, console, run)
    first = call(page, 0).get_by_role("button")
    await first.press("Enter")
    drawn = await page.evaluate_handle("document.querySelector('main').firstElementChild")
    heard.set()
    await expect(page.get_by_role("link", name="Playground")).to_be_visible()
    await expect(page.get_by_text("live", exact=True)).to_be_visible()
    assert await drawn.evaluate("drawn => drawn.isConnected")
    await expect(first).to_have_attribute("aria-expanded", "true")
    await expect(first).to_be_focused()


NASTY = "<img src=x onerror='window.pwned = 1'><script>window.pwned = 1</script>"


async def test_what_clients_and_models_write_is_text(
    page: Page, console: str, stack: Stack
) -> None:
    """A prompt, answers and a judge's findings that came through Envoy, and a plan's prompts with markup in them."""
    for name in ("small", "other", "third"):
        stack.simulator.script(name, NASTY)
    judged = {"consensus": [NASTY], "winner": 1, "scores": [3, 2, 1], "agreement": 0.5}
    stack.simulator.script("large", json.dumps(judged), NASTY)
    panel = await ask(stack, "looper/auto", f"step by step <b>bold</b> {NASTY}")
    stack.simulator.reset()
    for run, texts in ((panel, 5), (await ask(stack, "plan", NASTY), 1)):
        await opened(page, console, run)
        for closed in await page.locator("summary, button.call").all():
            await closed.click()
        text: str = await page.evaluate("document.querySelector('main').textContent")
        assert text.count(NASTY) >= texts
        assert await page.locator("main img, main script, main i:not(.swatch), main b").count() == 0
        assert await page.evaluate("window.pwned") is None
    told = page.locator("pre.said").filter(has_text="Write <i>it</i>.")
    await expect(told).to_have_count(1)


# ... why...


async def test_a_run_says_why_it_was_decided_so(page: Page, console: str, stack: Stack) -> None:
    """Without the text: readings are the configuration's own words."""
    await opened(page, console, await ask(stack, "looper/auto", "prove it"))
    why = section(page, "Why")
    await expect(why).to_contain_text("difficulty= 0.5")
    await expect(why.locator(".band.here")).to_have_text("medium")
    needle, band = (
        await why.locator(".needle").bounding_box(),
        await why.locator(".band.here").bounding_box(),
    )
    assert needle is not None
    assert band is not None
    assert band["x"] < needle["x"] < band["x"] + band["width"]
    await expect(why.locator(".tried.answers")).to_contain_text("panel")


async def test_a_text_that_one_types_is_decided_and_nobody_is_asked(
    page: Page, console: str, stack: Stack
) -> None:
    before = stack.simulator.running()
    await page.goto(f"{console}/#/why")
    await page.get_by_label("Public name").select_option("looper/auto")
    await page.get_by_label("Text").fill("hello")
    await page.get_by_role("button", name="Decide").click()
    await expect(page.locator(".tried.answers")).to_contain_text("default")
    marks = page.locator(".tried").first.locator(".mark")
    await expect(marks.first).to_have_text(re.compile("false"))
    assert stack.simulator.running() == before
    await page.get_by_label("Text").fill("")
    await page.get_by_role("button", name="Decide").click()
    await expect(page.locator(".tried.answers")).to_contain_text("default")


async def test_the_decision_of_a_run_is_a_link_away_and_can_be_tried_again(
    page: Page, console: str, stack: Stack
) -> None:
    """With what its user wrote, where that is kept, to be changed."""
    await opened(page, console, await ask(stack, "looper/auto", "prove it"))
    await page.get_by_role("link", name="why this decision").click()
    await expect(page.get_by_label("Text")).to_have_value("prove it")
    await expect(page.locator(".tried.answers")).to_contain_text("panel")
    await page.get_by_label("Public name").select_option("looper/auto")
    await page.get_by_label("Text").fill("hello")
    await page.get_by_role("button", name="Decide").click()
    await expect(page.locator(".tried.answers")).to_contain_text("default")


# ... the playground...


async def test_two_names_are_asked_beside_each_other_and_their_runs_shown(
    page: Page, console: str, stack: Stack
) -> None:
    await page.goto(f"{console}/#/playground")
    say(stack)
    await page.get_by_label("Prompt").fill("Which one is it?")
    await page.get_by_label("Public name").select_option("vote")
    await page.get_by_label("Beside it").select_option("chain")
    await page.get_by_role("button", name="Send").click()
    for name, decision in (("vote", "ballot"), ("chain", "climb")):
        side = page.get_by_role("region", name=name, exact=True)
        await expect(side.locator("pre.answer")).to_contain_text("ANSWER: B")
        await expect(side).to_contain_text(f"decision {decision}")
        await expect(side.get_by_role("region", name="Timeline of calls")).to_contain_text("small")
        await expect(side.get_by_role("link", name="open run")).to_be_visible()


async def test_leaving_the_playground_ends_what_it_pays_for(
    page: Page, console: str, stack: Stack
) -> None:
    for name in ("small", "other", "third"):
        stack.simulator.fault(name, Hang())
    await page.goto(f"{console}/#/playground")
    await page.get_by_label("Prompt").fill(HARD)
    await page.get_by_label("Public name").select_option("looper/auto")
    await page.get_by_role("button", name="Send").click()
    await stack.simulator.wait_for(lambda: stack.simulator.running() == 3)
    await page.get_by_role("link", name="Runs", exact=True).click()
    await stack.simulator.wait_for(lambda: stack.simulator.running() == 0)


# ... and the whole.


async def test_the_overview_sums_up_what_is_in_memory(
    page: Page, console: str, stack: Stack
) -> None:
    await ask(stack, "looper/auto")
    say(stack)
    await ask(stack, "chain", "Which?")
    await page.goto(f"{console}/#/overview")
    decisions = page.get_by_role("region", name="Decisions", exact=True)
    panel = decisions.get_by_role("row").filter(has_text="panel")
    await expect(panel).to_contain_text("large alone")
    await expect(panel).to_contain_text("ms / ")
    chain = decisions.get_by_role("row").filter(has_text="climb")
    await expect(chain.locator(".histogram")).to_be_visible()
    await expect(
        page.get_by_role("region", name="Models", exact=True)
        .get_by_role("row")
        .filter(has_text="small")
    ).to_be_visible()
    configuration = section(page, "Configuration")
    await expect(configuration).to_contain_text("in step")
    await expect(configuration).to_contain_text("valid")


async def test_a_file_that_is_wrong_is_shown_with_its_line(
    page: Page, console: str, stack: Stack
) -> None:
    """As soon as it is saved, whatever page is open; and it is gone once it is mended."""
    path = stack.processor.config
    good = path.read_text()
    await page.goto(f"{console}/#/overview")
    await expect(page.get_by_text("in step").first).to_be_visible()
    try:
        path.write_text(good + "\nnonsense: true\n")
        await expect(page.get_by_text("invalid file")).to_be_visible()
        line = len(good.splitlines()) + 2
        await expect(page.get_by_role("alert")).to_contain_text(f"looper.yaml:{line}")
    finally:
        path.write_text(good)
    await expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_a_theme_that_was_chosen_stays(page: Page, console: str, theme: str) -> None:
    await page.goto(console)
    button = page.get_by_role("button", name=re.compile("^Theme"))
    for _ in range(["auto", "light", "dark"].index(theme)):
        await button.click()
    await page.reload()
    await expect(page.locator("html")).to_have_attribute("data-theme", theme)
    await expect(button).to_have_accessible_name(re.compile(f"^Theme: {theme}"))
