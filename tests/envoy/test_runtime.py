"""The loop runtime through a real Envoy: fallbacks, retries, overload, keepalive, debug, dialects."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from looper.simulate.server import Cut, ReceivedCall, SimulatedModel, Simulator, Status
from looper.wire.sse import DONE, EventReader
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

NAMES = ("first", "second", "gpt", "mistral", "long", "slow", "quick")
BUDGET = {"deadline": "5s"}
LONG_ID = "call_" + "x" * 60


def single(model: str, *fallbacks: str, calls: int | None = None) -> dict[str, Any]:
    budget = BUDGET if calls is None else {**BUDGET, "calls": calls}
    algorithm = {"type": "single", "model": model, "fallbacks": list(fallbacks)}
    return {"decisions": [{"name": "only", "algorithm": algorithm, "budget": budget}]}


def team(**decision: Any) -> dict[str, Any]:
    algorithm = {"type": "fusion", "analysis_models": ["slow"], "judge_model": "quick"}
    return {"decisions": [{"name": "panel", "algorithm": algorithm, "budget": BUDGET, **decision}]}


RECIPES: dict[str, Any] = {
    "fallbacks": single("first", "second"),
    "tight": single("first", "second", calls=2),
    "spare": single("first", "second", calls=3),
    "dialects": single("gpt", "mistral"),
    "gpt": single("gpt"),
    "mistral": single("mistral"),
    "long": single("long", "second"),
    "refused": team(),
    "standin": team(overload="quick"),
    "patient": team(keepalive="whitespace"),
}


def simulated() -> Simulator:
    """Models that are quick, but for one, and two that are strict about ids of tool calls."""
    rules: dict[str, dict[str, Any]] = {
        "gpt": {"id_rule": "max40", "rejects": ("max_tokens",)},
        "mistral": {"id_rule": "alnum9", "rejects": ("max_completion_tokens",)},
        "long": {"id_rule": "max40"},
        "slow": {"latency": 1.5},
    }
    return Simulator(SimulatedModel(name=name, **rules.get(name, {})) for name in NAMES)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running() -> AsyncIterator[Stack]:
    dialects = {"gpt": "openai", "mistral": "mistral", "long": "openai"}
    change = {
        "models": [
            {"name": name, "url": "", "retry": {"attempts": 1}}
            | ({"dialect": dialects[name]} if name in dialects else {})
            for name in NAMES
        ],
        "recipes": RECIPES,
        "entrypoints": {f"looper/{name}": name for name in RECIPES},
        "limits": {"max_runs": 1, "max_waiting": 0},
        "heartbeat": "200ms",
        "debug": True,
        "forward_headers": ["x-tenant", "traceparent"],
    }
    async with run_stack(simulated(), change) as stack:
        yield stack


@pytest.fixture
def stack(running: Stack) -> Stack:
    running.simulator.reset()
    return running


class Answer:
    """Status, headers and body of an answer."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def text(self) -> str:
        """The content, streamed or not."""
        if not self.headers["content-type"].startswith("text/event-stream"):
            return str(json.loads(self.body)["choices"][0]["message"]["content"])
        events = [event.data for event in EventReader().feed(self.body)]
        assert events[-1] == DONE
        chunks = [json.loads(data) for data in events[:-1]]
        deltas = [choice["delta"] for chunk in chunks for choice in chunk.get("choices", ())]
        return "".join(delta.get("content") or "" for delta in deltas)


async def ask(stack: Stack, name: str, *, debug: bool = False, **members: Any) -> Answer:
    asked = {"messages": [{"role": "user", "content": "hi"}], **members, "model": f"looper/{name}"}
    headers = {"looper-debug": "1"} if debug else {}
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json=asked, headers=headers
    ) as response:
        return Answer(response.status, response.headers, await response.read())


def called(stack: Stack) -> list[str]:
    return [call.model for call in stack.simulator.calls]


