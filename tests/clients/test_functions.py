"""Clients of OpenAI's older API of functions, on the official SDK, before teams and before an agent loop that waits."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio

from looper.patterns.workflows.pauses.white_space import read, written
from looper.patterns.workflows.tools import ONLY_ONE
from looper.simulate.server import FunctionCall, SimulatedModel, Simulator
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])

LOOKUP: Any = {
    "name": "lookup",
    "description": "Looks something up.",
    "parameters": {"type": "object", "properties": {"q": {"type": "string"}}},
}
TASK = "Use lookup. What is the capital of Canada?"
NAMES = ("one", "two", "final")


def decided(name: str, **algorithm: Any) -> dict[str, Any]:
    return {"decisions": [{"name": name, "algorithm": algorithm}]}


RECIPES = {
    "routed": decided("routed", type="single", model="one"),
    "fallbacks": decided("fallbacks", type="single", model="one", fallbacks=["two"]),
    "confidence": decided(
        "confidence", type="confidence", stages=["one", "two"], confidence_method="agreement"
    ),
    "ratings": decided("ratings", type="ratings", models=["one", "two", "final"]),
    "all": decided("all", type="ratings", models=["one", "two"], aggregate="all"),
    "remom": decided(
        "remom", type="remom", models=["one", "two"], breadth_schedule=[2], synthesis_model="final"
    ),
    "fusion": decided(
        "fusion", type="fusion", analysis_models=["one", "two"], judge_model="final"
    ),
    "team": decided(
        "team",
        type="workflows",
        steps=[
            {"id": "first", "models": ["one"], "prompt": "Find out."},
            {"id": "second", "models": ["two"], "prompt": "Find out."},
        ],
        final={"model": "final"},
    ),
}  # fmt: skip
(TEAM,) = RECIPES["team"]["decisions"]
RECIPES["held"] = {
    "decisions": [
        {**TEAM, "contract": {"type": "choice", "values": ["A", "B"], "render": "ANSWER: {choice}"}}
    ]
}
LOOPS = ("fallbacks", "confidence", "ratings", "remom", "fusion")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared() -> AsyncIterator[Stack]:
    change: dict[str, Any] = {
        "models": [
            {"name": "one", "url": "", "dialect": "openai", "rating": 0.8},
            {"name": "two", "url": "", "dialect": {"tool_call_ids": "alnum9"}, "rating": 0.7},
            {"name": "final", "url": "", "dialect": "openai", "rating": 0.8},
        ],
        "recipes": RECIPES,
        "entrypoints": {name: name for name in RECIPES},
        "state": {"type": "memory", "identity": {"header": "x-user"}},
    }
    rules: dict[str, Any] = {"one": "max40", "two": "alnum9", "final": "max40"}
    models = [SimulatedModel(name=name, skill=1.0, id_rule=rules[name]) for name in NAMES]
    async with run_stack(Simulator(models), change) as stack:
        yield stack


@pytest.fixture
def stack(shared: Stack) -> Stack:
    shared.simulator.reset()
    return shared


@dataclass(slots=True)
class Answer:
    """What a client of functions reads, however it came."""

    message: dict[str, Any]
    finish: str | None
    tokens: int
    last: str = ""
    """The last bit of the arguments that came."""

    @property
    def call(self) -> dict[str, str]:
        call: dict[str, str] = self.message["function_call"]
        return call


@dataclass(slots=True)
class Agent:
    """Calls functions, and sends what came of them, until there is an answer."""

    client: openai.AsyncOpenAI
    stream: bool
    model: str = "team"
    members: dict[str, Any] = field(default_factory=dict)
    messages: list[Any] = field(default_factory=lambda: [{"role": "user", "content": TASK}])
    tokens: list[int] = field(default_factory=list)

    async def ask(self) -> Answer:
        asked: dict[str, Any] = {
            "model": self.model,
            "messages": self.messages,
            "functions": [LOOKUP],
            **self.members,
        }
        answer = await (self._streamed(asked) if self.stream else self._whole(asked))
        self.tokens.append(answer.tokens)
        return answer

    async def _whole(self, asked: dict[str, Any]) -> Answer:
        completion = await self.client.chat.completions.create(**asked)
        (choice,) = completion.choices
        assert choice.message.tool_calls is None
        assert completion.usage is not None
        message = choice.message.model_dump(exclude_none=True)
        return Answer(message, choice.finish_reason, completion.usage.total_tokens)

    async def _streamed(self, asked: dict[str, Any]) -> Answer:
        answer = Answer({"role": "assistant", "content": None}, None, 0)
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
        async for chunk in await self.client.chat.completions.create(**asked):
            answer.tokens = chunk.usage.total_tokens if chunk.usage else answer.tokens
            for choice in chunk.choices:
                assert choice.delta.tool_calls is None
                answer.finish = choice.finish_reason or answer.finish
                if choice.delta.content:
                    said = answer.message["content"] or ""
                    answer.message["content"] = said + choice.delta.content
                if call := choice.delta.function_call:
                    known = answer.message.setdefault("function_call", {"arguments": ""})
                    if call.name:
                        known["name"] = call.name
                    answer.last = call.arguments or ""
                    known["arguments"] += answer.last
        return answer

    def use(self, answer: Answer, result: str) -> None:
        assert answer.finish == "function_call"
        assert answer.call["name"] == "lookup"
        assert json.loads(answer.call["arguments"]) == {"q": "simulated q"}
        self.messages += [
            answer.message,
            {"role": "function", "name": answer.call["name"], "content": result},
        ]


@pytest_asyncio.fixture(loop_scope="session")
async def client(stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=stack.base_url, api_key="unused", max_retries=0, default_headers={"x-user": "me"}
    ) as client:
        yield client


def billed(stack: Stack) -> int:
    usages = [call.usage for call in stack.simulator.calls if call.usage is not None]
    assert len(usages) == stack.simulator.count()
    return sum(usage["prompt_tokens"] + usage["completion_tokens"] for usage in usages)


def sent(stack: Stack) -> list[dict[str, Any]]:
    return [call.parsed for call in stack.simulator.calls]


async def notes(stack: Stack, run: str) -> list[str]:
    """What the record of a run says beside its calls; it is there a moment after the client has its answer."""
    connector = aiohttp.UnixConnector(str(stack.processor.admin))
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.timeout(5):
        while True:
            async with session.get("http://admin/runs") as response:
                for record in await response.json():
                    if record["run"] == run:
                        noted: list[str] = record["notes"]
                        return noted
            await asyncio.sleep(0.02)


# Every way to answer


@BOTH
@pytest.mark.parametrize("model", LOOPS)
async def test_a_loop_calls_a_function(
    stack: Stack, client: openai.AsyncOpenAI, model: str, stream: bool
) -> None:
    """Models are offered tools, one at a time, and the client reads of the function, and then what came of it."""
    agent = Agent(client, stream, model)
    agent.use(await agent.ask(), "Ottawa")
    writers = [body for body in sent(stack) if "tools" in body]
    assert writers
    for body in writers:
        assert body["tools"] == [{"type": "function", "function": LOOKUP}]
        assert body.get("parallel_tool_calls", False) is False
    assert not any({"functions", "function_call"} & set(body) for body in sent(stack))
    assert sum(agent.tokens) == billed(stack)

    answer = await agent.ask()
    assert answer.finish == "stop"
    assert "Ottawa" in answer.message["content"]
    assert sum(agent.tokens) == billed(stack)
    *_, said, result = sent(stack)[-1]["messages"][:3]
    assert said["tool_calls"][0]["id"] == result["tool_call_id"]
    assert said["tool_calls"][0]["function"] == agent.messages[1]["function_call"]


@BOTH
async def test_a_backend_of_the_older_api_is_as_good(
    stack: Stack, client: openai.AsyncOpenAI, stream: bool
) -> None:
    """Its calls win votes and are answered to clients of either API."""
    for name in NAMES:
        stack.simulator.fault(name, FunctionCall())
    agent = Agent(client, stream, "ratings")
    agent.use(await agent.ask(), "Ottawa")

    tools: Any = [{"type": "function", "function": LOOKUP}]
    asked: Any = {"model": "fusion", "messages": agent.messages[:1], "tools": tools}
    async with client.chat.completions.stream(**asked) as streamed:
        choice = (await streamed.get_final_completion()).choices[0]
    if not stream:
        choice = (await client.chat.completions.create(**asked)).choices[0]
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls or []
    assert call.function.name == "lookup"
    assert call.id.startswith("call_")
    assert json.loads(call.function.arguments) == {"q": "simulated q"}


@BOTH
async def test_a_routed_request_stays_as_it_is(
    stack: Stack, client: openai.AsyncOpenAI, stream: bool
) -> None:
    """One model is asked in the client's own words."""
    agent = Agent(client, stream, "routed")
    agent.use(await agent.ask(), "Ottawa")
    assert "Ottawa" in (await agent.ask()).message["content"]
    for body in sent(stack):
        assert body["functions"] == [LOOKUP]
        assert "tools" not in body
    assert sent(stack)[1]["messages"] == agent.messages


