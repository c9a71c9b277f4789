import asyncio
import json
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from looper.calling.budget import Budget, Ledger
from looper.calling.models import Model
from looper.contract import ChoiceConfig, Terms
from looper.errors import (
    LooperError,
    StateBusy,
    StateExpired,
    StateMismatch,
    StateOutdated,
    StateUnavailable,
)
from looper.patterns.workflows import WorkflowsConfig
from looper.patterns.workflows.pauses.pausing import Origin as From
from looper.patterns.workflows.pauses.pausing import Pause, Spent, States, answers_ours
from looper.patterns.workflows.pauses.state import Claim, MemoryState, MemoryStore
from looper.patterns.workflows.saved import load, tool_results
from looper.patterns.workflows.tools import ONLY_ONE, relaxed
from looper.run import Deadline, Heartbeat, Pattern, Run, drive
from looper.wire.answer import Whole
from looper.wire.chat import ChatRequest, Usage
from looper.wire.events import Delta, Done, Event, Finish, Progress
from tests.fakes.clock import timeless
from tests.fakes.models import (
    After,
    ScriptedClient,
    Step,
    Stream,
    chunk,
    completion,
    in_turn,
    last_chunk,
    model,
    refused,
)

CATALOGUE: Mapping[str, Model] = {
    "a": model("a"),
    "b": model("b"),
    "v": model("v"),
    "f": model("f"),
    "short": model("short", dialect="mistral"),
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("read", "test")
]
ASKED = {"model": "m", "messages": [{"role": "user", "content": "fix it"}], "tools": TOOLS}
FAIL = json.dumps({"verdict": "fail", "reasons": ["untested"]})
PASS = json.dumps({"verdict": "pass"})
OURS = re.compile(r"call_[0-9A-Za-z]{32}")


def calling(*ids: str, name: str = "read", content: str | None = None) -> Step:
    """A model's answer that calls a tool once for each id."""
    return completion(content, finish="tool_calls", tool_calls=[call(id, name) for id in ids])


def call(id: str, name: str = "read") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": '{"x": 1}'}}


def streaming(*ids: str) -> Step:
    """The same as a stream, with arguments in pieces."""
    pieces = [chunk("Let me ", role="assistant"), chunk("see.")]
    for index, id in enumerate(ids):
        opened = {"index": index, **call(id), "function": {"name": "read", "arguments": ""}}
        pieces.append(chunk(tool_calls=[opened]))
        pieces += [
            chunk(tool_calls=[{"index": index, "function": {"arguments": part}}])
            for part in ('{"x"', ": 1}")
        ]
    return Stream([*pieces, chunk(finish="tool_calls"), last_chunk()])


def config(*steps: dict[str, Any], **settings: Any) -> WorkflowsConfig:
    plain = {"type": "workflows", "steps": steps, "final": {"model": "f"}, **settings}
    return WorkflowsConfig.model_validate(plain)


def step(id: str, *models: str, **members: Any) -> dict[str, Any]:
    return {"id": id, "models": [*models], "prompt": f"do {id}", **members}


@dataclass
class Turn:
    """What a client got."""

    events: list[Event]
    answer: dict[str, Any]

    @property
    def message(self) -> dict[str, Any]:
        message: dict[str, Any] = self.answer["choices"][0]["message"]
        return message

    @property
    def ids(self) -> list[str]:
        return [call["id"] for call in self.message.get("tool_calls", ())]

    @property
    def finish(self) -> str:
        return str(self.answer["choices"][0]["finish_reason"])

    @property
    def usage(self) -> int:
        return int(self.answer["usage"]["total_tokens"])


@dataclass
class Agentic:
    """A client that answers tools, and what a processor does with its requests."""

    client: ScriptedClient
    config: WorkflowsConfig
    states: States = field(
        default_factory=lambda: States(MemoryState(), MemoryStore(MemoryState()))
    )
    budget: Budget = field(default_factory=Budget)
    terms: Terms = field(default_factory=Terms)
    models: Mapping[str, Model] = field(default_factory=lambda: CATALOGUE)
    runs: list[Run] = field(default_factory=list)
    pauses: list[Pause] = field(default_factory=list)

    async def turn(self, body: Mapping[str, Any], *, owner: str | None = None) -> Turn:
        request = ChatRequest.parse(json.dumps(body).encode())
        results = tool_results(request)
        ids = [result.id for result in results]
        if not answers_ours(ids):
            origin = From("r", request.model, "recipe", "decision", owner)
            return await self._play(self.config.build(), request, origin, Spent())
        waiting = await self.states.find(ids, request.model, owner)
        pattern = self.config.build().going_on(load(waiting.paused.work), results)
        turns: list[Turn] = []

        async def go_on() -> None:
            paused = waiting.paused
            turns.append(await self._play(pattern, request, paused.origin, paused.spent))

        def left() -> Spent | None:
            return None if turns else self.pauses[-1].spent

        await self.states.hold(waiting, f"request {len(self.runs)}", go_on, left)
        return turns[0]

    async def _play(
        self, pattern: Pattern, request: ChatRequest, origin: From, spent: Spent
    ) -> Turn:
        ledger = Ledger(self.budget, before=spent.amount)
        deadline = Deadline.after(100)
        pause = self.states.pause(origin, spent, ledger, deadline)
        run = Run(
            "r",
            self.models,
            self.client,
            ledger,
            deadline,
            Random(1),
            terms=self.terms,
            pauses=pause,
        )
        self.runs.append(run)
        self.pauses.append(pause)
        events: list[Event] = []
        whole = Whole(request)

        async def emit(event: Event | Heartbeat) -> None:
            assert not isinstance(event, Heartbeat)
            events.append(event)
            whole.add(event)

        await drive(pattern, request, run, emit, heartbeat=1000)
        return Turn(events, json.loads(whole.to_json()))

    async def answer(
        self, body: dict[str, Any], turn: Turn, said: str = "result", **members: Any
    ) -> tuple[dict[str, Any], Turn]:
        """Answer every call of a turn, and get the next one."""
        body = with_results(body, turn, said) | members
        return body, await self.turn(body)