both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@both_ways
@pytest.mark.parametrize(
    "fault", [Status(status=500), Cut(after_chunks=0)], ids=["500", "nothing-said"]
)
async def test_a_fallback_answers_before_the_first_byte(
    stack: Stack, fault: Any, stream: bool
) -> None:
    """The client reads the second model's answer, and nothing of the first one's failure."""
    stack.simulator.fault("first", fault)
    stack.simulator.script("second", "the answer")

    answer = await ask(stack, "fallbacks", stream=stream)

    assert (answer.status, answer.text) == (200, "the answer")
    assert called(stack) == ["first", "second"]
    assert answer.headers["x-looper-algorithm"] == "single"
    if not stream:
        assert answer.headers["x-looper-outcome"] == "fallback"


async def test_calls_carry_the_headers_that_are_named_and_continue_the_trace(stack: Stack) -> None:
    """Each call is a span of its own; nothing else of the client's reaches a backend."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {
        "X-Tenant": "acme",
        "traceparent": f"00-{trace}-00f067aa0ba902b7-01",
        "tracestate": "v=1",
        "x-other": "o",
        "authorization": "Bearer sk-secret",
    }
    stack.simulator.fault("first", Status(status=500))
    asked = {"model": "looper/fallbacks", "messages": [{"role": "user", "content": "hi"}]}
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json=asked, headers=headers
    ) as response:
        assert response.status == 200

    first, second = (call.headers for call in stack.simulator.calls)
    for sent in (first, second):
        assert sent["x-tenant"] == "acme"
        assert sent["traceparent"].startswith(f"00-{trace}-")
        assert sent["traceparent"].endswith("-01")
        assert not {"tracestate", "x-other", "authorization"} & sent.keys()
    spans = {sent["traceparent"].split("-")[2] for sent in (first, second)}
    assert len(spans | {"00f067aa0ba902b7"}) == 3


@pytest.mark.parametrize(
    ("recipe", "tried"),
    [
        pytest.param("spare", ["first", "first", "second"], id="one-to-spare"),
        pytest.param("tight", ["first", "second"], id="none-to-spare"),
    ],
)
async def test_envoy_retries_only_what_the_budget_can_spare(
    stack: Stack, recipe: str, tried: list[str]
) -> None:
    """A 503 is tried again as often as calls are left over after what the plan needs, never beyond."""
    stack.simulator.fault("first", Status(status=503))
    stack.simulator.script("second", "the answer")

    answer = await ask(stack, recipe, debug=True)

    assert answer.text == "the answer"
    assert called(stack) == tried
    assert answer.headers["x-looper-calls"] == str(len(tried))


async def test_a_retry_that_helps_is_counted(stack: Stack) -> None:
    """The second attempt answers: one fallback less, but two calls."""
    stack.simulator.fault("first", Status(status=503, times=1))

    answer = await ask(stack, "spare", debug=True)

    assert called(stack) == ["first", "first"]
    assert (answer.headers["x-looper-outcome"], answer.headers["x-looper-calls"]) == ("ok", "2")


async def test_beyond_max_runs_a_stand_in_answers_or_nobody(stack: Stack) -> None:
    """While one team is at work the next request is routed to the overload model, or told to come back."""
    async with asyncio.TaskGroup() as group:
        first = group.create_task(ask(stack, "refused"))
        await stack.simulator.wait_for(lambda: stack.simulator.running("slow") == 1)
        stack.simulator.script("quick", "instead")
        instead = await ask(stack, "standin")
        refused = await ask(stack, "refused")

    assert first.result().status == 200
    assert (instead.status, instead.text) == (200, "instead")
    assert instead.headers["x-looper-decision"] == "panel"
    assert refused.status == 503
    assert json.loads(refused.body)["error"]["code"] == "overloaded"
    assert (refused.headers["retry-after"], refused.headers["x-should-retry"]) == ("1", "true")


async def test_white_space_keeps_an_unstreamed_answer_alive(stack: Stack) -> None:
    """Blanks at each silence, each at its time and not with the answer, and then JSON that any client reads."""
    asked = {"messages": [{"role": "user", "content": "hi"}], "model": "looper/patient"}
    async with stack.session.post(f"{stack.base_url}/chat/completions", json=asked) as response:
        begun = stack.simulator.running("slow")
        body = await response.read()
        answer = json.loads(body)

    assert response.status == 200
    assert begun == 1
    assert body.startswith(b"  ")
    assert response.content_type == "application/json"
    assert answer["choices"][0]["message"]["content"]


async def test_an_error_behind_white_space_is_in_the_body(stack: Stack) -> None:
    """The status was sent; the error has OpenAI's shape all the same."""
    slow = stack.simulator.models["slow"]
    stack.simulator.put(slow.model_copy(update={"latency": 0.0}))

    async def late(request: dict[str, Any]) -> str:
        await asyncio.sleep(1.5)
        return ""

    stack.simulator.script("slow", late)

    answer = await ask(stack, "patient")

    assert answer.status == 200
    assert json.loads(answer.body)["error"]["code"] == "upstream_failed"


