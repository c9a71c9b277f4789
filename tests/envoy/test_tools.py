"""Teams whose agents call the client's tools, through a real Envoy."""

import asyncio
import json
import random
import re
import string
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from looper.simulate.server import Hang, SimulatedModel, Simulator
from looper.wire.answer import Whole
from looper.wire.chat import ChatRequest
from looper.wire.events import Delta, Finish
from looper.wire.sse import DONE, EventReader
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

TOOL = {
    "type": "function",
    "function": {
        "name": "lookup",
        "parameters": {"type": "object", "properties": {"q": {"type": "string"}}},
    },
}
QUESTION = {"role": "user", "content": "Use lookup. What is the capital of Canada?"}
ASKED = {"model": "team", "messages": [QUESTION], "tools": [TOOL]}
OURS = re.compile(r"call_[0-9A-Za-z]{32}")
MODELS = (
    SimulatedModel(name="long", skill=1.0, id_rule="max40"),
    SimulatedModel(name="short", skill=1.0, id_rule="alnum9"),
    SimulatedModel(name="final", skill=1.0, id_rule="max40"),
)


def change(**members: Any) -> dict[str, Any]:
    """A team of two workers, whose upstreams have rules for ids, and a final model."""
    return {
        "models": [
            {"name": "long", "url": "", "dialect": "openai"},
            {"name": "short", "url": "", "dialect": "mistral"},
            {"name": "final", "url": "", "dialect": "openai"},
        ],
        "recipes": {
            "team": {
                "decisions": [
                    {
                        "name": "team",
                        "algorithm": {
                            "type": "workflows",
                            "steps": [
                                {"id": "one", "models": ["long"], "prompt": "Find out."},
                                {"id": "two", "models": ["short"], "prompt": "Find out."},
                            ],
                            "final": {"model": "final"},
                        },
                        "progress": "reasoning",
                    }
                ]
            }
        },
        "entrypoints": {"team": "team"},
        "state": {"type": "memory", "identity": {"header": "x-user"}},
        **members,
    }


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared() -> AsyncIterator[Stack]:
    async with run_stack(Simulator(MODELS), change()) as stack:
        yield stack


@pytest.fixture
def stack(shared: Stack) -> Stack:
    shared.simulator.reset()
    return shared


async def ask(
    stack: Stack, body: Mapping[str, Any], user: str = "me"
) -> tuple[int, Mapping[str, str], dict[str, Any]]:
    """Status, headers and answer, which is put together if it was streamed."""
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json=body, headers={"x-user": user}
    ) as response:
        raw = await response.read()
        if response.headers["content-type"] != "text/event-stream":
            return response.status, response.headers, json.loads(raw)
        return response.status, response.headers, together(raw, body)


def together(raw: bytes, body: Mapping[str, Any]) -> dict[str, Any]:
    """The chunks of a stream as the completion that they make up."""
    whole = Whole(ChatRequest.parse(json.dumps(body).encode()))
    usage: Any = None
    events = EventReader().feed(raw)
    assert events[-1].data == DONE
    for event in events[:-1]:
        chunk = json.loads(event.data)
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            for kind in ("content", "tool_calls", "reasoning_content"):
                if choice["delta"].get(kind):
                    whole.add(Delta(kind, choice["delta"][kind]))
            if choice["finish_reason"]:
                whole.add(Finish(choice["finish_reason"]))
    answer: dict[str, Any] = json.loads(whole.to_json())
    return {**answer, "usage": usage}


def calls_of(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = answer["choices"][0]["message"].get("tool_calls") or []
    return calls


def answered(body: Mapping[str, Any], answer: Mapping[str, Any], **members: Any) -> dict[str, Any]:
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": f"result {at}"}
        for at, call in enumerate(calls_of(answer))
    ]
    messages = [*body["messages"], answer["choices"][0]["message"], *results]
    return {**body, "messages": messages, **members}


def billed(stack: Stack) -> int:
    usages = [call.usage for call in stack.simulator.calls if call.usage is not None]
    assert len(usages) == stack.simulator.count()
    return sum(usage["prompt_tokens"] + usage["completion_tokens"] for usage in usages)