async def test_every_choice_calls_its_function(stack: Stack, client: openai.AsyncOpenAI) -> None:
    """Whether all answers are wanted or one model gives several."""
    messages: Any = [{"role": "user", "content": TASK}]
    for model in ("all", "fallbacks"):
        completion = await client.chat.completions.create(
            model=model, messages=messages, functions=[LOOKUP], n=2
        )
        assert len(completion.choices) == 2
        for choice in completion.choices:
            assert choice.finish_reason == "function_call"
            assert choice.message.function_call is not None
            assert choice.message.function_call.name == "lookup"
        found: dict[int, str] = {}
        async for chunk in await client.chat.completions.create(
            model=model, messages=messages, functions=[LOOKUP], n=2, stream=True
        ):
            for each in chunk.choices:
                if call := each.delta.function_call:
                    found[each.index] = found.get(each.index, "") + (call.arguments or "")
        assert [json.loads(found[at]) for at in (0, 1)] == [{"q": "simulated q"}] * 2


async def test_of_several_calls_the_first_is_the_clients(
    stack: Stack, client: openai.AsyncOpenAI
) -> None:
    """A model that does not care how many calls are wanted costs nobody the answer, and the record says so."""
    calls = [
        {"id": id, "type": "function", "function": {"name": "lookup", "arguments": '{"q": "simulated q"}'}}
        for id in ("a", "b")
    ]  # fmt: skip
    stack.simulator.script("one", {"content": None, "tool_calls": calls})
    messages: Any = [{"role": "user", "content": TASK}]
    response = await client.chat.completions.with_raw_response.create(
        model="fallbacks", messages=messages, functions=[LOOKUP]
    )
    message = response.parse().choices[0].message
    assert message.function_call is not None
    assert json.loads(message.function_call.arguments) == {"q": "simulated q"}
    assert ONLY_ONE in await notes(stack, response.headers["x-looper-run"])


