"""What a decision sets in requests and their headers, through a real Envoy, in both body modes."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.envoy.conftest import quick_models
from tests.envoy.requests import TEAM, chat
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

SET = {
    "parameters": {
        "max_tokens": {"default": 60, "cap": 100},
        "temperature": {"set": 0.5},
        "reasoning_effort": {"cap": "low"},
        "system_prompt": {"text": "Be kind.", "mode": "append"},
    },
    "headers": {
        "set": {"x-tenant": "gold"},
        "append": {"x-tags": "ours", "x-more": "ours"},
        "remove": ["x-inner"],
    },
}
PANEL = {"type": "fusion", "analysis_models": ["small", "other"], "judge_model": "large"}
TEAM_OF = ("small", "other", "large")
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
FROM_CLIENT = {"x-tenant": "mine", "x-tags": "theirs", "x-inner": "secret", "x-kept": "as it is"}


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["full_duplex", "buffered"])
async def setting(request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    change = {
        "envoy": {"body_mode": request.param},
        "models": [
            {"name": "small", "url": "", "dialect": "openai"},
            {"name": "other", "url": "", "dialect": "mistral"},
            {"name": "large", "url": ""},
            {
                "name": "thinker",
                "url": "",
                "upstream_model": "third",
                "dialect": "openai-reasoning",
            },
        ],
        "recipes": {
            "one": {"decisions": [decision({"type": "single", "model": "small"})]},
            "team": {"decisions": [decision(PANEL)]},
            "thinker": {"decisions": [decision({"type": "single", "model": "thinker"})]},
        },
        "entrypoints": {"one": "one", "team": "team", "looper/thinker": "thinker"},
    }
    async with run_stack(quick_models(), change) as stack:
        yield stack


def decision(algorithm: dict[str, Any]) -> dict[str, Any]:
    return {"name": "only", "algorithm": algorithm, **SET}


async def send(stack: Stack, model: str, **members: Any) -> list[Any]:
    """The calls that a request leads to."""
    stack.simulator.reset()
    body = {**chat(TEAM), "messages": MESSAGES, **members, "model": model}
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json=body, headers=FROM_CLIENT
    ) as response:
        assert response.status == 200, await response.text()
        await response.read()
    return stack.simulator.calls


async def test_a_routed_request_is_set_and_bounded(setting: Stack) -> None:
    """Caps, defaults and instructions reach the model, under the names of its dialect, and all else as it came."""
    (call,) = await send(setting, "one", max_tokens=5000, reasoning_effort="high", seed=7)

    sent = json.loads(call.body)
    assert sent["messages"][0] == {"role": "system", "content": "Be brief.\n\nBe kind."}
    assert sent["max_completion_tokens"] == 100
    assert "max_tokens" not in sent
    assert (sent["temperature"], sent["reasoning_effort"], sent["seed"]) == (0.5, "low", 7)


async def test_what_is_ours_is_left_out_where_it_is_not_taken(setting: Stack) -> None:
    """A temperature that a decision sets must not make a model refuse the request."""
    (call,) = await send(setting, "looper/thinker", temperature=1)

    sent = json.loads(call.body)
    assert "temperature" not in sent
    assert sent["max_completion_tokens"] == 60


async def test_every_answering_stage_is_set_and_bounded(setting: Stack) -> None:
    """Panel and final model have the decision's settings in their dialects; the judge has its own."""
    calls = await send(setting, "team", max_tokens=5000, reasoning_effort="high")

    bodies = {
        name: [json.loads(call.body) for call in calls if call.model == name] for name in TEAM_OF
    }
    (small,), (other,), (*judging, final) = bodies.values()
    assert judging
    for sent in (small, other, *judging, final):
        assert sent["messages"][0]["content"] == "Be brief.\n\nBe kind."
    for sent in (small, other, final):
        assert sent["temperature"] == 0.5
    assert small["max_completion_tokens"] == 100
    assert other["max_tokens"] == final["max_tokens"] == 100
    assert {sent["reasoning_effort"] for sent in (small, other, final)} == {"low"}
    for sent in judging:
        assert not {"temperature", "reasoning_effort"} & sent.keys()
        assert sent["max_tokens"] > 100


async def test_headers_of_a_routed_request_are_changed(setting: Stack) -> None:
    """Set in place of the client's, appended behind it, removed, and left alone."""
    (call,) = await send(setting, "one")

    assert call.headers["x-tenant"] == "gold"
    assert call.headers["x-tags"].replace(" ", "") == "theirs,ours"
    assert call.headers["x-more"] == "ours"
    assert "x-inner" not in call.headers
    assert call.headers["x-kept"] == "as it is"


async def test_headers_of_a_teams_calls_are_set(setting: Stack) -> None:
    """Each call of a team has them, and none of the client's."""
    for call in await send(setting, "team"):
        assert call.headers["x-tenant"] == "gold"
        assert call.headers["x-tags"] == "ours"
        assert not {"x-inner", "x-kept"} & call.headers.keys()


async def test_nothing_was_refused_by_envoy(setting: Stack) -> None:
    """The filter's allow-list has every header that the configuration changes."""
    await send(setting, "one")
    stats = await setting.envoy.get("/stats?filter=rejected_header_mutations")

    assert stats.strip()
    assert all(line.endswith(": 0") for line in stats.strip().splitlines())