@pytest.mark.parametrize("streams", [(False,) * 3, (True,) * 3, (True, False, True)])
async def test_a_loop_with_tools(stack: Stack, streams: tuple[bool, ...]) -> None:
    """Two workers ask in one turn, then the final model in another, and what backends billed is what is reported."""
    wishes = [
        {"stream": stream, **({"stream_options": {"include_usage": True}} if stream else {})}
        for stream in streams
    ]
    body = {**ASKED, **wishes[0]}
    status, headers, first = await ask(stack, body)
    assert status == 200
    assert headers["x-looper-decision"] == "team"
    assert first["choices"][0]["finish_reason"] == "tool_calls"
    assert [OURS.fullmatch(call["id"]) is not None for call in calls_of(first)] == [True, True]
    assert sorted(call.model for call in stack.simulator.calls) == ["long", "short"]

    body = answered(body, first) | wishes[1]
    status, _, second = await ask(stack, body)
    assert status == 200
    assert len(calls_of(second)) == 1
    assert [call.model for call in stack.simulator.calls[4:]] == ["final"]

    body = answered(body, second) | wishes[2]
    status, headers, third = await ask(stack, body)
    assert status == 200
    assert headers["x-looper-algorithm"] == "workflows"
    assert third["choices"][0]["finish_reason"] == "stop"
    assert third["choices"][0]["message"]["content"] == "The tools say: result 0"
    assert stack.simulator.count() == 6
    usages = [answer["usage"]["total_tokens"] for answer in (first, second, third)]
    assert sum(usages) == billed(stack)
    assert all(call.outcome == "finished" for call in stack.simulator.calls)


async def test_where_envoy_buffers() -> None:
    """With `body_mode: buffered` a stream comes at once, and its run goes on all the same."""
    config = change(envoy={"body_mode": "buffered"})
    async with run_stack(Simulator(MODELS), config) as stack:
        status, _, first = await ask(stack, {**ASKED, "stream": True})
        turn = answered(ASKED, first)
        refused, _, _ = await ask(stack, turn, "you")
        status, _, second = await ask(stack, turn)
        _, _, third = await ask(stack, answered(turn, second, stream=True))

    assert (refused, status, stack.simulator.count()) == (409, 200, 6)
    assert third["choices"][0]["message"]["content"] == "The tools say: result 0"


async def test_each_upstream_gets_its_own_ids_back(stack: Stack) -> None:
    """No id of ours reaches a backend, and each agent sees its own calls only."""
    _, _, first = await ask(stack, ASKED)
    await ask(stack, answered(ASKED, first))
    sent = {call.model: call.parsed["messages"] for call in stack.simulator.calls[2:4]}

    for name, form in (("long", r"call_[0-9a-f]{24}"), ("short", r"[0-9a-f]{9}")):
        *_, said, result = sent[name]
        (id,) = (call["id"] for call in said["tool_calls"])
        assert re.fullmatch(form, id)
        assert result["tool_call_id"] == id
        assert sum(message["role"] == "tool" for message in sent[name]) == 1
    assert not any(OURS.search(call.body.decode()) for call in stack.simulator.calls)


async def test_a_stream_says_which_step_goes_on(stack: Stack) -> None:
    """With `progress: reasoning` the resumed turn tells of the steps that it goes on with."""
    _, _, first = await ask(stack, {**ASKED, "stream": True})
    assert first["choices"][0]["message"]["reasoning_content"] == "one\ntwo\n"
    _, _, second = await ask(stack, answered(ASKED, first, stream=True))

    assert second["choices"][0]["message"]["reasoning_content"] == "one\ntwo\nfinal\n"


async def test_who_may_not_go_on(stack: Stack) -> None:
    """Another client, missing, mixed, doubled and forged ids are 409 with no call made, and the run is kept."""
    _, _, first = await ask(stack, ASKED)
    body = answered(ASKED, first)
    *head, one, two = body["messages"]
    foreign = {**two, "tool_call_id": "call_abcdefghijklmnopqrstuvwx"}
    forged = {**two, "tool_call_id": two["tool_call_id"][:-3] + "AzZ"}
    bad = [
        ("you", body["messages"]),
        ("me", [*head, one]),
        ("me", [*head, one, foreign]),
        ("me", [*head, one, two, foreign]),
        ("me", [*head, one, one]),
        ("me", [*head, one, forged]),
    ]
    for user, messages in bad:
        status, headers, answer = await ask(stack, {**body, "messages": messages}, user)
        assert status == 409
        assert answer["error"]["code"] == "state_mismatch"
        assert answer["error"]["type"] == "invalid_request_error"
        assert headers["x-should-retry"] == "false"
    assert stack.simulator.count() == 2

    status, _, _ = await ask(stack, body)
    assert status == 200


