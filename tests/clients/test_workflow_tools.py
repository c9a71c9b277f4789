"""The official OpenAI SDK answers the tools of a team whose upstreams have different rules for ids."""

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai.types.chat import ChatCompletion

from looper.simulate.server import Hang, ReceivedCall, SimulatedModel, Simulator
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

OURS = re.compile(r"call_[0-9A-Za-z]{32}")
FORMS = {"long": r"call_[0-9a-zA-Z]{1,35}", "short": r"[0-9a-zA-Z]{9}"}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "lookup", "parameters": {"type": "object", "properties": {}}},
}
QUESTION = "Use lookup. What is the capital of Canada?"
MODELS = (
    SimulatedModel(name="long", skill=1.0, id_rule="max40"),
    SimulatedModel(name="short", skill=1.0, id_rule="alnum9"),
)


def config() -> dict[str, Any]:
    """Two agents in one step, and each of the models as the final one of a team."""
    step = {"id": "both", "models": ["long", "short"], "prompt": "Find out."}
    teams = {
        f"{name}-ends": {"type": "workflows", "steps": [step], "final": {"model": name}}
        for name in ("long", "short")
    }
    return {
        "models": [
            {"name": "long", "url": "", "dialect": "openai"},
            {"name": "short", "url": "", "dialect": "mistral"},
        ],
        "recipes": {
            name: {"decisions": [{"name": "team", "algorithm": algorithm}]}
            for name, algorithm in teams.items()
        },
        "entrypoints": {name: name for name in teams},
    }


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared() -> AsyncIterator[Stack]:
    async with run_stack(Simulator(MODELS), config()) as stack:
        yield stack


@pytest.fixture
def stack(shared: Stack) -> Stack:
    shared.simulator.reset()
    return shared


@pytest_asyncio.fixture(loop_scope="session")
async def client(stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=stack.base_url, api_key="unused") as client:
        yield client


@dataclass(slots=True)
class Conversation:
    """What a client has said and been told, and how it asks for more."""

    client: openai.AsyncOpenAI
    model: str
    stream: bool = False
    members: dict[str, Any] = field(default_factory=dict)
    messages: list[Any] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    async def ask(self) -> str | None:
        """The answer, or None when there are calls to answer."""
        completion = await self._create()
        (choice,) = completion.choices
        self.messages.append(choice.message.model_dump(exclude_none=True))
        self.ids = [call.id for call in choice.message.tool_calls or ()]
        assert choice.finish_reason == ("tool_calls" if self.ids else "stop")
        return choice.message.content

    async def _create(self) -> ChatCompletion:
        asked: dict[str, Any] = {
            "model": self.model, "messages": self.messages, "tools": [TOOL], **self.members,
        }  # fmt: skip
        if not self.stream:
            completion: ChatCompletion = await self.client.chat.completions.create(**asked)
            return completion
        async with self.client.chat.completions.stream(**asked) as stream:
            return await stream.get_final_completion()

    def answer(self, order: Sequence[int] | None = None) -> None:
        """Say what the tools came to, in this order of their calls."""
        for at in order if order is not None else range(len(self.ids)):
            content = f"result {at}"
            self.messages.append({"role": "tool", "tool_call_id": self.ids[at], "content": content})


def ids_in(call: ReceivedCall) -> tuple[list[str], list[str]]:
    """The ids of calls and of their results that a backend read."""
    messages = call.parsed["messages"]
    called = [each["id"] for message in messages for each in message.get("tool_calls", ())]
    return called, [each["tool_call_id"] for each in messages if each["role"] == "tool"]


def results_in(call: ReceivedCall) -> list[str]:
    return [each["content"] for each in call.parsed["messages"] if each["role"] == "tool"]


def assert_taken(stack: Stack) -> None:
    """No backend has refused anything, and each read ids of its own form, in pairs."""
    for call in stack.simulator.calls:
        assert call.usage is not None
        called, answered = ids_in(call)
        assert sorted(called) == sorted(answered)
        assert all(re.fullmatch(FORMS[call.model], id) for id in called)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in-order", "reversed"])
@pytest.mark.parametrize("last", ["long", "short"])
async def test_every_upstream_reads_ids_of_its_own(
    stack: Stack, client: openai.AsyncOpenAI, last: str, order: tuple[int, ...], stream: bool
) -> None:
    """Two agents ask in one turn, and each gets its own result, whichever comes first; later questions go on."""
    talk = Conversation(client, f"{last}-ends", stream)
    talk.say(QUESTION)
    await talk.ask()
    assert [call.model for call in stack.simulator.calls] == ["long", "short"]
    assert all(OURS.fullmatch(id) for id in talk.ids)
    assert len(set(talk.ids)) == 2
    asked_first = list(talk.ids)
    talk.answer(order)
    await talk.ask()
    assert len(talk.ids) == 1
    resumed = {call.model: results_in(call) for call in stack.simulator.calls[2:4]}
    assert resumed == {"long": ["result 0"], "short": ["result 1"]}
    assert [call.model for call in stack.simulator.calls[4:]] == [last]
    assert not any(id.encode() in call.body for id in asked_first for call in stack.simulator.calls)
    talk.answer()
    assert await talk.ask() == "The tools say: result 0"
    assert_taken(stack)

    talk.say("Use lookup again. And of France?")
    await talk.ask()
    assert len(talk.ids) == 2
    talk.answer(order)
    await talk.ask()
    talk.answer()
    assert await talk.ask() == "The tools say: result 0"
    assert stack.simulator.count() == 12
    assert_taken(stack)


