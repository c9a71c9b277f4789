"""What a run may take over all its turns, pauses between them left out, and what its client gets when that is gone."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from looper.simulate.server import Hang, Simulator, Status
from tests.envoy.test_tools import ASKED, MODELS, answered, ask, billed, calls_of, change
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

SECONDS = 5.0
LONG = "Use lookup. " + "Mind this. " * 400
"""A question of more than 1,000 tokens."""


def limited() -> dict[str, Any]:
    """The team under several names, each with a bound of its own."""
    config = change()
    team = config["recipes"]["team"]["decisions"][0]
    algorithm = team["algorithm"]
    bounds: dict[str, dict[str, Any]] = {
        "brief": {"algorithm": {**algorithm, "run_deadline": f"{SECONDS}s"}},
        "few": {"algorithm": {**algorithm, "max_calls": 5}},
        "counted": {"budget": {"calls": 5}},
        "frugal": {"budget": {"tokens": 3000}},
    }
    for model in config["models"]:
        model["max_output"] = 256
    config["recipes"] = {name: {"decisions": [{**team, **bound}]} for name, bound in bounds.items()}
    config["entrypoints"] = {name: name for name in bounds}
    return config


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared() -> AsyncIterator[Stack]:
    async with run_stack(Simulator(MODELS), limited()) as stack:
        yield stack


@pytest.fixture
def stack(shared: Stack) -> Stack:
    shared.simulator.reset()
    return shared


def calling(content: str | None = None) -> dict[str, Any]:
    """An answer that calls the client's tool."""
    function = {"name": "lookup", "arguments": "{}"}
    return {
        "content": content,
        "tool_calls": [{"id": "a1b2c3d4e", "type": "function", "function": function}],
    }


def text(answer: dict[str, Any]) -> Any:
    return answer["choices"][0]["message"]["content"]


async def paused(stack: Stack, name: str, question: str = "Use lookup.") -> dict[str, Any]:
    """The request that goes on with a run which has begun under this name."""
    body = {**ASKED, "model": name, "messages": [{"role": "user", "content": question}]}
    _, _, first = await ask(stack, body)
    assert calls_of(first)
    return answered(body, first)


async def test_what_the_client_takes_does_not_count(stack: Stack) -> None:
    """A run that waits for longer than all its turns may take goes on as if it had not."""
    turn = await paused(stack, "brief")
    await asyncio.sleep(SECONDS + 0.2)
    status, headers, second = await ask(stack, turn)
    assert (status, len(calls_of(second))) == (200, 1)
    await asyncio.sleep(SECONDS + 0.2)
    status, headers, third = await ask(stack, answered(turn, second))

    assert (status, headers["x-looper-outcome"]) == (200, "ok")
    assert text(third) == "The tools say: result 0"


async def test_the_best_answer_when_time_is_up(stack: Stack) -> None:
    """What earlier turns took is not there for this one: calls are given up, and what is known by then is published."""
    slow = stack.simulator.models["long"].model_copy(update={"latency": 0.4 * SECONDS})
    stack.simulator.put(slow)
    stack.simulator.script("short", "by short")
    turn = await paused(stack, "brief")
    for name in ("long", "final"):
        stack.simulator.fault(name, Hang())
    began = time.monotonic()
    status, headers, second = await ask(stack, turn)
    took = time.monotonic() - began

    assert (status, headers["x-looper-outcome"], text(second)) == (200, "fallback", "by short")
    assert took < 0.9 * SECONDS
    await stack.simulator.wait_for(lambda: stack.simulator.running() == 0)
    assert [call.model for call in stack.simulator.calls[2:]] == ["long", "final"]


async def test_no_answer_when_time_is_up(stack: Stack) -> None:
    """504, and as often as it is tried again: the time of a turn that failed is gone, too, and no call is made."""
    turn = await paused(stack, "brief")
    for name in ("long", "short", "final"):
        stack.simulator.fault(name, Hang())
    began = time.monotonic()
    status, _, failed = await ask(stack, turn)
    took = time.monotonic() - began
    assert (status, failed["error"]["code"]) == (504, "deadline_exceeded")
    assert took < SECONDS + 5
    await stack.simulator.wait_for(lambda: stack.simulator.running() == 0)
    count = stack.simulator.count()
    for name in ("long", "short", "final"):
        stack.simulator.fault(name, None)
    for _ in range(2):
        status, headers, failed = await ask(stack, turn)
        assert (status, failed["error"]["code"]) == (504, "deadline_exceeded")
        assert headers["x-should-retry"] == "false"
    assert stack.simulator.count() == count


async def test_max_calls_holds_over_all_turns(stack: Stack) -> None:
    """Whoever asks for tools again and again: the last call that is left is the final answer, with no tools to call."""
    stack.simulator.script("short", "by short")
    stack.simulator.script("long", *[calling()] * 9)
    turn, turns = await paused(stack, "few"), 1
    while turns < 9:
        status, headers, answer = await ask(stack, turn)
        assert status == 200
        if not calls_of(answer):
            break
        turn, turns = answered(turn, answer), turns + 1

    asked = [call.model for call in stack.simulator.calls]
    assert sorted(asked[:2]) == ["long", "short"]
    assert asked[2:] == ["long", "long", "final"]
    assert headers["x-looper-outcome"] == "degraded"


async def test_the_final_model_keeps_to_max_calls(stack: Stack) -> None:
    """It may ask for tools only while there is a call left with which it could use what they say."""
    stack.simulator.script("long", "by long")
    stack.simulator.script("short", "by short")
    stack.simulator.script("final", *[calling()] * 2, "the answer")
    turn = await paused(stack, "few")
    _, _, second = await ask(stack, turn)
    assert calls_of(second)
    status, _, third = await ask(stack, answered(turn, second))

    asked = [call.model for call in stack.simulator.calls]
    assert sorted(asked[:2]) == ["long", "short"]
    assert asked[2:] == ["final"] * 3
    told = [call.parsed.get("tool_choice") for call in stack.simulator.calls[2:]]
    assert told == [None, None, "none"]
    assert (status, text(third)) == (200, "the answer")


async def test_failed_turns_count(stack: Stack) -> None:
    """Calls of a turn that came to nothing are the run's as well, however often the client tries it again."""
    turn = await paused(stack, "counted")
    for name in ("long", "short", "final"):
        stack.simulator.fault(name, Status(status=500))
    statuses = [(await ask(stack, turn))[0] for _ in range(4)]

    assert (statuses[0], statuses[2:]) == (502, [402, 402])
    assert stack.simulator.count() == 5


async def test_the_best_answer_when_tokens_are_spent(stack: Stack) -> None:
    """What is left is too little for any call: none is made, and the one answer that there is is published."""
    stack.simulator.script("short", "by short")
    turn = await paused(stack, "frugal", LONG)
    assert (stack.simulator.count(), billed(stack) > 2000) == (2, True)
    status, headers, second = await ask(stack, turn)

    assert (status, headers["x-looper-outcome"]) == (200, "fallback")
    assert text(second) == "by short"
    assert stack.simulator.count() == 2
    assert second["usage"]["total_tokens"] == 0


async def test_no_answer_when_tokens_are_spent(stack: Stack) -> None:
    """402, and no call is made; nor is one when it is tried again."""
    turn = await paused(stack, "frugal", LONG)
    for _ in range(2):
        status, headers, failed = await ask(stack, turn)
        assert (status, failed["error"]["code"]) == (402, "budget_exhausted")
        assert headers["x-should-retry"] == "false"
    assert stack.simulator.count() == 2
