"""Answers that stand in the configuration, through a real Envoy, in both body modes."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from looper.simulate.server import Status
from looper.wire.sse import DONE, EventReader
from tests.envoy.conftest import quick_models
from tests.envoy.requests import chat
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

RECIPE = {
    "signals": {
        "secret": {"type": "keyword", "any": ["password"], "roles": "all"},
        "greeting": {"type": "keyword", "any": ["hello"]},
    },
    "decisions": [
        {
            "name": "guard",
            "when": "secret",
            "respond": {"status": 403, "message": "Not here.", "code": "policy_violation"},
            "on_unknown": "act",
        },
        {
            "name": "greet",
            "when": "greeting",
            "respond": {"message": "Hello to you."},
            "on_unknown": "skip",
        },
        {"name": "default", "algorithm": {"type": "single", "model": "small"}},
    ],
}


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["full_duplex", "buffered"])
async def guarded(request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    change: dict[str, Any] = {
        "envoy": {"body_mode": request.param},
        "models": [
            {"name": "small", "url": ""},
            {"name": "open", "upstream_model": "other", "url": "", "public": True},
        ],
        "recipes": {"guarded": RECIPE},
        "entrypoints": {"looper/auto": "guarded"},
    }
    async with run_stack(quick_models(), change) as stack:
        yield stack


async def test_an_error_is_the_clients(guarded: Stack) -> None:
    """Status, code and words are those of the configuration, and no model is called."""
    guarded.simulator.reset()
    async with guarded.session.post(
        f"{guarded.base_url}/chat/completions", json=chat("my password")
    ) as response:
        error = (await response.json())["error"]

    assert (response.status, error["code"], error["message"]) == (
        403,
        "policy_violation",
        "Not here.",
    )
    assert response.headers["x-should-retry"] == "false"
    assert response.headers["x-looper-decision"] == "guard"
    assert response.headers["x-looper-algorithm"] == "respond"
    assert guarded.simulator.count() == 0


PADDING = "x " * (128 << 10)


@pytest.mark.parametrize(
    ("role", "text"),
    [
        ("User", "my password"),
        ("system", "my password"),
        ("stranger", "my password"),
        ("user", "ｐａｓｓｗｏｒｄ"),
        ("user", "PASS\u200bWORD"),
        ("user", f"{PADDING}password{PADDING}"),
    ],
    ids=["capital", "system", "stranger", "full-width", "zero-width", "padded"],
)
async def test_a_guard_is_not_passed_by(guarded: Stack, role: str, text: str) -> None:
    """Neither by a disguise, nor by another role, nor by more than anybody reads."""
    guarded.simulator.reset()
    sent = {"model": "looper/auto", "messages": [{"role": role, "content": text}]}
    async with guarded.session.post(f"{guarded.base_url}/chat/completions", json=sent) as response:
        assert (response.status, response.headers["x-looper-decision"]) == (403, "guard")
    assert guarded.simulator.count() == 0


async def test_words_are_a_completion(guarded: Stack) -> None:
    """To a client it looks as if a model had said it."""
    async with guarded.session.post(
        f"{guarded.base_url}/chat/completions", json=chat("hello")
    ) as response:
        answer = await response.json()

    assert response.status == 200
    assert answer["model"] == "looper/auto"
    assert answer["choices"][0]["message"]["content"] == "Hello to you."


async def test_words_are_a_stream(guarded: Stack) -> None:
    """A client that wants a stream gets one, and its usage if asked for."""
    async with guarded.session.post(
        f"{guarded.base_url}/chat/completions",
        json=chat("hello", stream=True, stream_options={"include_usage": True}),
    ) as response:
        assert response.headers["content-type"] == "text/event-stream"
        events = EventReader().feed(await response.read())

    *chunks, last = [json.loads(event.data) for event in events[:-1]]
    assert events[-1].data == DONE
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text == "Hello to you."
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 0)


async def test_a_public_model_is_no_way_around_a_guard(guarded: Stack) -> None:
    """A model's own name passes the guards first; what they let through is the model's."""
    guarded.simulator.reset()
    said = {}
    for text in ("my password", "hi"):
        async with guarded.session.post(
            f"{guarded.base_url}/chat/completions", json={**chat(text), "model": "open"}
        ) as response:
            await response.read()
            said[text] = response.status, response.headers["x-looper-decision"]

    assert said == {"my password": (403, "guard"), "hi": (200, "public")}
    assert [call.model for call in guarded.simulator.calls] == ["other"]


async def test_is_counted_like_any_other(guarded: Stack) -> None:
    """Statistics know it by its decision, and as algorithm `respond`."""
    before = sum(counted(await guarded.series()))
    async with guarded.session.post(
        f"{guarded.base_url}/chat/completions", json=chat("my password")
    ) as response:
        await response.read()

    await guarded.until_series(lambda series: sum(counted(series)) == before + 1)


def counted(series: dict[str, float]) -> list[float]:
    return [
        value
        for name, value in series.items()
        if name.startswith("envoy_looper_requests_total")
        and 'decision="guard"' in name
        and 'algorithm="respond"' in name
        and 'code="403"' in name
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def unsure() -> AsyncIterator[Stack]:
    """Two recipes whose guard hangs on what a model says; they differ in what they do without its word."""
    asked = {"type": "model", "model": "large", "labels": {"attack": "an attack"}}
    change: dict[str, Any] = {
        "recipes": {
            name: {
                "signals": {"attack": asked},
                "decisions": [
                    {
                        "name": "guard",
                        "when": "attack",
                        "respond": {"status": 403, "message": "Not here."},
                        "on_unknown": name,
                    },
                    {"name": "default", "algorithm": {"type": "single", "model": "small"}},
                ],
            }
            for name in ("act", "skip")
        },
        "entrypoints": {"looper/act": "act", "looper/skip": "skip"},
    }
    async with run_stack(quick_models(), change) as stack:
        yield stack


@pytest.mark.parametrize(("name", "status"), [("act", 403), ("skip", 200)])
async def test_a_guard_that_nobody_can_read_acts_or_not_as_it_says(
    unsure: Stack, name: str, status: int
) -> None:
    """The model behind the signal is down: whether the request passes is the configuration's word."""
    unsure.simulator.reset()
    unsure.simulator.fault("large", Status(status=500))
    async with unsure.session.post(
        f"{unsure.base_url}/chat/completions", json={**chat("hi"), "model": f"looper/{name}"}
    ) as response:
        await response.read()

    assert response.status == status
    called = [call.model for call in unsure.simulator.calls]
    assert ("small" in called) == (name == "skip")