def with_results(body: Mapping[str, Any], turn: Turn, said: str = "result") -> dict[str, Any]:
    results = [
        {"role": "tool", "tool_call_id": id, "content": f"{said} {at}"}
        for at, id in enumerate(turn.ids)
    ]
    return {**body, "messages": [*body["messages"], turn.message, *results]}


def agentic(config: WorkflowsConfig, **steps: Step) -> Agentic:
    script: dict[str, Step] = {"a": "by a", "b": "by b", "v": PASS, "f": "the answer"}
    return Agentic(ScriptedClient({**script, **steps}), config)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_worker_gets_what_its_tools_said(stream: bool) -> None:
    """The client sees an id of ours, the worker its own, and nobody but the worker its history."""
    team = agentic(
        config(step("one", "a", "b"), step("two", "b", needs=["one"])),
        a=in_turn(calling("own-id", content="Let me see."), "done by a"),
    )
    body = {**ASKED, "stream": stream}
    first = await team.turn(body)

    assert first.finish == "tool_calls"
    (shown,) = first.message["tool_calls"]
    assert OURS.fullmatch(shown["id"])
    assert shown["function"] == {"name": "read", "arguments": '{"x": 1}'}
    assert team.client.names == ["a", "b"]

    _, second = await team.answer(body, first)
    assert second.finish == "stop"
    assert second.message["content"] == "the answer"
    assert team.client.names == ["a", "b", "a", "b", "f"]
    before, again = (asked.body["messages"] for asked in team.client.calls_of("a"))
    assert again[: len(before)] == before
    assert again[len(before) :] == [
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call("own-id")]},
        {"role": "tool", "tool_call_id": "own-id", "content": "result 0"},
    ]
    for name in ("b", "f"):
        for asked in team.client.calls_of(name):
            assert "result 0" not in json.dumps(asked.body["messages"])
            assert shown["id"] not in json.dumps(asked.body)
    assert "done by a" in team.client.calls_of("b")[1].prompt


@pytest.mark.parametrize("first_streams", [False, True])
@pytest.mark.parametrize("second_streams", [False, True])
async def test_the_final_model_gets_what_its_tools_said(
    first_streams: bool, second_streams: bool
) -> None:
    """The final stage goes on with its own history, whichever side of the pause is streamed."""
    asks = streaming("f-1", "f-2") if first_streams else calling("f-1", "f-2", content="Let me see.")  # fmt: skip
    team = agentic(config(step("one", "a")), f=in_turn(asks, "the answer"))
    body = {**ASKED, "stream": first_streams}
    first = await team.turn(body)

    assert first.finish == "tool_calls"
    assert len(set(first.ids)) == 2
    assert all(OURS.fullmatch(id) for id in first.ids)
    assert first.message["content"] == "Let me see."
    assert [each["function"]["arguments"] for each in first.message["tool_calls"]] == ['{"x": 1}'] * 2  # fmt: skip

    _, second = await team.answer(body, first, stream=second_streams)
    assert second.message["content"] == "the answer"
    assert team.client.names == ["a", "f", "f"]
    before, again = (asked.body["messages"] for asked in team.client.calls_of("f"))
    assert again[: len(before)] == before
    said, *results = again[len(before) :]
    assert [each["id"] for each in said["tool_calls"]] == ["f-1", "f-2"]
    assert [each["tool_call_id"] for each in results] == ["f-1", "f-2"]


async def test_agents_that_ask_at_once_are_answered_in_one_turn() -> None:
    """All calls of all agents come in one message, and each agent gets its own results, whatever their order."""
    team = agentic(
        config(step("one", "a", "b"), step("two", "v")),
        a=in_turn(calling("x", "y"), "by a"),
        b=in_turn(calling("x"), "by b"),
    )
    first = await team.turn(ASKED)
    assert len(set(first.ids)) == 3

    body = with_results(ASKED, first)
    body["messages"][-3:] = reversed(body["messages"][-3:])
    await team.turn(body)
    a, b = (team.client.calls_of(name)[1].body["messages"] for name in "ab")

    assert [(each["tool_call_id"], each["content"]) for each in a[-2:]] == [
        ("x", "result 0"),
        ("y", "result 1"),
    ]
    assert [(each["tool_call_id"], each["content"]) for each in b[-1:]] == [("x", "result 2")]
    assert len(team.client.calls_of("v")) == 1


