"""A coding agent on the official OpenAI SDK, which works with the shipped recipe `swe-agent` until a bug is fixed."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio
from openai.types.chat import ChatCompletion

from looper.simulate.server import SimulatedModel, Simulator
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

TASK = "Fix the failing test tests/test_area.py in this repository: area(2, 3) has to be 6."
BROKEN = "def area(a, b):\n    return a + b\n"
MENDED = "def area(a, b):\n    return a * b\n"
PATH = "src/area.py"
OURS = re.compile(r"call_[0-9A-Za-z]{32}")


def tool(name: str, *parameters: str) -> dict[str, Any]:
    properties = {parameter: {"type": "string"} for parameter in parameters}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


TOOLS = [tool("read_file", "path"), tool("write_file", "path", "text")]


@dataclass(slots=True)
class Agent:
    """Sends the conversation, does what the answer asks for, and sends it again, until there is an answer."""

    client: openai.AsyncOpenAI
    stream: bool
    files: dict[str, str]
    messages: list[Any] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    tokens: list[tuple[int, int]] = field(default_factory=list)

    async def work(self, task: str) -> str | None:
        self.messages.append({"role": "user", "content": task})
        for _ in range(10):
            completion = await self.ask()
            assert completion.usage is not None
            usage = completion.usage
            self.tokens.append((usage.prompt_tokens, usage.completion_tokens))
            (choice,) = completion.choices
            self.messages.append(choice.message.model_dump(exclude_none=True))
            if choice.finish_reason != "tool_calls":
                assert choice.finish_reason == "stop"
                return choice.message.content
            for call in choice.message.tool_calls or ():
                assert call.type == "function"
                self.ids.append(call.id)
                result = self.use(call.function.name, json.loads(call.function.arguments))
                self.messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        raise AssertionError("the agent came to no end")

    async def ask(self) -> ChatCompletion:
        asked: dict[str, Any] = {"model": "swe", "messages": self.messages, "tools": TOOLS}
        if not self.stream:
            completion: ChatCompletion = await self.client.chat.completions.create(**asked)
            return completion
        asked["stream_options"] = {"include_usage": True}
        async with self.client.chat.completions.stream(**asked) as stream:
            return await stream.get_final_completion()

    def use(self, name: str, arguments: dict[str, str]) -> str:
        self.done.append(name)
        match name:
            case "read_file":
                return self.files.get(arguments["path"], "There is no such file.")
            case "write_file":
                self.files[arguments["path"]] = arguments["text"]
                return "Written."
            case _:
                raise AssertionError(name)


# What the models do: each answers to what it was sent.


def called(name: str, **arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {
        "content": None,
        "tool_calls": [{"id": f"chatcmpl-tool-{name}", "type": "function", "function": function}],
    }


def last(request: dict[str, Any]) -> str:
    text: str = request["messages"][-1]["content"]
    return text


def finds_out(request: dict[str, Any]) -> str:
    assert last(request) == BROKEN
    return "PLAN: the sum in src/area.py has to be a product."


def begins_to_write(request: dict[str, Any]) -> dict[str, Any]:
    assert "PLAN: the sum" in last(request)
    return called("write_file", path=PATH, text=MENDED)


def says_what_was_written(request: dict[str, Any]) -> str:
    assert last(request) == "Written."
    return "DIFF: -return a + b +return a * b"


def examines(request: dict[str, Any]) -> str:
    assert "PLAN: the sum" in last(request)
    assert "DIFF: -return" in last(request)
    return json.dumps({"verdict": "pass", "reasons": []})


def looks_again(request: dict[str, Any]) -> dict[str, Any]:
    assert "DIFF: -return" in last(request)
    return called("read_file", path=PATH)


def answers(request: dict[str, Any]) -> str:
    assert last(request) == MENDED
    return "area multiplies now."


def rejects(request: dict[str, Any]) -> str:
    assert "DIFF: -return" in last(request)
    return json.dumps({"verdict": "fail", "reasons": ["The test was not looked at."]})


def examines_again(request: dict[str, Any]) -> str:
    assert "which the test agrees with" in last(request)
    return json.dumps({"verdict": "pass", "reasons": []})


def revises(request: dict[str, Any]) -> str:
    assert "The test was not looked at." in last(request)
    return "DIFF: -return a + b +return a * b, which the test agrees with"


ROLES = {"cheap": "mini", "coder": "hand", "planner": "head", "verifier": "eye"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared() -> AsyncIterator[Stack]:
    """The shipped recipe, whose roles are models of other names."""
    change: dict[str, Any] = {
        "models": [{"name": name, "url": ""} for name in ROLES.values()],
        "recipes": {"swe": {"include": "swe-agent", "models": ROLES}},
        "entrypoints": {"swe": "swe"},
    }
    models = [SimulatedModel(name=name, id_rule="max40") for name in ROLES.values()]
    async with run_stack(Simulator(models), change) as stack:
        yield stack


@pytest.fixture
def stack(shared: Stack) -> Stack:
    shared.simulator.reset()
    return shared


@pytest_asyncio.fixture(loop_scope="session")
async def client(stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=stack.base_url, api_key="unused", max_retries=0
    ) as client:
        yield client


async def runs_of(stack: Stack, count: int) -> list[dict[str, Any]]:
    """The last turns of one run, oldest first; one is noted a moment after its client has its answer.

    Until the last one is, runs of other tests would be among them.
    """
    connector = aiohttp.UnixConnector(str(stack.processor.admin))
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.timeout(5):
        while True:
            async with session.get("http://admin/runs") as response:
                found: list[dict[str, Any]] = await response.json()
            turns = found[:count][::-1]
            if len(turns) == count and all(
                run.get("resumes") == turns[0]["run"] for run in turns[1:]
            ):
                return turns
            await asyncio.sleep(0.02)


def billed(stack: Stack) -> tuple[int, int]:
    usages = [call.usage for call in stack.simulator.calls if call.usage is not None]
    assert len(usages) == stack.simulator.count()
    return (
        sum(usage["prompt_tokens"] for usage in usages),
        sum(usage["completion_tokens"] for usage in usages),
    )


def asked(stack: Stack) -> list[str]:
    return [call.model for call in stack.simulator.calls]


def roles_of(runs: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Each call's agent, model and role."""
    return [(call["agent"], call["model"], call["role"]) for run in runs for call in run["calls"]]


