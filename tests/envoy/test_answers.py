"""Answers in shapes that OpenAI's API does not have, through Envoy: what is published of them, and what they cost."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from looper.simulate import faults
from looper.simulate.faults import AnyFault
from looper.simulate.oddities import BESIDE
from looper.simulate.server import ReceivedCall, SimulatedModel, Simulator
from looper.wire.sse import EventReader
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")
streamed_or_not = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
TEXT = "Ottawa is the capital of Canada."
F = {"name": "f", "arguments": '{"x": 1}'}
G = {"name": "g", "arguments": '{"y": {"z": "}"}}'}
CALLS = [
    {"id": f"call_{at}", "type": "function", "function": each} for at, each in enumerate((F, G))
]
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]
SCHEMA = {"type": "object", "required": ["city"], "properties": {"city": {}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
NAMES = ("a", "b", "p", "q", "j", "f", "r")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def odd_stack() -> AsyncIterator[Stack]:
    models = [SimulatedModel(name=name, skill=1.0) for name in NAMES]
    algorithms: dict[str, Any] = {
        "one": {"type": "single", "model": "a", "fallbacks": ["b"]},
        "fusion": {"type": "fusion", "analysis_models": ["p", "q"], "judge_model": "j", "final_model": "f"},
        "remom": {"type": "remom", "models": ["p", "q"], "breadth_schedule": [2], "synthesis_model": "f"},
        "ratings": {"type": "ratings", "models": ["p", "q"]},
        "confidence": {"type": "confidence", "stages": ["p", "q"], "threshold": 0.9},
        "workflows": {
            "type": "workflows",
            "steps": [
                {"id": "draft", "models": ["p", "q"], "prompt": "Answer."},
                {"id": "check", "models": ["p"], "needs": ["draft"], "prompt": "Check."},
            ],
            "final": {"model": "f"},
        },
        "routed": {"type": "single", "model": "r"},
    }  # fmt: skip
    price = {"input": 1, "output": 2}
    capped = {
        "name": "capped",
        "algorithm": algorithms["routed"],
        "parameters": {"max_tokens": {"cap": 64}},
    }
    change = {
        "models": [{"name": name, "price": price, "url": "", "context_window": "100k"} for name in NAMES],
        "recipes": {
            name: {"decisions": [{"name": name, "algorithm": algorithm}]}
            for name, algorithm in algorithms.items()
        }
        | {"capped": {"decisions": [capped]}},
        "entrypoints": {name: name for name in (*algorithms, "capped")},
    }  # fmt: skip
    async with run_stack(Simulator(models), change) as stack:
        yield stack


@pytest.fixture
def stack(odd_stack: Stack) -> Stack:
    odd_stack.simulator.reset()
    return odd_stack


async def post(stack: Stack, body: bytes) -> tuple[int, Any, bytes]:
    headers = {"content-type": "application/json"}
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", data=body, headers=headers
    ) as response:
        return response.status, response.headers, await response.read()


def asking(model: str, content: object = "What is the capital of Canada?", **members: Any) -> bytes:
    return json.dumps(
        {"model": model, "messages": [{"role": "user", "content": content}], **members}
    ).encode()


async def answer(stack: Stack, model: str, *, streamed: bool, **members: Any) -> dict[str, Any]:
    """The choice that a client reads, put together if it came in bits, and the usage beside it."""
    usage = {"stream_options": {"include_usage": True}} if streamed else {}
    status, _, raw = await post(stack, asking(model, stream=streamed, **usage, **members))
    assert status == 200, raw
    if not streamed:
        whole = json.loads(raw)
        return {**whole["choices"][0], "usage": whole["usage"]}
    message: dict[str, Any] = {"content": "", "tool_calls": {}}
    choice: dict[str, Any] = {"message": message}
    *events, done = EventReader().feed(raw)
    assert done.data == b"[DONE]"
    for chunk in (json.loads(event.data) for event in events):
        if "error" in chunk:
            return {"error": chunk["error"]}
        choice |= {"usage": chunk.get("usage")}
        for each in chunk["choices"]:
            delta = each.pop("delta")
            message["content"] += delta.pop("content", None) or ""
            if refusal := delta.pop("refusal", None):
                message["refusal"] = message.get("refusal", "") + refusal
            for call in delta.pop("tool_calls", ()):
                known = message["tool_calls"].setdefault(
                    call["index"], {"function": {"arguments": ""}}
                )
                function = call.pop("function")
                known["function"]["arguments"] += function.pop("arguments", "")
                known["function"] |= function
                known |= call
            message |= delta
            choice |= {name: value for name, value in each.items() if value is not None}
    calls = [message["tool_calls"][at] for at in sorted(message["tool_calls"])]
    message["tool_calls"] = [
        {name: part for name, part in call.items() if name != "index"} for call in calls
    ]
    return choice


def sent_in(call: ReceivedCall) -> dict[str, Any]:
    """A backend's request, whether or not it took it."""
    request: dict[str, Any] = json.loads(call.body)
    return request