@timeless
async def test_what_can_be_worked_on_is_before_the_client_is_asked() -> None:
    """Steps beside the one that waits go on to their end, and are not done again."""
    team = agentic(
        config(step("one", "a"), step("two", "b"), step("three", "v", needs=["two"])),
        a=in_turn(calling("x"), "by a"),
        b=After(5, "by b"),
        v="by v",
    )
    first = await team.turn(ASKED)
    assert team.client.names == ["a", "b", "v"]
    await team.answer(dict(ASKED), first)

    assert team.client.names == ["a", "b", "v", "a", "f"]


async def test_many_turns_keep_every_result() -> None:
    """An agent may ask again and again; each turn has ids of its own, and the history grows by its own words only."""
    team = agentic(
        config(step("one", "a")), a=in_turn(calling("1"), calling("2"), calling("3"), "by a")
    )
    turn, body = await team.turn(ASKED), dict(ASKED)
    ids = [*turn.ids]
    for said in ("first", "second", "third"):
        body, turn = await team.answer(body, turn, said)
        ids += turn.ids

    assert turn.message["content"] == "the answer"
    assert len(set(ids)) == 3
    last = team.client.calls_of("a")[-1].body["messages"]
    results = [each["content"] for each in last if each["role"] == "tool"]
    assert results == ["first 0", "second 0", "third 0"]
    assert [each["role"] for each in last] == ["user", *("assistant", "tool") * 3]


async def test_usage_over_all_turns_is_what_was_billed() -> None:
    """Each turn reports its own calls, so that together they are exactly all."""
    team = agentic(
        config(step("one", "a", "b")),
        a=in_turn(calling("1"), calling("2"), "by a"),
        f=in_turn(calling("3"), "the answer"),
    )
    turn, body = await team.turn(ASKED), dict(ASKED)
    usages = [turn.usage]
    while turn.ids:
        body, turn = await team.answer(body, turn)
        usages.append(turn.usage)

    assert usages == [30, 15, 30, 15]
    assert sum(usages) == 15 * len(team.client.asked)


async def test_after_max_tool_turns_an_agent_must_answer() -> None:
    """Then tools may not be called any more, and what calls them all the same has no answer."""
    team = agentic(
        config(step("one", "a"), max_tool_turns=2), a=in_turn(calling("1"), calling("2"), "by a")
    )
    turn, body = await team.turn(ASKED), dict(ASKED)
    while turn.ids:
        body, turn = await team.answer(body, turn)
    choices = [asked.body.get("tool_choice") for asked in team.client.calls_of("a")]
    assert choices == [None, None, "none"]

    stubborn = agentic(config(step("one", "a"), max_tool_turns=0), a=calling("1"), f=calling("2"))
    with pytest.raises(LooperError):
        await stubborn.turn(ASKED)
    assert len(stubborn.client.asked) == 2


async def test_an_answer_that_is_one_turn_away_is_waited_for() -> None:
    """When a step fails that another one needs, and nobody has said anything yet, who waits for tools still may."""
    team = agentic(
        config(step("one", "a"), step("bad", "b"), step("two", "v", needs=["bad"])),
        a=in_turn(calling("x"), "by a"),
        b=refused(500),
    )
    first = await team.turn(ASKED)
    assert len(first.ids) == 1
    _, second = await team.answer(dict(ASKED), first)

    assert second.message["content"] == "by a"
    assert second.events[-1] == Done(Usage(10, 5), "degraded", Usage(10, 5), lack="step")
    assert team.client.names == ["a", "b", "a"]


async def test_a_model_without_tools_works_without_them() -> None:
    """Of a model that is known to have none, tools are kept away; it is asked all the same."""
    team = agentic(config(step("one", "a", "b")), b=in_turn(calling("1"), "by b"))
    team.models = {**CATALOGUE, "a": model("a", capabilities=["vision"])}
    first = await team.turn(ASKED)

    assert len(first.ids) == 1
    (without,), (with_tools,) = (team.client.calls_of(name) for name in "ab")
    assert "tools" not in without.body
    assert with_tools.body["tools"] == TOOLS


@pytest.mark.parametrize("dialect", ["vllm", "openai"])
@pytest.mark.parametrize("who", ["a", "f", "streamed"])
async def test_thoughts_before_a_call_go_back_where_they_are_known(who: str, dialect: str) -> None:
    """Models that think between calls want to read what they thought; who knows no such member is not sent it."""
    thinks = completion(
        None, finish="tool_calls", tool_calls=[call("1")], reasoning_content="Hm, so."
    )
    said: Step = thinks
    if who == "streamed":
        bits = [chunk(reasoning_content="Hm, "), chunk(reasoning_content="so.")]
        calls = chunk(tool_calls=[{"index": 0, **call("1")}])
        said = Stream([*bits, calls, chunk(finish="tool_calls"), last_chunk()])
    name = who.replace("streamed", "f")
    team = agentic(config(step("one", "a")), **{name: in_turn(said, "ok")})
    team.models = {**CATALOGUE, name: model(name, dialect=dialect)}
    body = {**ASKED, "stream": who == "streamed"}
    first = await team.turn(body)
    await team.answer(body, first, stream=False)
    *_, again, _ = team.client.calls_of(name)[1].body["messages"]

    assert again.get("reasoning_content") == {"vllm": "Hm, so.", "openai": None}[dialect]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_final_model_that_only_calls_what_it_may_not_is_replaced(stream: bool) -> None:
    """An answer is never empty: the best of the workers' stands in, without the calls that it was written with."""
    called = chunk(tool_calls=[{"index": 0, **call("2")}])
    asks = Stream([called, chunk(finish="tool_calls"), last_chunk()])
    team = agentic(
        config(step("one", "a"), max_tool_turns=0),
        a=calling("raw", content="by a"),
        f=asks if stream else calling("2"),
    )
    turn = await team.turn({**ASKED, "stream": stream})

    assert (turn.message["content"], turn.ids, turn.finish) == ("by a", [], "stop")
    assert turn.events[-1] == Done(Usage(20, 10), "fallback", Usage(10, 5))