async def test_a_replay_finds_nothing(stack: Stack) -> None:
    """What has been answered is gone: 410, and no call made.

    The client may have its answer a moment before the run is given up: until then another one still has it.
    """
    _, _, first = await ask(stack, ASKED)
    body = answered(ASKED, first)
    await ask(stack, body)
    count = stack.simulator.count()
    async with asyncio.timeout(10):
        while (replayed := await ask(stack, body))[0] == 409:
            assert replayed[2]["error"]["code"] == "state_busy"
    status, _, answer = replayed

    assert (status, answer["error"]["code"]) == (410, "state_expired")
    assert stack.simulator.count() == count


async def test_made_up_ids_never_cost_anything(stack: Stack) -> None:
    """Ids that nobody gave out are refused before any model is asked, whatever they are made of."""
    _, _, first = await ask(stack, ASKED)
    real = calls_of(first)[0]["id"]
    chance = random.Random(7)
    alphabet = string.ascii_letters + string.digits
    made_up = ["call_" + "".join(chance.choices(alphabet, k=32)) for _ in range(100)]
    for _ in range(100):
        at = chance.randrange(5, 37)
        made_up.append(real[:at] + chance.choice(alphabet) + real[at + 1 :])
    for id in made_up:
        message = {"role": "tool", "tool_call_id": id, "content": "x"}
        status, _, answer = await ask(stack, {**ASKED, "messages": [QUESTION, message]})
        assert status == 409, id
        assert answer["error"]["code"] == "state_mismatch"
    assert stack.simulator.count() == 2


async def test_only_results_are_read_of_what_comes_back(stack: Stack) -> None:
    """A client that has cut or changed its conversation goes on with the run as it was; `tools` hold as they come."""
    _, _, first = await ask(stack, ASKED)
    *_, one, two = answered(ASKED, first)["messages"]
    other = {"type": "function", "function": {"name": "other", "parameters": {"type": "object"}}}
    messages = [{"role": "user", "content": "Something else."}, one, two]
    status, _, second = await ask(stack, {**ASKED, "messages": messages, "tools": [other]})

    assert status == 200
    assert [call["function"]["name"] for call in calls_of(second)] == ["other"]
    for call in stack.simulator.calls[2:]:
        assert QUESTION["content"].encode() in call.body
        assert b"Something else." not in call.body
        assert call.parsed["tools"] == [other]


async def test_results_with_something_said_behind_them_begin_a_run(stack: Stack) -> None:
    """What a client adds is never lost: the conversation as it comes is answered, and the old run is left alone."""
    _, _, first = await ask(stack, ASKED)
    body = answered(ASKED, first)
    said = {"role": "user", "content": "And be brief."}
    status, _, _ = await ask(stack, {**body, "messages": [*body["messages"], said]})
    assert status == 200
    assert all(b"And be brief." in call.body for call in stack.simulator.calls[2:])

    status, _, _ = await ask(stack, body)
    assert status == 200


async def test_results_are_what_tools_make_them(stack: Stack) -> None:
    """Parts, images and a megabyte of text reach the agent that asked byte for byte, and no other."""
    _, _, first = await ask(stack, ASKED)
    body = answered(ASKED, first)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    body["messages"][-2]["content"] = [{"type": "text", "text": "{fence} {0} %s"}, image]
    body["messages"][-1]["content"] = "x" * 1_000_000
    status, _, _ = await ask(stack, body)
    assert status == 200

    sent = {call.model: call.parsed["messages"] for call in stack.simulator.calls[2:4]}
    assert sent["long"][-1]["content"] == body["messages"][-2]["content"]
    assert sent["short"][-1]["content"] == body["messages"][-1]["content"]


@pytest.mark.parametrize("without", [{"tools": None}, {"tool_choice": "none"}], ids=str)
async def test_a_backend_that_calls_without_tools_is_not_heard(
    stack: Stack, without: dict[str, Any]
) -> None:
    """A client that offers none is never shown a call: what is said beside one counts, and nothing is no answer."""
    for name, content in (("long", "by long"), ("short", None), ("final", None)):
        stack.simulator.script(name, hallucinated(content))
    body = {**ASKED, **without}
    status, headers, answer = await ask(stack, body)

    assert (status, headers["x-looper-outcome"]) == (200, "fallback")
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"] == {"role": "assistant", "content": "by long"}


def hallucinated(content: str | None) -> dict[str, Any]:
    """A reply with a call that nobody has asked for."""
    function = {"name": "lookup", "arguments": "{}"}
    call = {"id": "call_0", "type": "function", "function": function}
    return {"content": content, "tool_calls": [call]}