ODD = (
    *(faults.Strange(kind=kind) for kind in ("all", "usage", "message", "choice", "text")),
    faults.InParts(),
    faults.InParts(thinking=True),
    faults.Beside(),
    *(faults.SaidTwice(kind=kind) for kind in ("at_the_end", "beside")),
    *(faults.NoChunks(kind=kind) for kind in ("between", "spaces", "no_blank_line", "garbage_at_the_end")),
    faults.OtherEnd(),
)  # fmt: skip


@pytest.mark.parametrize(
    "fault", ODD, ids=lambda fault: "-".join(map(str, fault.model_dump(exclude={"times"}).values()))
)
@streamed_or_not
async def test_an_odd_answer_is_published_once_and_whole(
    stack: Stack, fault: AnyFault, streamed: bool
) -> None:
    """By the one model that was asked: nobody had to stand in, and the usage is the backend's."""
    stack.simulator.script("a", TEXT)
    stack.simulator.fault("a", fault)
    read = await answer(stack, "one", streamed=streamed)
    assert (read["message"]["content"], read["finish_reason"]) == (TEXT, "stop")
    assert read.get("native_finish_reason") == (
        fault.word if isinstance(fault, faults.OtherEnd) else None
    )
    if isinstance(fault, faults.Beside):
        assert {name: read["message"].get(name) for name in BESIDE} == BESIDE
    (call,) = stack.simulator.calls
    assert call.usage is not None
    assert read["usage"]["total_tokens"] == call.usage["total_tokens"]
    assert "looper" not in read["usage"]


@pytest.mark.parametrize(
    "fault",
    [
        faults.BrokenOff(word="error"),
        faults.BrokenOff(word="network_error"),
        faults.BrokenOff(word="insufficient_system_resource"),
        faults.ErrorObject(named=True),
    ],
    ids=["error", "network", "resource", "event"],
)
async def test_what_broke_off_is_replaced(stack: Stack, fault: AnyFault) -> None:
    """By a stand-in, as nothing was published of it; once something was, the stream ends with an error."""
    stack.simulator.script("b", TEXT)
    stack.simulator.fault("a", fault)
    status, headers, raw = await post(stack, asking("one"))
    assert (status, headers["x-looper-outcome"]) == (200, "fallback")
    assert json.loads(raw)["choices"][0]["message"]["content"] == TEXT
    if isinstance(fault, faults.BrokenOff):
        assert "error" in await answer(stack, "one", streamed=True)


@pytest.mark.parametrize(
    "kind",
    ["gaps", "interleaved", "same_index", "no_index", "same_id", "empty_id", "bare", "named"],
)
async def test_calls_that_look_alike_are_different_calls(stack: Stack, kind: Any) -> None:
    """Each has what it was given, a name, a type, and an id of its own."""
    stack.simulator.script(
        "a", {"content": None, "tool_calls": CALLS, "finish_reason": "tool_calls"}
    )
    stack.simulator.fault("a", faults.ToolDeltas(kind=kind))
    read = await answer(stack, "one", streamed=True, tools=TOOLS)
    assert read["finish_reason"] == "tool_calls"
    calls = read["message"]["tool_calls"]
    assert [call["function"] for call in calls] == [F, G]
    assert [call["type"] for call in calls] == ["function", "function"]
    assert len({call["id"] for call in calls} - {""}) == 2


@pytest.mark.parametrize("kind", ["missing", "nulls", "empty", "negative", "impossible"])
@streamed_or_not
async def test_usage_that_cannot_be_is_estimated(stack: Stack, kind: Any, streamed: bool) -> None:
    """It is more than nothing, about what it was, and said to be a guess."""
    stack.simulator.script("a", TEXT)
    stack.simulator.fault("a", faults.UsageHabit(kind=kind))
    usage = (await answer(stack, "one", streamed=streamed))["usage"]
    assert 5 < usage["prompt_tokens"] < 50
    assert 5 <= usage["completion_tokens"] < 50
    assert usage["looper"]["estimated_tokens"] == usage["total_tokens"]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("limit", [-1, -1_000_000, 0, 1.5, "256", True, []])
async def test_a_limit_that_is_none_is_refused(stack: Stack, name: str, limit: object) -> None:
    """Before a team begins, and nothing is spent; what only one model is to read is its business."""
    for team in ("one", "fusion"):
        status, _, raw = await post(stack, asking(team, **{name: limit}))
        error = json.loads(raw)["error"]
        assert (status, error["code"], error["param"]) == (400, "invalid_field", name)
    assert stack.simulator.count() == 0
    await post(stack, asking("routed", **{name: limit}))
    (call,) = stack.simulator.calls
    assert sent_in(call)[name] == limit