async def test_the_best_answer_so_far_calls_nothing() -> None:
    """What is published in place of a plan's end shows no call of its worker's, and no id of an upstream's."""
    team = agentic(
        config(
            step("one", "a"), step("bad", "b"), step("two", "v", needs=["bad"]), max_tool_turns=0
        ),
        a=calling("raw", content="by a"),
        b=refused(500),
    )
    turn = await team.turn(ASKED)

    assert (turn.message["content"], turn.ids, turn.finish) == ("by a", [], "stop")


@pytest.mark.parametrize(
    "without",
    [{"tools": []}, {"tool_choice": "none"}, {"tools": None}],
    ids=["no-tools", "none", "null"],
)
@pytest.mark.parametrize("who", ["a", "f"])
async def test_a_client_without_tools_is_never_asked_for_them(
    who: str, without: dict[str, Any]
) -> None:
    """A model that calls tools all the same has called nothing: what it says beside them counts."""
    team = agentic(config(step("one", "a")), **{who: calling("1", content="said beside")})
    turn = await team.turn({**ASKED, **without})

    assert (turn.ids, turn.finish) == ([], "stop")
    assert "said beside" in (team.client.role("final").prompt, turn.message["content"])[who == "f"]


async def test_a_client_that_takes_its_tools_back_gets_an_answer() -> None:
    """Without tools, or with `tool_choice: none`, in a later turn there are no further calls."""
    team = agentic(config(step("one", "a")), a=in_turn(calling("1"), calling("2", content="by a")))
    first = await team.turn(ASKED)
    _, second = await team.answer(dict(ASKED), first, tool_choice="none")

    assert (second.ids, second.message["content"]) == ([], "the answer")
    assert "by a" in team.client.role("final").prompt


async def test_a_finish_without_calls_is_an_end() -> None:
    """A client that reads `tool_calls` looks for some."""
    empty = completion("the answer", finish="tool_calls", tool_calls=[])
    turn = await agentic(config(step("one", "a")), f=empty).turn(ASKED)

    assert (turn.message["content"], turn.finish) == ("the answer", "stop")


@pytest.mark.parametrize("who", ["a", "f", "streamed"])
async def test_custom_tools_are_called_as_custom_tools(who: str) -> None:
    """A call of a tool that is no function is shown to the client, and to its model again, as what it is."""
    own = {"id": "1", "type": "custom", "custom": {"name": "shell", "input": "ls"}}
    said: Step = completion(None, finish="tool_calls", tool_calls=[own])
    if who == "streamed":
        said = Stream([chunk(tool_calls=[own]), chunk(finish="tool_calls"), last_chunk()])
    name = who.replace("streamed", "f")
    team = agentic(config(step("one", "a")), **{name: in_turn(said, "ok")})
    body = {**ASKED, "stream": who == "streamed"}
    turn = await team.turn(body)
    (shown,) = turn.message["tool_calls"]
    assert shown == {**own, "id": shown["id"]}

    await team.answer(body, turn, stream=False)
    *_, again, _ = team.client.calls_of(name)[1].body["messages"]
    assert again["tool_calls"] == [own]


async def test_what_names_no_tool_is_no_call() -> None:
    """An agent that says nothing else has failed."""
    said = completion(None, finish="tool_calls", tool_calls=[{"id": "1", "function": {}}])
    turn = await agentic(config(step("one", "a", "b")), a=said).turn(ASKED)

    assert turn.ids == []
    assert turn.events[-1] == Done(Usage(30, 15), "degraded", Usage(10, 5), lack="failed")


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "function", "function": {"name": "read"}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": []}},
    ],
    ids=["required", "named", "allowed"],
)
async def test_a_forced_call_is_forced_once(choice: Any) -> None:
    """`tool_choice` holds in the first turn, and is relaxed for all agents once tools have answered."""
    team = agentic(config(step("one", "a")), a=in_turn(calling("1"), "by a"))
    body = {**ASKED, "tool_choice": choice}
    first = await team.turn(body)
    _, second = await team.answer(body, first)

    assert second.message["content"] == "the answer"
    said = [json.dumps(asked.body["tool_choice"]) for asked in team.client.asked]
    assert said[0] == json.dumps(choice)
    assert all("auto" in each and "required" not in each for each in said[1:])


def test_a_choice_that_is_no_value_to_us_stays_as_it_is() -> None:
    """The upstream may say what is wrong with it."""
    body = b'{"model": "m", "messages": [{"role": "user"}], "tool_choice": {"type": "function", "x": 1e400}}'
    assert relaxed(ChatRequest.parse(body)) == {}


