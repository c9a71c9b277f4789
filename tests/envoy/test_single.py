"""One model for a request, through a real Envoy: which one it is, and how it is spoken to."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from looper.simulate.server import Status
from tests.envoy.conftest import quick_models
from tests.envoy.requests import chat
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

SHARES = [
    {"model": "small", "weight": 3},
    {"model": "other", "weight": 1},
    {"model": "large", "weight": 0},
]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}

TEAM = {"type": "fusion", "analysis_models": ["small", "large"], "judge_model": "large"}


def recipe(**single: Any) -> dict[str, Any]:
    return {"decisions": [{"name": "only", "algorithm": {"type": "single", **single}}]}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def singles() -> AsyncIterator[Stack]:
    change = {
        "models": [
            {"name": "small", "url": "", "capabilities": ["logprobs"], "dialect": "vllm"},
            {"name": "other", "url": "", "capabilities": ["tools"], "context_window": "4k"},
            {"name": "large", "url": ""},
        ],
        "recipes": {
            "shared": recipe(models=SHARES),
            "backed": recipe(models=SHARES[:2], fallbacks=["large"]),
            "team": {
                "decisions": [{"name": "only", "algorithm": TEAM, "tools": {"bypass": "other"}}]
            },
            "small": recipe(model="small"),
            "other": recipe(model="other"),
        },
        "entrypoints": {name: name for name in ("shared", "backed", "team")}
        | {f"looper/{name}": name for name in ("small", "other")},
    }
    async with run_stack(quick_models(), change) as stack:
        yield stack


async def send(stack: Stack, model: str, text: str = "hi", **members: Any) -> tuple[int, Any]:
    body = {**chat(text, **members), "model": model}
    async with stack.session.post(f"{stack.base_url}/chat/completions", json=body) as response:
        return response.status, await response.json()


async def test_conversations_are_shared_out_and_keep_their_model(singles: Stack) -> None:
    """Three in four go to the model of weight 3, in their next turn as well, and none to that of weight 0."""
    singles.simulator.reset()
    for number in range(80):
        first = {"role": "user", "content": f"question {number}"}
        later = [
            first,
            {"role": "assistant", "content": "yes"},
            {"role": "user", "content": "and?"},
        ]
        for messages in ([first], later):
            assert (await send(singles, "shared", messages=messages))[0] == 200

    models = [call.model for call in singles.simulator.calls]
    assert models[::2] == models[1::2]
    assert set(models) == {"small", "other"}
    assert 45 <= models[::2].count("small") <= 75


async def test_another_kind_of_request_goes_to_the_main_model(singles: Stack) -> None:
    """Embeddings of two models have nothing to do with each other."""
    singles.simulator.reset()
    for number in range(8):
        data = {"model": "shared", "input": f"text {number}"}
        async with singles.session.post(f"{singles.base_url}/embeddings", json=data) as response:
            await response.read()

    assert {json.loads(call.body)["model"] for call in singles.simulator.calls} == {"small"}
    assert len(singles.simulator.calls) == 8


async def test_a_share_that_cannot_take_the_request_is_passed_over(singles: Stack) -> None:
    """A conversation with tools goes to the model that knows them, whatever the weights say."""
    singles.simulator.reset()
    for number in range(12):
        assert (await send(singles, "shared", f"q{number}", tools=[TOOL]))[0] == 200

    assert {call.model for call in singles.simulator.calls} == {"other"}


async def test_fallbacks_answer_for_whichever_model_was_chosen(singles: Stack) -> None:
    """A model that is down is replaced by the fallback, not by the other share."""
    singles.simulator.reset()
    singles.simulator.fault("small", Status(status=500))
    singles.simulator.fault("other", Status(status=500))
    for number in range(8):
        status, answer = await send(singles, "backed", f"q{number}")
        assert status == 200
        assert answer["model"] == "backed"

    models = [call.model for call in singles.simulator.calls]
    assert models.count("large") == 8
    assert len(models) == 16


@pytest.mark.parametrize(
    ("model", "members", "code"),
    [
        ("looper/small", {"tools": [TOOL]}, "unsupported_by_model"),
        ("looper/other", {"text": "word " * 8000}, "context_length_exceeded"),
    ],
)
async def test_a_request_that_nobody_can_take_is_the_clients_mistake(
    singles: Stack, model: str, members: dict[str, Any], code: str
) -> None:
    """It is refused with the reason, and no call is made."""
    singles.simulator.reset()
    status, answer = await send(singles, model, **members)

    assert (status, answer["error"]["code"]) == (400, code)
    assert singles.simulator.count() == 0


async def test_a_routed_model_is_spoken_to_in_its_dialect(singles: Stack) -> None:
    """Limit and effort have the names that vLLM knows, and all else is as it came."""
    singles.simulator.reset()
    status, _ = await send(
        singles, "looper/small", max_completion_tokens=50, reasoning_effort="none", temperature=0.5
    )

    (call,) = singles.simulator.calls
    sent = json.loads(call.body)
    assert status == 200
    assert sent["max_tokens"] == 50
    assert sent["reasoning_effort"] == "none"
    assert sent["temperature"] == 0.5
    assert not {"max_completion_tokens", "chat_template_kwargs"} & sent.keys()


async def test_a_conversation_with_tools_may_bypass_a_team(singles: Stack) -> None:
    """One model answers, by Envoy's route, with the tools that the client offers."""
    singles.simulator.reset()
    status, _ = await send(singles, "team", tools=[TOOL])

    (call,) = singles.simulator.calls
    assert (status, call.model) == (200, "other")
    assert json.loads(call.body)["tools"] == [TOOL]

    await send(singles, "team")
    assert {call.model for call in singles.simulator.calls[1:]} == {"small", "large"}