def stages_of(run: dict[str, Any]) -> list[str]:
    return [stage["stage"] for stage in run["stages"]]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_agent_mends_a_file(
    stack: Stack, client: openai.AsyncOpenAI, stream: bool
) -> None:
    """The planner reads, the coder writes, the verifier passes it, and the final stage reads once more and answers."""
    models = stack.simulator
    models.script("head", called("read_file", path=PATH), finds_out)
    models.script("hand", begins_to_write, says_what_was_written, looks_again, answers)
    models.script("eye", examines)
    agent = Agent(client, stream, {PATH: BROKEN})

    assert await agent.work(TASK) == "area multiplies now."

    assert agent.files == {PATH: MENDED}
    assert agent.done == ["read_file", "write_file", "read_file"]
    assert asked(stack) == ["head", "head", "hand", "hand", "eye", "hand", "hand"]
    assert len(agent.tokens) == 4
    assert tuple(map(sum, zip(*agent.tokens, strict=True))) == billed(stack)
    assert all(OURS.fullmatch(id) for id in agent.ids)
    assert len(set(agent.ids)) == 3
    assert not any(id.encode() in call.body for id in agent.ids for call in models.calls)

    runs = await runs_of(stack, 4)
    assert [run.get("resumes") for run in runs] == [None, *[runs[0]["run"]] * 3]
    assert {run["decision"] for run in runs} == {"patch"}
    assert roles_of(runs) == [
        ("plan.1", "head", "worker"),
        ("plan.1", "head", "worker"),
        ("patch.1", "hand", "worker"),
        ("patch.1", "hand", "worker"),
        ("verify.1", "eye", "verifier"),
        ("final", "hand", "final"),
        ("final", "hand", "final"),
    ]
    assert [run["turns"] for run in runs] == [0, 1, 2, 3]
    assert {agent["agent"]: agent["state"] for agent in runs[2]["agents"]} == {
        **dict.fromkeys(("plan.1", "patch.1", "verify.1"), "done"),
        "final": "waiting",
    }


async def test_a_patch_that_does_not_pass_is_written_again(
    stack: Stack, client: openai.AsyncOpenAI
) -> None:
    """The verifier's reasons go to the coder, and the second patch is what it then passes and the final stage sees."""
    models = stack.simulator
    models.script("head", called("read_file", path=PATH), finds_out)
    models.script("hand", begins_to_write, says_what_was_written, revises, looks_again, answers)
    models.script("eye", rejects, examines_again)
    agent = Agent(client, True, {PATH: BROKEN})

    assert await agent.work(TASK) == "area multiplies now."

    assert agent.files == {PATH: MENDED}
    assert asked(stack) == [*["head"] * 2, *["hand"] * 2, "eye", "hand", "eye", *["hand"] * 2]
    assert tuple(map(sum, zip(*agent.tokens, strict=True))) == billed(stack)
    (run,) = [run for run in await runs_of(stack, 4) if "verify" in stages_of(run)]
    assert "a verifier rejected an answer: it is revised" in run["notes"]


async def test_an_agent_that_comes_from_elsewhere_stays_with_one_model(
    stack: Stack, client: openai.AsyncOpenAI
) -> None:
    """Results of calls that no run of ours made go to the coder alone, as the recipe says."""
    foreign = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "read_file", "arguments": "{}"},
    }
    agent = Agent(client, False, {PATH: BROKEN})
    agent.messages += [
        {"role": "user", "content": TASK},
        {"role": "assistant", "content": None, "tool_calls": [foreign]},
        {"role": "tool", "tool_call_id": "call_1", "content": BROKEN},
    ]
    stack.simulator.script("hand", "It adds.")

    completion = await agent.ask()

    assert completion.choices[0].message.content == "It adds."
    assert asked(stack) == ["hand"]
