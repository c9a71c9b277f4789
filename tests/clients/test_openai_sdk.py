"""The official OpenAI SDK, against Envoy, as an application would use it."""

import asyncio
from collections.abc import AsyncIterator

import openai
import pytest
import pytest_asyncio

from tests.envoy.conftest import quick_models
from tests.envoy.requests import ROUTED, TEAM
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack() -> AsyncIterator[Stack]:
    async with run_stack(quick_models()) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def client(stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=stack.base_url, api_key="unused") as client:
        yield client


@pytest.mark.parametrize("prompt", [ROUTED, TEAM], ids=["routed", "team"])
async def test_async_completion(client: openai.AsyncOpenAI, prompt: str) -> None:
    """`AsyncOpenAI` gets a completion from one model and from a team alike."""
    completion = await client.chat.completions.create(
        model="looper/auto", messages=[{"role": "user", "content": prompt}]
    )

    assert completion.choices[0].message.content
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.total_tokens > 0


@pytest.mark.parametrize("prompt", [ROUTED, TEAM], ids=["routed", "team"])
async def test_async_stream(client: openai.AsyncOpenAI, prompt: str) -> None:
    """`AsyncOpenAI` streams from one model and from a team alike, with usage at the end if asked for."""
    text, usages = "", []
    async for chunk in await client.chat.completions.create(
        model="looper/auto",
        messages=[{"role": "user", "content": prompt}],
        stream=True,
        stream_options={"include_usage": True},
    ):
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        usages += [chunk.usage] if chunk.usage else []

    assert text
    assert len(usages) == 1


@pytest.mark.parametrize("prompt", [ROUTED, TEAM], ids=["routed", "team"])
async def test_sync_client(stack: Stack, prompt: str) -> None:
    """The synchronous client works the same, streamed and not."""

    def use() -> tuple[str | None, str]:
        with openai.OpenAI(base_url=stack.base_url, api_key="unused") as client:
            whole = client.chat.completions.create(
                model="looper/auto", messages=[{"role": "user", "content": prompt}]
            )
            stream = client.chat.completions.create(
                model="looper/auto", messages=[{"role": "user", "content": prompt}], stream=True
            )
            pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
            return whole.choices[0].message.content, "".join(pieces)

    whole, streamed = await asyncio.to_thread(use)

    assert whole
    assert whole == streamed


async def test_models_are_listed(client: openai.AsyncOpenAI) -> None:
    """`models.list()` shows the public name."""
    assert [model.id async for model in client.models.list()] == ["looper/auto"]


async def test_errors_are_the_sdks_own(client: openai.AsyncOpenAI) -> None:
    """A model that does not exist is the SDK's NotFoundError, with our code."""
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(
            model="nobody", messages=[{"role": "user", "content": "x"}]
        )

    assert caught.value.code == "model_not_found"


async def test_tools_go_to_the_final_stage(stack: Stack, client: openai.AsyncOpenAI) -> None:
    """A team may call the client's tools: the final stage's call reaches the client whole."""
    completion = await client.chat.completions.create(
        model="looper/auto",
        messages=[{"role": "user", "content": f"{TEAM} Use lookup."}],
        tools=[
            {
                "type": "function",
                "function": {
                    "name": "lookup",
                    "description": "Look something up",
                    "parameters": {"type": "object", "properties": {"q": {"type": "string"}}},
                },
            }
        ],
        tool_choice="required",
    )

    choice = completion.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls
    call = choice.message.tool_calls[0]
    assert call.type == "function"
    assert call.function.name == "lookup"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded() -> AsyncIterator[Stack]:
    """The demo with two decisions in front that answer by themselves."""
    signals = {word: {"type": "keyword", "any": [word]} for word in ("password", "hello")}
    change = {
        "recipes": {
            "general": {
                "signals": signals,
                "decisions": [
                    {
                        "name": "guard",
                        "when": "password",
                        "respond": {"status": 429, "message": "Not now.", "code": "come_later"},
                        "on_unknown": "act",
                    },
                    {
                        "name": "greet",
                        "when": "hello",
                        "respond": {"message": "Hello to you."},
                        "on_unknown": "skip",
                    },
                    {"name": "default", "algorithm": {"type": "single", "model": "small"}},
                ],
            }
        }
    }
    async with run_stack(quick_models(), change) as running:
        yield running


async def test_an_answer_that_is_written_down_reads_like_any_other(guarded: Stack) -> None:
    """To the SDK, words of the configuration are a completion, and a stream with its usage at the end."""
    async with openai.AsyncOpenAI(base_url=guarded.base_url, api_key="unused") as client:
        whole = await client.chat.completions.create(
            model="looper/auto", messages=[{"role": "user", "content": "hello"}]
        )
        text, usages = "", []
        async for chunk in await client.chat.completions.create(
            model="looper/auto",
            messages=[{"role": "user", "content": "hello"}],
            stream=True,
            stream_options={"include_usage": True},
        ):
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            usages += [chunk.usage] if chunk.usage else []

    assert whole.choices[0].message.content == text == "Hello to you."
    assert whole.choices[0].finish_reason == "stop"
    assert [usage.total_tokens for usage in usages] == [0]


async def test_an_error_that_is_written_down_is_not_tried_again(guarded: Stack) -> None:
    """The SDK would try a 429 three times, and hear the same each time."""
    asked = 'decision="guard"'

    def count(series: dict[str, float]) -> float:
        named = (name for name in series if name.startswith("envoy_looper_requests_total"))
        return sum(series[name] for name in named if asked in name)

    async with openai.AsyncOpenAI(base_url=guarded.base_url, api_key="unused") as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(
                model="looper/auto", messages=[{"role": "user", "content": "my password"}]
            )

    assert caught.value.code == "come_later"
    await guarded.until_series(lambda series: count(series) >= 1)
    assert count(await guarded.series()) == 1