async def test_one_call_at_a_time_is_one_call_at_a_time() -> None:
    """With `parallel_tool_calls: false` agents that ask at once are answered in turn, each in a turn of its own."""
    team = agentic(
        config(step("one", "a", "b")),
        a=in_turn(calling("x"), "by a"),
        b=in_turn(calling("y"), "by b"),
    )
    body = {**ASKED, "parallel_tool_calls": False}
    first = await team.turn(body)
    assert len(first.ids) == 1
    body, second = await team.answer(body, first)
    assert len(second.ids) == 1
    assert team.client.names == ["a", "b", "a"]
    _, third = await team.answer(body, second)

    assert third.message["content"] == "the answer"
    assert team.client.names == ["a", "b", "a", "b", "f"]


@pytest.mark.parametrize(
    ("asker", "asks"),
    [("a", calling), ("f", calling), ("f", streaming)],
    ids=["worker", "final", "streamed-final"],
)
async def test_a_model_that_makes_several_calls_all_the_same_makes_the_first(
    asker: str, asks: Callable[..., Step]
) -> None:
    """The client, who takes one, is shown one; the model's history has no other, and the trace says so."""
    answer = "by a" if asker == "a" else "the answer"
    steps: dict[str, Step] = {asker: in_turn(asks("x", "y"), answer)}
    team = agentic(config(step("one", "a")), **steps)
    body = {**ASKED, "parallel_tool_calls": False, "stream": asks is streaming}
    first = await team.turn(body)
    assert len(first.ids) == 1
    (shown,) = first.message["tool_calls"]
    assert shown["function"] == {"name": "read", "arguments": '{"x": 1}'}
    assert team.runs[0].trace.notes.count(ONLY_ONE) == 1

    _, second = await team.answer(body, first)
    assert second.message["content"] == "the answer"
    *_, said, result = team.client.calls_of(asker)[1].body["messages"]
    assert [each["id"] for each in said["tool_calls"]] == ["x"]
    assert result["tool_call_id"] == "x"


async def test_a_revision_may_use_tools() -> None:
    """A worker that was rejected may ask for tools before it answers again, and is verified after that."""
    team = agentic(
        config(step("one", "a"), step("check", "v", role="verifier", needs=["one"])),
        a=in_turn("first", calling("1"), "second"),
        v=in_turn(FAIL, PASS),
    )
    first = await team.turn(ASKED)
    assert team.client.names == ["a", "v", "a"]
    _, second = await team.answer(dict(ASKED), first)

    assert second.message["content"] == "the answer"
    assert team.client.names == ["a", "v", "a", "a", "v", "f"]
    assert "second" in team.client.calls_of("v")[1].prompt


async def test_private_stages_never_get_tools() -> None:
    """A verifier has no tools to call."""
    team = agentic(config(step("one", "a"), step("check", "v", role="verifier", needs=["one"])))
    await team.turn(ASKED)

    assert "tools" not in team.client.role("verifier").body
    assert team.client.role("worker").body["tools"] == TOOLS


async def test_ids_upstream_are_in_its_dialect() -> None:
    """An upstream that takes nine letters and digits gets its own ids back; odd ones are mapped, in pairs."""
    team = agentic(config(step("one", "short")), short=in_turn(calling("a1b2c3d4e"), "by it"))
    first = await team.turn(ASKED)
    await team.answer(dict(ASKED), first)
    messages = team.client.calls_of("short")[1].body["messages"]

    assert messages[-2]["tool_calls"][0]["id"] == messages[-1]["tool_call_id"] == "a1b2c3d4e"


@pytest.mark.parametrize("odd", ["", None, 7])
async def test_a_backend_without_ids_is_given_some(odd: Any) -> None:
    """Calls without an id, or with the same one twice, are told apart all the same."""
    calls = [call("twice"), call("twice"), {**call("x"), "id": odd}]
    asks = completion(None, finish="tool_calls", tool_calls=calls)
    team = agentic(config(step("one", "a")), a=in_turn(asks, "by a"))
    first = await team.turn(ASKED)
    assert len(set(first.ids)) == 3
    await team.answer(dict(ASKED), first)
    *_, said, one, two, three = team.client.calls_of("a")[1].body["messages"]

    ids = [each["id"] for each in said["tool_calls"]]
    assert len(set(ids)) == 3
    assert [each["tool_call_id"] for each in (one, two, three)] == ids


async def test_the_contract_holds_after_a_pause() -> None:
    """What is published in the end keeps the contract; an answer that calls tools has none to keep."""
    team = agentic(
        config(step("one", "a")),
        f=in_turn(calling("1", content="Let me see."), "ANSWER: B. Surely."),
    )
    contract = ChoiceConfig.model_validate({"type": "choice", "values": ["A", "B"]}).build()
    team.terms = Terms(contract)
    first = await team.turn(ASKED)
    assert first.finish == "tool_calls"
    _, second = await team.answer(dict(ASKED), first)

    assert contract.check(second.message["content"]) is None
    assert contract.extract(second.message["content"]) == "B"