@pytest.mark.parametrize(
    ("members", "param"),
    [
        pytest.param({"tools": [{"type": "function", "function": LOOKUP}]}, "tools", id="both"),
        pytest.param({"functions": [{"parameters": {}}]}, "functions", id="no-name"),
        pytest.param({"function_call": {"name": "g"}}, "function_call", id="unknown"),
    ],
)
async def test_what_is_wrong_is_said(
    stack: Stack, client: openai.AsyncOpenAI, members: dict[str, Any], param: str
) -> None:
    """400 in OpenAI's shape, and nobody is asked."""
    with pytest.raises(openai.BadRequestError) as refused:
        await Agent(client, False, "fusion", members).ask()
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"
    assert stack.simulator.count() == 0


# An agent loop whose team waits


@BOTH
async def test_a_team_waits_for_a_function(
    stack: Stack, client: openai.AsyncOpenAI, stream: bool
) -> None:
    """Each worker asks in a turn of its own, then the final model, and every token is reported once."""
    agent = Agent(client, stream)
    ids = []
    for result in ("first", "second", "third"):
        answer = await agent.ask()
        _, id = read(answer.call["arguments"])
        assert id is not None
        ids.append(id)
        if stream:
            assert answer.last == written(id)
        agent.use(answer, f"result {result}")
    answer = await agent.ask()

    assert answer.finish == "stop"
    assert answer.message["content"] == "The tools say: result third"
    assert [call.model for call in stack.simulator.calls[2:]] == ["one", "two", "final", "final"]
    assert stack.simulator.count() == 6
    assert sum(agent.tokens) == billed(stack)
    assert len({id[5:17] for id in ids}) == 3
    bodies = b"".join(call.body for call in stack.simulator.calls)
    assert not any(id.encode() in bodies for id in ids)

    agent.messages += [answer.message, {"role": "user", "content": "Thank you."}]
    assert (await agent.ask()).finish == "stop"
    assert stack.simulator.count() == 9
    bodies = b"".join(call.body for call in stack.simulator.calls)
    assert bodies.count(rb"{\"q\":\"simulated q\"}") >= 9
    assert rb"\t" not in bodies