async def test_others_ids_are_an_ordinary_request(stack: Stack) -> None:
    """A conversation with calls that another provider's ids name begins a run of its own."""
    call = {
        "id": "call_0123456789abcdef0123456789abcdef",
        "type": "function",
        "function": {"name": "lookup", "arguments": "{}"},
    }
    messages = [
        QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "Ottawa"},
    ]
    status, _, _ = await ask(stack, {**ASKED, "messages": messages})

    assert status == 200
    assert stack.simulator.count() > 0


async def test_a_client_that_leaves_may_come_back(stack: Stack) -> None:
    """Calls of the turn that it left are cancelled, and the same answers go on with the run."""
    _, _, first = await ask(stack, ASKED)
    body = answered(ASKED, first)
    stack.simulator.fault("long", Hang())
    async with asyncio.TaskGroup() as group:
        leaving = group.create_task(ask(stack, body))
        await stack.simulator.wait_for(lambda: stack.simulator.running("long") == 1)
        leaving.cancel()
    await stack.simulator.wait_for(lambda: stack.simulator.running() == 0)
    stack.simulator.fault("long", None)
    async with asyncio.timeout(5):
        while (result := await ask(stack, body))[0] == 409:
            assert result[2]["error"]["code"] == "state_busy"
            await asyncio.sleep(0.05)

    assert result[0] == 200


@pytest.mark.parametrize("has_key", [True, False])
async def test_after_a_restart(tmp_path: Path, has_key: bool) -> None:
    """What was kept in memory is gone, 410; without a key that lasts, ids of before are like made-up ones, 409."""
    key = tmp_path / "key"
    key.write_text("k" * 32)
    state = {"type": "memory", **({"keys": [{"file": str(key)}]} if has_key else {})}
    async with run_stack(Simulator(MODELS), change(state=state)) as stack:
        _, _, first = await ask(stack, ASKED)
        turn = answered(ASKED, first)
        *head, last = turn["messages"]
        forged = {**turn, "messages": [*head, {**last, "tool_call_id": "call_" + "Zz" * 16}]}
        await stack.processor.stop()
        await stack.processor.start()
        await stack.until_ready()
        refused = [await ask(stack, each) for each in (turn, forged)]
        _, _, again = await ask(stack, ASKED)
        status, _, _ = await ask(stack, answered(ASKED, again))

    gone, made_up = (410, "state_expired"), (409, "state_mismatch")
    expected = [gone if has_key else made_up, made_up]
    assert [(status, answer["error"]["code"]) for status, _, answer in refused] == expected
    assert (status, stack.simulator.count()) == (200, 2 + 2 + 3)


@pytest.mark.parametrize("asks", ["workers", "final"])
async def test_a_client_that_leaves_with_its_calls_may_come_back(stack: Stack, asks: str) -> None:
    """Once a client can know all calls, the run waits for it, whether or not it has heard the end of the stream."""
    body: dict[str, Any] = {**ASKED, "stream": True}
    if asks == "final":
        _, _, first = await ask(stack, body)
        body = answered(body, first)
    heard, finish = b"", b'"finish_reason":"tool_calls"'
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json=body, headers={"x-user": "me"}
    ) as response:
        async for bit in response.content.iter_any():
            heard += bit
            if finish in heard:
                break
        response.close()
    ids = list(dict.fromkeys(OURS.findall(heard.decode())))
    assert len(ids) == {"workers": 2, "final": 1}[asks]
    said = {"role": "assistant", "content": None}
    results = [{"role": "tool", "tool_call_id": id, "content": "Ottawa"} for id in ids]
    status, _, _ = await ask(stack, {**ASKED, "messages": [*body["messages"], said, *results]})

    assert status == 200


async def test_a_run_expires() -> None:
    """After `ttl` the answers of tools are 410, and no model is asked."""
    state = {"type": "memory", "ttl": "300ms"}
    async with run_stack(Simulator(MODELS), change(state=state)) as stack:
        _, _, first = await ask(stack, ASKED)
        await asyncio.sleep(0.35)
        count = stack.simulator.count()
        status, _, answer = await ask(stack, answered(ASKED, first))
        log = stack.processor.log.read_text()

        assert (status, answer["error"]["code"]) == (410, "state_expired")
        assert stack.simulator.count() == count
        assert "lookup" not in log
        assert not OURS.search(log)