@pytest.mark.parametrize(
    "choice",
    ["required", {"type": "function", "function": {"name": "lookup"}}],
    ids=["required", "named"],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_call_that_is_wanted_is_wanted_once(
    stack: Stack, client: openai.AsyncOpenAI, choice: Any, stream: bool
) -> None:
    """Each backend is told so until tools have answered, and then may choose, though the client says the same."""
    talk = Conversation(client, "long-ends", stream, {"tool_choice": choice})
    talk.say("What is the capital of Canada?")
    await talk.ask()
    turns = 1
    while talk.ids:
        talk.answer()
        answer = await talk.ask()
        turns += 1
        assert turns < 5

    told = [call.parsed["tool_choice"] for call in stack.simulator.calls]
    assert answer is not None
    assert told[:2] == [choice, choice]
    assert told[2:] == ["auto"] * (len(told) - 2)
    assert_taken(stack)


async def test_a_client_that_was_too_impatient(stack: Stack, client: openai.AsyncOpenAI) -> None:
    """The SDK gives up on a turn and sends it again by itself: what it left is called off, and the run goes on once."""
    talk = Conversation(client.with_options(timeout=5.0), "long-ends")
    talk.say(QUESTION)
    await talk.ask()
    talk.answer()
    stack.simulator.script("long", Hang())
    await talk.ask()
    assert len(talk.ids) == 1
    talk.answer()
    assert await talk.ask() == "The tools say: result 0"

    ends = [(call.model, call.outcome) for call in stack.simulator.calls[2:]]
    assert sorted(ends[:2]) == [("long", "disconnected"), ("short", "finished")]
    assert sorted(ends[2:4]) == [("long", "finished"), ("short", "finished")]
    assert ends[4:] == [("long", "finished")] * 2


async def test_one_call_at_a_time(stack: Stack, client: openai.AsyncOpenAI) -> None:
    """A client without parallel calls is shown one agent's after the other's, and each goes on when it has its own."""
    talk = Conversation(client, "long-ends", members={"parallel_tool_calls": False})
    talk.say(QUESTION)
    for at, asked in enumerate((2, 3, 5)):
        await talk.ask()
        assert (len(talk.ids), stack.simulator.count()) == (1, asked), at
        talk.answer()
    assert await talk.ask() == "The tools say: result 0"
    asked_in_turn = [call.model for call in stack.simulator.calls]
    assert sorted(asked_in_turn[:2]) == ["long", "short"]  # both are asked at once
    assert asked_in_turn[2:] == ["long", "short", "long", "long"]
    assert_taken(stack)


async def test_results_of_two_runs_in_one_request(stack: Stack, client: openai.AsyncOpenAI) -> None:
    """409 of one kind for the SDK, which does not try it again; no model is asked, and both runs still go on."""
    talks = [Conversation(client, "long-ends") for _ in range(2)]
    for talk in talks:
        talk.say(QUESTION)
        await talk.ask()
        talk.answer()
    one, other = talks
    mixed = Conversation(client, "long-ends")
    mixed.messages = [*one.messages[:-1], other.messages[-1]]
    both = Conversation(client, "long-ends")
    both.messages = [*one.messages, *other.messages[-2:]]
    for wrong in (mixed, both):
        with pytest.raises(openai.ConflictError) as refused:
            await wrong.ask()
        assert refused.value.code == "state_mismatch"
    assert stack.simulator.count() == 4

    for talk in talks:
        await talk.ask()
        assert len(talk.ids) == 1


async def test_a_turn_that_is_sent_again(stack: Stack, client: openai.AsyncOpenAI) -> None:
    """410 for the SDK when the run has gone on since; no model is asked."""
    talk = Conversation(client, "long-ends")
    talk.say(QUESTION)
    await talk.ask()
    talk.answer()
    sent = list(talk.messages)
    await talk.ask()
    count = stack.simulator.count()
    talk.messages = sent
    with pytest.raises(openai.APIStatusError) as refused:
        await talk.ask()

    assert (refused.value.status_code, refused.value.code) == (410, "state_expired")
    assert stack.simulator.count() == count