@pytest.mark.parametrize(("limit", "sent"), [(None, None), (256.0, 256)])
async def test_a_limit_is_read_as_it_is_meant(stack: Stack, limit: object, sent: object) -> None:
    """Null is unset, and 256.0 is 256."""
    status, _, _ = await post(stack, asking("one", max_tokens=limit))
    (call,) = stack.simulator.calls
    assert (status, sent_in(call).get("max_tokens")) == (200, sent)


@pytest.mark.parametrize("limit", [-1, 0, "many", 1.5, 10**30, None, {}])
async def test_a_bound_holds_whatever_the_client_writes(stack: Stack, limit: object) -> None:
    """Where a decision has one, also for what is only routed."""
    await post(stack, asking("capped", max_tokens=limit, max_completion_tokens=limit))
    (call,) = stack.simulator.calls
    said = {
        sent_in(call)[name]
        for name in ("max_tokens", "max_completion_tokens")
        if sent_in(call).get(name)
    }
    assert said == {64}


@pytest.mark.parametrize("pattern", ["fusion", "remom"])
@streamed_or_not
async def test_a_final_models_call_is_the_answer(
    stack: Stack, pattern: str, streamed: bool
) -> None:
    """Though the panel is sure of something else, as it could not call."""
    for name in ("p", "q"):
        stack.simulator.script(name, '{"city": null}')
    stack.simulator.script("j", '{"winner": 1, "agreement": 1}')
    stack.simulator.script(
        "f", {"content": None, "tool_calls": CALLS[:1], "finish_reason": "tool_calls"}
    )
    read = await answer(stack, pattern, streamed=streamed, tools=TOOLS, response_format=FORMAT)
    assert read["finish_reason"] == "tool_calls"
    assert [call["function"] for call in read["message"]["tool_calls"]] == [F]
    assert not read["message"]["content"]


@pytest.mark.parametrize("pattern", ["fusion", "remom", "ratings", "confidence", "workflows"])
@streamed_or_not
async def test_a_panel_that_refuses_is_heard(stack: Stack, pattern: str, streamed: bool) -> None:
    """In OpenAI's form, as from one model."""
    for name in ("p", "q"):
        stack.simulator.fault(name, faults.Refusal())
    read = await answer(stack, pattern, streamed=streamed)
    assert read["message"]["refusal"] == faults.Refusal().text
    assert stack.simulator.count("f") == 0


@pytest.mark.parametrize("model", ["one", "fusion", "remom", "ratings", "confidence", "workflows"])
async def test_where_all_only_thought_the_answer_is_empty(stack: Stack, model: str) -> None:
    """As models that think give it when their tokens are used up."""
    for name in NAMES:
        stack.simulator.fault(name, faults.ReasoningOnly(finish="length"))
    status, headers, raw = await post(stack, asking(model))
    (choice,) = json.loads(raw)["choices"]
    assert (status, headers["x-looper-outcome"]) == (200, "degraded")
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "length")


@pytest.mark.parametrize("model", ["one", "fusion"])
async def test_a_stream_of_nothing_but_thoughts_ends_so_too(stack: Stack, model: str) -> None:
    """Whether or not the thoughts were published."""
    for name in NAMES:
        stack.simulator.fault(name, faults.ReasoningOnly(finish="length"))
    read = await answer(stack, model, streamed=True)
    assert (read["message"]["content"], read["finish_reason"]) == ("", "length")


async def test_413_for_want_of_quota_is_a_rate_limit(stack: Stack) -> None:
    """As Groq says that a request is too large for a minute."""
    for name in ("a", "b"):
        stack.simulator.fault(name, faults.Status(status=413, code="rate_limit_exceeded"))
    status, _, raw = await post(stack, asking("one"))
    assert (status, json.loads(raw)["error"]["code"]) == (429, "rate_limited")


HALVES = (
    rb'{"model": "%b", "messages": [{"role": "user", "content": "cut \ud83d"}], "user": "\ude00"}'
)


async def test_half_a_character_passes_as_it_came(stack: Stack) -> None:
    """To one model byte for byte; a team writes U+FFFD."""
    await post(stack, HALVES % b"routed")  # the simulator does not take it
    status, _, _ = await post(stack, HALVES % b"one")
    assert status == 200
    routed, asked = stack.simulator.calls
    assert routed.body == (HALVES % b"r")
    assert sent_in(asked)["messages"][0]["content"] == "cut \ufffd"


@pytest.mark.parametrize(
    "content", [[{"type": "text", "text": None}], ["x"], 3, {"a": 1}, [{"text": 1}]]
)
async def test_what_is_only_passed_on_is_not_checked(stack: Stack, content: object) -> None:
    """Its backend says what it thinks of it, or takes it."""
    await post(stack, asking("routed", content))
    (call,) = stack.simulator.calls
    assert sent_in(call)["messages"][0]["content"] == content