async def test_a_repair_calls_no_tools() -> None:
    """A final model that is asked to mend its answer gives one, or the best of the others stands in."""
    team = agentic(
        config(step("one", "a")), a="ANSWER: B", f=in_turn("neither", calling("1", content="A"))
    )
    contract = ChoiceConfig.model_validate({"type": "choice", "values": ["A", "B"]}).build()
    team.terms = Terms(contract)
    turn = await team.turn(ASKED)

    assert (turn.ids, turn.message["content"], turn.finish) == ([], "A", "stop")
    first, repair = team.client.calls_of("f")
    assert (first.role, repair.role) == ("final", "repair")
    assert "tool_choice" not in first.body
    assert repair.body["tool_choice"] == "none"


async def test_the_budget_is_the_whole_runs() -> None:
    """Calls of earlier turns count, and who could not be asked again has no tools to call."""
    calls = in_turn(calling("1"), calling("2", content="by a"))
    team = agentic(config(step("one", "a", "b")), a=calls)
    team.budget = Budget(calls=4)
    first = await team.turn(ASKED)
    _, second = await team.answer(dict(ASKED), first)

    assert team.client.names == ["a", "b", "a", "f"]
    assert [asked.body.get("tool_choice") for asked in team.client.calls_of("a")] == [None, "none"]
    assert second.message["content"] == "the answer"
    assert "by a" in team.client.role("final").prompt


async def test_room_is_kept_for_the_steps_to_come() -> None:
    """Turns of tools take what the plan leaves over, and nothing of what its later steps need."""
    turns = [calling(str(number), content="by a") for number in range(20)]
    plan = config(step("one", "a"), step("two", "b", needs=["one"]), max_calls=5)
    team = agentic(plan, a=in_turn(*turns))
    turn, body = await team.turn(ASKED), dict(ASKED)
    while turn.ids:
        body, turn = await team.answer(body, turn)

    assert team.client.names == ["a", "a", "a", "b", "f"]
    assert team.runs[-1].trace.notes == [
        f"{agent} has no tools: no call is left to go on with"
        for agent in ("one.1", "two.1", "final")
    ]


async def test_max_calls_counts_all_turns() -> None:
    """The bound on calls is the run's, over all its turns."""
    turns = [calling(str(number)) for number in range(20)]
    team = agentic(config(step("one", "a"), max_calls=5), a=in_turn(*turns))
    turn, body = await team.turn(ASKED), dict(ASKED)
    while turn.ids:
        body, turn = await team.answer(body, turn)

    assert len(team.client.asked) == 5
    assert turn.message["content"] == "the answer"


async def test_a_revision_that_fails_behind_a_pause_lets_the_other_be_verified() -> None:
    """Of two that were sent back one has answered again: its new answer is verified, not its old one's verdict kept."""
    check = step("check", "v", role="verifier", needs=["one", "two"])
    team = agentic(
        config(step("one", "a"), step("two", "b"), check),
        a=in_turn("a1", "a2"),
        b=in_turn("b1", calling("t"), refused(500)),
        v=in_turn(FAIL, PASS),
    )
    first = await team.turn(ASKED)
    assert team.client.names == ["a", "b", "v", "a", "b"]
    await team.answer(dict(ASKED), first)

    assert team.client.names[5:] == ["b", "v", "f"]
    assert "a2" in team.client.calls_of("v")[1].prompt
    assert team.runs[1].trace.to_dict()["agents"][2]["verdict"] == "pass"


async def test_progress_and_trace_show_the_turn() -> None:
    """The resumed turn says where it goes on, and the trace shows agents with their turns, and nothing said."""
    team = agentic(config(step("one", "a"), step("two", "b")), a=in_turn(calling("1"), "by a"))
    first = await team.turn(ASKED)
    _, second = await team.answer(dict(ASKED), first, "secret")

    assert [event.stage for event in first.events if isinstance(event, Progress)] == ["one", "two"]
    assert [event.stage for event in second.events if isinstance(event, Progress)] == ["one", "final"]  # fmt: skip
    before, after = (run.trace.to_dict() for run in team.runs)
    assert before["agents"][0]["state"] == "waiting"
    assert after["agents"][0] == {"agent": "one.1", "model": "a", "state": "done", "turns": 1}
    assert after["turns"] == 1
    assert "secret" not in json.dumps(after)


async def test_a_pause_ends_its_turn_properly() -> None:
    """The client gets calls, one finish and a Done, in this order."""
    team = agentic(config(step("one", "a")), a=calling("1"))
    turn = await team.turn(ASKED)

    kinds = [type(event) for event in turn.events]
    assert kinds == [Progress, Delta, Finish, Done]


async def _caught(work: Coroutine[Any, Any, object]) -> Exception | None:
    try:
        await work
    except Exception as error:
        return error
    return None


class SlowStore(MemoryStore):
    """Answers late, or not at all, from a moment on: what was asked of it is done first."""

    hangs: str = ""

    async def get(self, id: str) -> bytes | None:
        state = await super().get(id)
        await self._answer("get")
        return state

    async def claim(self, id: str, holder: str) -> Claim:
        claim = await super().claim(id, holder)
        await self._answer("claim")
        return claim

    async def _answer(self, what: str) -> None:
        if self.hangs == what:
            await asyncio.sleep(2)
            raise StateUnavailable("too late")


