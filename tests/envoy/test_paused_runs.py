"""What a run that waits for the client's tools may still do: after a reload, and with what it has left."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
import yaml

from looper.simulate.server import Hang, SimulatedModel, Simulator
from tests.envoy.test_reload import admin, edit
from tests.envoy.test_tools import ASKED, MODELS, answered, ask, calls_of, change
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

SPARE = SimulatedModel(name="spare", skill=1.0)


def with_a_spare_model() -> dict[str, Any]:
    """The team, which has a tag, and a model beside it that has another."""
    config = change()
    for model in config["models"]:
        model["tags"] = ["ours"]
    config["models"].append({"name": "spare", "url": "", "tags": ["ours", "private"]})
    return config


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared() -> AsyncIterator[Stack]:
    async with run_stack(Simulator((*MODELS, SPARE)), with_a_spare_model()) as stack:
        yield stack


@pytest_asyncio.fixture(loop_scope="session")
async def stack(shared: Stack) -> AsyncIterator[Stack]:
    """The stack, whose file is as it was when the test is over."""
    shared.simulator.reset()
    before = shared.processor.config.read_text()
    yield shared
    if shared.processor.config.read_text() != before:
        await reload(shared, lambda config: config.update(yaml.safe_load(before)))


async def reload(stack: Stack, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the file, and wait until that is at work."""
    before = (await admin(stack, "/config"))["generation"]
    edit(stack.processor.config, change)
    async with asyncio.timeout(15):
        while True:
            said = await admin(stack, "/config")
            assert said["valid"], said["problems"]
            if said["generation"] != before:
                return
            await asyncio.sleep(0.05)


async def told_of(stack: Stack, run: str, count: int) -> list[dict[str, Any]]:
    """The log's lines on going on with a run; each comes a moment after its client's answer."""
    async with asyncio.timeout(5):
        while True:
            *lines, _ = stack.processor.log.read_text().split("\n")
            told = [json.loads(line) for line in lines if f'"resumes":"{run}"' in line]
            if len(told) == count:
                return told
            await asyncio.sleep(0.02)