@pytest.mark.parametrize("streams", [(True, False), (False, True)], ids=["to-whole", "to-stream"])
async def test_a_turn_may_be_streamed_and_the_next_not(
    stack: Stack, client: openai.AsyncOpenAI, streams: tuple[bool, bool]
) -> None:
    """What a run waits for does not hang on how its answers are sent."""
    agent = Agent(client, streams[0])
    agent.use(await agent.ask(), "a")
    agent.stream = streams[1]
    answer = await agent.ask()
    assert stack.simulator.count() == 3
    assert read(answer.call["arguments"])[1] is not None


async def test_functions_that_are_offered_no_more(stack: Stack, client: openai.AsyncOpenAI) -> None:
    """Who waits still gets its result, one at a time, though nobody may call a function now."""
    agent = Agent(client, False)
    agent.use(await agent.ask(), "a")
    agent.members = {"functions": []}
    agent.use(await agent.ask(), "b")
    answer = await agent.ask()
    assert answer.finish == "stop"
    assert [call.model for call in stack.simulator.calls[2:]] == ["one", "two", "final"]
    for body in sent(stack)[2:]:
        assert not {"tools", "tool_choice", "parallel_tool_calls"} & set(body)
    assert sum(agent.tokens) == billed(stack)


@BOTH
async def test_the_contract_holds_after_the_pause(
    stack: Stack, client: openai.AsyncOpenAI, stream: bool
) -> None:
    """A call has none to keep, and the answer in the end is mended as any other."""
    agent = Agent(client, stream, "held")
    for result in ("first", "second"):
        agent.use(await agent.ask(), result)
    stack.simulator.script("final", "I say **B**, by all means.")
    answer = await agent.ask()
    assert answer.message["content"].splitlines()[-1] == "ANSWER: B"
    assert sum(agent.tokens) == billed(stack)


async def test_a_function_that_had_to_be_called_is_free_after_that(
    stack: Stack, client: openai.AsyncOpenAI
) -> None:
    """A choice by name holds for the first call only."""
    agent = Agent(client, False, members={"function_call": {"name": "lookup"}})
    agent.use(await agent.ask(), "a")
    await agent.ask()
    wishes = [body["tool_choice"] for body in sent(stack)]
    assert wishes[:2] == [{"type": "function", "function": {"name": "lookup"}}] * 2
    assert wishes[2] == "auto"


async def test_a_replay_finds_nothing(stack: Stack, client: openai.AsyncOpenAI) -> None:
    """A result that the run has had is 410, and no call is made."""
    agent = Agent(client, False)
    agent.use(await agent.ask(), "a")
    await agent.ask()
    count = stack.simulator.count()
    with pytest.raises(openai.APIStatusError) as refused:
        await agent.ask()
    assert (refused.value.status_code, refused.value.code) == (410, "state_expired")
    assert stack.simulator.count() == count


async def test_made_up_and_others_calls_are_refused(
    stack: Stack, client: openai.AsyncOpenAI
) -> None:
    """409 for an id that nobody made, and for another client's; the run is kept for its own."""
    agent = Agent(client, False)
    agent.use(await agent.ask(), "a")
    call = agent.messages[1]["function_call"]
    arguments, id = read(call["arguments"])
    assert id is not None
    forged = written(id[:-1] + ("x" if id[-1] != "x" else "y"))
    call["arguments"] = arguments + forged
    for other in (agent.client, client.with_options(default_headers={"x-user": "you"})):
        agent.client = other
        with pytest.raises(openai.ConflictError) as refused:
            await agent.ask()
        assert refused.value.code == "state_mismatch"
        call["arguments"] = arguments + written(id)
    assert stack.simulator.count() == 2

    agent.client = client
    agent.use(await agent.ask(), "b")


@BOTH
async def test_a_client_that_rewrites_arguments_begins_anew(
    stack: Stack, client: openai.AsyncOpenAI, stream: bool
) -> None:
    """Without the white space it is a conversation like another, with a call and its result in it."""
    agent = Agent(client, stream)
    answer = await agent.ask()
    agent.use(answer, "Ottawa")
    answer.call["arguments"] = json.dumps(json.loads(answer.call["arguments"]))
    after = await agent.ask()

    assert after.message["content"] == "The tools say: Ottawa"
    assert sorted(call.model for call in stack.simulator.calls[2:]) == ["final", "one", "two"]
    for body in sent(stack)[2:]:
        assert [message["role"] for message in body["messages"][:3]] == [
            "user",
            "assistant",
            "tool",
        ]
    assert sum(agent.tokens) == billed(stack)