class TestWhoMayGoOn:
    async def paused(self, **steps: Step) -> tuple[Agentic, Turn]:
        steps = {"a": in_turn(calling("1", "2"), "by a"), **steps}
        team = agentic(config(step("one", "a")), **steps)
        return team, await team.turn(ASKED, owner="me")

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            (lambda ids: [*ids, "call_abc"], StateMismatch),
            (lambda ids: ids[:1], StateMismatch),
            (lambda ids: [ids[0], ids[0]], StateMismatch),
            (lambda ids: [*ids, ids[0]], StateMismatch),
            (lambda ids: [ids[0], ids[1][:-1] + ("a" if ids[1][-1] != "a" else "b")], StateMismatch),
            (lambda ids: ["call_" + "Zz" * 16], StateMismatch),
        ],
        ids=["mixed", "missing", "twice", "one-more", "forged", "made-up"],
    )  # fmt: skip
    async def test_other_ids_are_refused_and_the_run_is_kept(
        self, change: Any, error: type[LooperError]
    ) -> None:
        """No model is called, and the right answers are taken after that all the same."""
        team, turn = await self.paused()
        body = with_results(ASKED, turn)
        results = [{"role": "tool", "tool_call_id": id, "content": "x"} for id in change(turn.ids)]
        bad = {**body, "messages": [*body["messages"][:2], *results]}
        with pytest.raises(error):
            await team.turn(bad, owner="me")
        assert len(team.client.asked) == 1

        assert (await team.turn(body, owner="me")).message["content"] == "the answer"

    async def test_who_found_a_run_before_a_turn_failed_looks_again(self) -> None:
        """Between finding and having a run another turn may have cost something, which must not be forgotten."""
        team, turn = await self.paused(
            a=in_turn(calling("1", "2"), refused(500), "by a"),
            f=in_turn(refused(500), "the answer"),
        )
        body = with_results(ASKED, turn)
        early = await team.states.find(turn.ids, "m", "me")
        with pytest.raises(LooperError):
            await team.turn(body, owner="me")
        asked = len(team.client.asked)

        async def never() -> None:
            raise AssertionError

        with pytest.raises(StateBusy) as caught:
            await team.states.hold(early, "late", never, lambda: None)
        assert caught.value.retry_after == 1
        assert (await team.turn(body, owner="me")).message["content"] == "the answer"
        assert len(team.client.asked) == asked + 2

    @pytest.mark.parametrize("where", ["claim", "get"])
    @pytest.mark.parametrize("leaves", [True, False], ids=["left", "store-fails"])
    @timeless
    async def test_who_gives_up_while_having_a_run_does_not_keep_it(
        self, where: str, leaves: bool
    ) -> None:
        """Whether its client leaves in that moment or the store fails, others need not wait for the lease to end."""
        store = SlowStore(MemoryState())
        team = agentic(config(step("one", "a")), a=in_turn(calling("1"), "by a"))
        team.states = States(MemoryState(), store)
        turn = await team.turn(ASKED)
        waiting = await team.states.find(turn.ids, "m", None)

        async def never() -> None:
            raise AssertionError

        store.hangs = where
        with pytest.raises((TimeoutError, StateUnavailable)):
            async with asyncio.timeout(1 if leaves else None):
                await team.states.hold(waiting, "me", never, lambda: None)
        store.hangs = ""

        assert await store.claim(waiting.state, "you") == "held"

    @timeless
    async def test_who_has_lost_a_run_stops(self) -> None:
        """A process that stood still for longer than its lease finds that another one goes on, and leaves it alone."""
        store = MemoryStore(MemoryState())
        team = agentic(config(step("one", "a")), a=in_turn(calling("1"), After(60, "by a")))
        team.states = States(MemoryState(), store)
        turn = await team.turn(ASKED)
        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            losing = group.create_task(_caught(team.turn(with_results(ASKED, turn))))
            await asyncio.sleep(1)
            id = turn.ids[0][5:17]
            store._kept[id].holder = "another one"
        assert isinstance(losing.result(), StateBusy)
        assert asyncio.get_running_loop().time() - began < 6
        assert team.client.running == []

        assert await store.claim(id, "a third one") == "busy"

    async def test_a_run_of_another_version_is_outdated(self) -> None:
        """What cannot be read any more, as a whole, in a part or in a step, is no mistake of ours."""
        store = MemoryStore(MemoryState())
        team = agentic(config(step("one", "a")), a=calling("1"))
        team.states = States(MemoryState(), store)
        turn = await team.turn(ASKED)
        id = turn.ids[0][5:17]
        kept = await store.get(id)
        for path, value in (
            (("spent",), None),
            (("work", "fence"), 7),
            (("work", "steps"), [{"id": 1}]),
        ):
            state: Any = json.loads(kept or b"")
            place = state if len(path) == 1 else state[path[0]]
            place[path[-1]] = value
            await store.put(id, json.dumps(state).encode())
            with pytest.raises(StateOutdated):
                await team.turn(with_results(ASKED, turn))
        assert len(team.client.asked) == 1

    async def test_another_clients_run_is_refused(self) -> None:
        """Ids alone are not enough where clients are told apart."""
        team, turn = await self.paused()
        for owner in ("you", None):
            with pytest.raises(StateMismatch):
                await team.turn(with_results(ASKED, turn), owner=owner)
        assert len(team.client.asked) == 1

        assert (await team.turn(with_results(ASKED, turn), owner="me")).finish == "stop"

    async def test_another_model_name_is_refused(self) -> None:
        """A run goes on under the name that it began with."""
        team, turn = await self.paused()
        with pytest.raises(StateMismatch):
            await team.turn({**with_results(ASKED, turn), "model": "other"}, owner="me")

    async def test_ids_of_two_runs_are_refused(self) -> None:
        """Calls of two runs cannot be answered in one request, not even one's own."""
        team, one = await self.paused()
        two = await team.turn({**ASKED, "seed": 1}, owner="me")
        if not two.ids:  # the script has moved on
            team.client = ScriptedClient({**team.client.script, "a": calling("9")})
            two = await team.turn(ASKED, owner="me")
        body = with_results(ASKED, one)
        body["messages"].append({"role": "tool", "tool_call_id": two.ids[0], "content": "x"})
        asked = len(team.client.asked)
        with pytest.raises(StateMismatch):
            await team.turn(body, owner="me")
        assert len(team.client.asked) == asked

    async def test_what_was_answered_cannot_be_answered_again(self) -> None:
        """A replay finds nothing, after the end as after the next pause."""
        team, turn = await self.paused(f=in_turn(calling("3"), "the answer"))
        body = with_results(ASKED, turn)
        second = await team.turn(body, owner="me")
        asked = len(team.client.asked)
        with pytest.raises(StateExpired):
            await team.turn(body, owner="me")
        assert len(team.client.asked) == asked

        third = await team.turn(with_results(body, second), owner="me")
        assert third.message["content"] == "the answer"

    @timeless
    async def test_a_run_expires(self) -> None:
        """After its time it is gone, and no model is called."""
        team, turn = await self.paused()
        await asyncio.sleep(15 * 60 + 1)
        with pytest.raises(StateExpired):
            await team.turn(with_results(ASKED, turn), owner="me")
        assert len(team.client.asked) == 1

    @timeless
    async def test_two_at_once_are_one_and_an_error(self) -> None:
        """While one goes on with a run, another is told to come back later; the lease is kept as long as it takes."""
        team, turn = await self.paused(a=in_turn(calling("1", "2"), After(60, "by a")))
        body = with_results(ASKED, turn)
        async with asyncio.TaskGroup() as group:
            first = group.create_task(team.turn(body, owner="me"))
            await asyncio.sleep(40)
            with pytest.raises(StateBusy) as caught:
                await team.turn(body, owner="me")
        assert caught.value.retry_after == 15
        assert first.result().message["content"] == "the answer"
        assert len(team.client.calls_of("a")) == 2

    @timeless
    async def test_two_of_one_name_are_one_and_an_error(self) -> None:
        """A process that lives is not taken over, even by the same request once more: clients may choose its name."""
        team, turn = await self.paused()
        waiting = await team.states.find(turn.ids, "m", "me")

        async def linger() -> None:
            await asyncio.sleep(60)

        async with asyncio.TaskGroup() as group:
            group.create_task(team.states.hold(waiting, "same", linger, lambda: Spent()))
            await asyncio.sleep(40)
            with pytest.raises(StateBusy):
                await team.states.hold(waiting, "same", linger, lambda: Spent())
            with pytest.raises(StateBusy):
                await team.turn(with_results(ASKED, turn), owner="me")

        assert (await team.turn(with_results(ASKED, turn), owner="me")).finish == "stop"

    async def test_after_a_failure_the_run_can_be_tried_again(self) -> None:
        """An error on the way to the answer leaves the run where it was."""
        team, turn = await self.paused(
            a=in_turn(calling("1", "2"), refused(500), "by a"),
            f=in_turn(refused(500), "the answer"),
        )
        body = with_results(ASKED, turn)
        with pytest.raises(LooperError):
            await team.turn(body, owner="me")

        assert (await team.turn(body, owner="me")).message["content"] == "the answer"

    @timeless
    async def test_a_client_that_leaves_can_come_back(self) -> None:
        """A turn that was cancelled lets the run go at once."""
        team, turn = await self.paused(
            a=in_turn(calling("1", "2"), After(60, "never heard"), "by a")
        )
        body = with_results(ASKED, turn)
        async with asyncio.TaskGroup() as group:
            leaving = group.create_task(team.turn(body, owner="me"))
            await asyncio.sleep(1)
            leaving.cancel()
        assert team.client.running == []

        assert (await team.turn(body, owner="me")).message["content"] == "the answer"

    async def test_a_client_that_leaves_with_its_answer_has_had_it(self) -> None:
        """Between the last word and the end of the work, the client hangs up: the run is over all the same."""
        team, turn = await self.paused()
        body = with_results(ASKED, turn)
        results = tool_results(ChatRequest.parse(json.dumps(body).encode()))
        waiting = await team.states.find([result.id for result in results], "m", "me")
        said = asyncio.Event()

        async def speak_and_linger() -> None:
            said.set()
            await asyncio.sleep(60)

        async with asyncio.TaskGroup() as group:
            leaving = group.create_task(
                team.states.hold(
                    waiting, "one", speak_and_linger, lambda: None if said.is_set() else Spent()
                )
            )
            await said.wait()
            leaving.cancel()
        with pytest.raises(StateExpired):
            await team.turn(body, owner="me")