def decision(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["recipes"]["team"]["decisions"][0]
    return found


def without_a_worker(config: dict[str, Any]) -> None:
    """Another model works in the place of one, which is gone."""
    config["models"] = [each for each in config["models"] if each["name"] != "short"]
    decision(config)["algorithm"]["steps"][1]["models"] = ["spare"]


def without_the_final_model(config: dict[str, Any]) -> None:
    config["models"] = [each for each in config["models"] if each["name"] != "final"]
    decision(config)["algorithm"]["final"]["model"] = "spare"


def under_another_name(config: dict[str, Any]) -> None:
    decision(config)["name"] = "crew"


def by_another_algorithm(config: dict[str, Any]) -> None:
    decision(config)["algorithm"] = {
        "type": "fusion",
        "analysis_models": ["long", "short"],
        "judge_model": "final",
    }


def in_another_recipe(config: dict[str, Any]) -> None:
    config["recipes"]["crew"] = config["recipes"].pop("team")
    config["entrypoints"] = {"team": "crew"}


def for_others_eyes(config: dict[str, Any]) -> None:
    """All models are still there, but what is private may be seen by one of them alone."""
    config["recipes"]["team"]["allow_tags"] = ["private"]
    for step in decision(config)["algorithm"]["steps"]:
        step["models"] = ["spare"]
    decision(config)["algorithm"]["final"]["model"] = "spare"


@pytest.mark.parametrize(
    "change",
    [
        without_a_worker,
        without_the_final_model,
        under_another_name,
        by_another_algorithm,
        in_another_recipe,
        for_others_eyes,
    ],
)
async def test_a_run_that_has_no_place_any_more(
    stack: Stack, change: Callable[[dict[str, Any]], None]
) -> None:
    """410 with no call made, as often as it is tried; the run is kept and goes on where it has a place again."""
    _, began, first = await ask(stack, ASKED)
    turn = answered(ASKED, first)
    before = yaml.safe_load(stack.processor.config.read_text())
    await reload(stack, change)
    for _ in range(2):
        status, headers, answer = await ask(stack, turn)
        assert (status, answer["error"]["code"]) == (410, "state_outdated")
        assert "x-looper-run" not in headers
    assert stack.simulator.count() == 2
    for told in await told_of(stack, began["x-looper-run"], 2):
        assert told["code"] == "state_outdated"
        assert (told["recipe"], told["decision"]) == ("team", "team")

    status, _, _ = await ask(stack, {**ASKED, "tools": []})
    assert status == 200
    count = stack.simulator.count()
    await reload(stack, lambda config: config.update(before))
    status, _, second = await ask(stack, turn)

    assert (status, len(calls_of(second))) == (200, 1)
    asked = [call.model for call in stack.simulator.calls[count:]]
    assert sorted(asked[:2]) == ["long", "short"]
    assert asked[2:] == ["final"]


async def test_a_run_goes_on_after_a_reload_that_leaves_it_its_models(stack: Stack) -> None:
    """It goes on by the plan that it began with, whatever new runs do, and models that it does not need may go."""

    def otherwise(config: dict[str, Any]) -> None:
        config["models"] = [each for each in config["models"] if each["name"] != "spare"]
        algorithm = decision(config)["algorithm"]
        algorithm["steps"] = [{"id": "alone", "models": ["final"], "prompt": "Be quick."}]

    _, _, first = await ask(stack, ASKED)
    turn = answered(ASKED, first)
    await reload(stack, otherwise)
    status, _, second = await ask(stack, turn)
    status_at_last, _, third = await ask(stack, answered(turn, second))
    asked = [call.model for call in stack.simulator.calls[2:]]

    assert (status, status_at_last) == (200, 200)
    assert third["choices"][0]["message"]["content"] == "The tools say: result 0"
    assert sorted(asked[:2]) == ["long", "short"]
    assert asked[2:] == ["final", "final"]


async def test_where_there_is_too_much_to_do() -> None:
    """A run that waits is not answered by a stand-in: 503 until there is room, and then it goes on."""
    config = change(limits={"max_runs": 1, "max_waiting": 0})
    decision(config)["overload"] = "final"
    async with run_stack(Simulator(MODELS), config) as stack:
        _, _, first = await ask(stack, ASKED)
        turn = answered(ASKED, first)
        for name in ("long", "short"):
            stack.simulator.fault(name, Hang())
        async with asyncio.TaskGroup() as group:
            busy = group.create_task(ask(stack, ASKED))
            await stack.simulator.wait_for(lambda: stack.simulator.running() == 2)
            status, headers, refused = await ask(stack, turn)
            stands_in, _, _ = await ask(stack, ASKED)
            busy.cancel()
        asked = [call.model for call in stack.simulator.calls[4:]]
        await stack.simulator.wait_for(lambda: stack.simulator.running() == 0)
        for name in ("long", "short"):
            stack.simulator.fault(name, None)
        async with asyncio.timeout(5):
            while (result := await ask(stack, turn))[0] == 503:
                await asyncio.sleep(0.02)

    assert (status, refused["error"]["code"]) == (503, "overloaded")
    assert "retry-after" in headers
    assert (stands_in, asked) == (200, ["final"])
    assert (result[0], len(calls_of(result[2]))) == (200, 1)


async def test_whose_a_run_is_does_not_change_with_the_file(stack: Stack) -> None:
    """`state` is read at the start: Envoy, too, sends another header only after a restart."""

    def by_another_header(config: dict[str, Any]) -> None:
        config["state"]["identity"] = {"header": "x-somebody"}

    _, _, first = await ask(stack, ASKED)
    turn = answered(ASKED, first)
    await reload(stack, by_another_header)
    refused, _, _ = await ask(stack, turn, "you")
    count = stack.simulator.count()
    status, _, _ = await ask(stack, turn)

    assert (refused, count, status) == (409, 2, 200)