@both_ways
async def test_debug_facts_are_for_those_who_ask(stack: Stack, stream: bool) -> None:
    """In headers, or in the last chunk of a stream."""
    shown = await ask(stack, "fallbacks", debug=True, stream=stream)
    hidden = await ask(stack, "fallbacks", stream=stream)

    if stream:
        assert [b'"looper":{' in answer.body for answer in (shown, hidden)] == [True, False]
    else:
        assert shown.headers["x-looper-models"] == "first"
        assert "x-looper-models" not in hidden.headers


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_the_token_limit_has_the_upstreams_name(stack: Stack, name: str) -> None:
    """Whichever name the client uses, each upstream reads its own, and only that."""
    stack.simulator.script("gpt", Status(status=500))

    limit: dict[str, Any] = {name: 64}
    answer = await ask(stack, "dialects", **limit)

    assert answer.status == 200
    gpt, mistral = (call.parsed for call in stack.simulator.calls)
    assert (gpt["max_completion_tokens"], mistral["max_tokens"]) == (64, 64)
    assert "max_tokens" not in gpt
    assert "max_completion_tokens" not in mistral


TURN = [
    {"role": "user", "content": "hi"},
    {
        "role": "assistant",
        "tool_calls": [
            {"id": LONG_ID, "type": "function", "function": {"name": "f", "arguments": "{}"}}
        ],
    },
    {"role": "tool", "tool_call_id": LONG_ID, "content": "5"},
]


def ids_of(call: ReceivedCall) -> set[str]:
    _, calling, answering = call.parsed["messages"]
    return {calling["tool_calls"][0]["id"], answering["tool_call_id"]}


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param("long", id="in-a-loop"),
        pytest.param("gpt", id="routed-40-characters"),
        pytest.param("mistral", id="routed-nine-characters"),
    ],
)
async def test_ids_of_tool_calls_fit_the_upstreams_rule(stack: Stack, recipe: str) -> None:
    """What another upstream called its calls does not make this one refuse the conversation."""
    answer = await ask(stack, recipe, messages=TURN)

    assert answer.status == 200, answer.body
    (call,) = stack.simulator.calls
    (id,) = ids_of(call)
    assert id != LONG_ID


async def test_each_member_reads_ids_that_it_takes(stack: Stack) -> None:
    """A fallback with another rule gets other ids, still paired."""
    stack.simulator.script("gpt", Status(status=500))

    answer = await ask(stack, "dialects", messages=TURN)

    assert answer.status == 200, answer.body
    (gpt,), (mistral,) = (ids_of(call) for call in stack.simulator.calls)
    assert len(gpt) <= 40
    assert len(mistral) == 9
