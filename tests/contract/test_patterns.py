"""Rules that every loop obeys, with real sockets to simulated models. A new one joins by its catalogue example."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, get_args

import pytest
import yaml
from pydantic import TypeAdapter

from looper.algorithms import AlgorithmConfig, SingleConfig
from looper.calling.budget import Budget, Ledger
from looper.calling.calls import Private
from looper.calling.client import EgressClient
from looper.calling.cost import PlannedCall
from looper.calling.models import Model
from looper.contract import NO_TERMS, ExactConfig, Terms
from looper.errors import ContractViolated, LooperError
from looper.functions import for_client, with_tools
from looper.patterns.workflows.pauses.pausing import Origin, Spent, States
from looper.patterns.workflows.pauses.state import MemoryState, MemoryStore
from looper.run import Deadline, Pattern, Run, drive, seeded
from looper.simulate.server import (
    MODELS,
    AnyFault,
    Blank,
    Ending,
    FunctionCall,
    Garbage,
    Hang,
    PlainStop,
    ReceivedCall,
    Reset,
    Simulator,
    Status,
)
from looper.wire.chat import ChatRequest
from looper.wire.events import Delta, Done, Event, Finish
from tests.contract.test_catalogue import ALGORITHMS, sections

QUESTION = "What is the capital of Canada?"


def example(kind: str) -> Any:
    block = sections(ALGORITHMS)[kind].partition("```yaml\n")[2].partition("```")[0]
    return TypeAdapter(AlgorithmConfig).validate_python(yaml.safe_load(block)["algorithm"])


LOOPS = [kind for kind in sections(ALGORITHMS) if not isinstance(example(kind), SingleConfig)]


@dataclass(frozen=True, slots=True)
class Team:
    """Simulated models, and where they listen."""

    simulator: Simulator
    url: str


@pytest.fixture
async def team() -> AsyncIterator[Team]:
    quick = (model.model_copy(update={"latency": 0.0, "token_latency": 0.0}) for model in MODELS)
    simulator = Simulator(quick)
    async with simulator.serve() as address:
        yield Team(simulator, address.url)


async def play(
    kind: str,
    team: Team,
    *,
    deadline: float = 10.0,
    calls: int | None = None,
    terms: Terms = NO_TERMS,
    window: int | None = None,
    **members: Any,
) -> tuple[list[Event], Ledger]:
    """Run the catalogue's example of a loop over the simulated models, of whose windows this is said."""
    body = {"model": "m", "messages": [{"role": "user", "content": QUESTION}], **members}
    request = ChatRequest.parse(json.dumps(body).encode())
    pattern: Pattern = example(kind).build()
    events: list[Event] = []

    async def emit(event: Any) -> None:
        events.append(event)

    ledger, until = Ledger(Budget(calls=calls)), Deadline.after(deadline)
    states = States(MemoryState(), MemoryStore(MemoryState()))
    origin = Origin("run", request.model, "recipe", "decision", None)
    async with EgressClient(team.url) as client:
        run = Run(
            id="run",
            models={
                model.name: Model(name=model.name, url=f"{team.url}/v1", context_window=window)
                for model in MODELS
            },
            client=client,
            ledger=ledger,
            deadline=until,
            random=seeded(request),
            terms=terms,
            pauses=states.pause(origin, Spent(), ledger, until),
        )
        take = for_client(request, emit, run.trace)
        await drive(pattern, with_tools(request), run, take, heartbeat=60)
    return events, ledger


def text(events: list[Event]) -> str:
    deltas = (event for event in events if isinstance(event, Delta))
    return "".join(event.value for event in deltas if event.kind == "content")


@pytest.mark.parametrize("kind", LOOPS)
async def test_an_answer_is_complete(team: Team, kind: str) -> None:
    """A run says something, finishes its choice once, and is done once, last of all."""
    events, _ = await play(kind, team)

    assert "Ottawa" in text(events)
    assert sum(isinstance(event, Finish) for event in events) == 1
    assert isinstance(events[-1], Done)
    assert sum(isinstance(event, Done) for event in events) == 1


@pytest.mark.parametrize("streamed", [False, True], ids=["unstreamed", "streamed"])
@pytest.mark.parametrize("kind", LOOPS)
async def test_usage_is_what_backends_billed(team: Team, kind: str, streamed: bool) -> None:
    """Usage is the sum of what the backends reported, call by call."""
    events, ledger = await play(kind, team, stream=streamed)

    done = events[-1]
    assert isinstance(done, Done)
    billed = [call.usage for call in team.simulator.calls if call.usage is not None]
    assert done.usage.prompt_tokens == sum(usage["prompt_tokens"] for usage in billed)
    assert done.usage.completion_tokens == sum(usage["completion_tokens"] for usage in billed)
    assert len(billed) == team.simulator.count()
    assert ledger.calls == team.simulator.count()


UPSETS: dict[str, AnyFault | None] = {
    "good": None,
    "failing": Status(status=500),
    "blank": Blank(),
    "talking": Garbage(kind="html"),
}


@pytest.mark.parametrize("upset", UPSETS)
@pytest.mark.parametrize("kind", LOOPS)
async def test_every_call_was_planned(team: Team, kind: str, upset: str) -> None:
    """Whatever happens, each call that is made has a place of its own in the plan, with its model and its role."""
    plan = list(example(kind).planned())
    assert any(call.need == "always" for call in plan)
    for model in sorted(team.simulator.models):
        team.simulator.reset()
        team.simulator.fault(model, UPSETS[upset])
        with suppress(LooperError):
            await play(kind, team)

        made = [(call.model, call.headers["x-looper-role"]) for call in team.simulator.calls]
        assert made
        assert not unplanned(made, plan), f"{model} {upset}"


def unplanned(made: list[tuple[str, str]], plan: list[PlannedCall]) -> list[tuple[str, str]]:
    """The calls that find no place in the plan that is not taken: those with the fewest places choose first."""

    def places(model: str, role: str) -> list[PlannedCall]:
        return [each for each in plan if model in each.models and each.role == role]

    left = list(plan)
    without: list[tuple[str, str]] = []
    for model, role in sorted(made, key=lambda call: len(places(*call))):
        free = [each for each in left if model in each.models and each.role == role]
        if not free:
            without.append((model, role))
            continue
        # Of the places that fit, the one that fits the fewest others, so that those find one as well.
        left.remove(min(free, key=lambda each: len(each.models)))
    return without


@pytest.mark.parametrize("kind", LOOPS)
async def test_streamed_and_unstreamed_say_the_same(team: Team, kind: str) -> None:
    """A request gives the same text, streamed or not."""
    whole, _ = await play(kind, team, seed=3)
    streamed, _ = await play(kind, team, seed=3, stream=True)

    assert text(whole) == text(streamed)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        pytest.param(Status(status=500), "upstream_failed", id="500"),
        pytest.param(Status(status=429, retry_after=7), "rate_limited", id="429"),
        pytest.param(Status(status=400), "invalid_request", id="400"),
        pytest.param(
            Status(status=400, code="context_length_exceeded"), "context_length_exceeded", id="long"
        ),
        pytest.param(Status(status=403, code="content_filter"), "content_filter", id="filtered"),
        pytest.param(
            Status(status=422, code="unsupported_value"), "unsupported_by_model", id="unsupported"
        ),
        pytest.param(Status(status=401), "upstream_misconfigured", id="401"),
        pytest.param(Reset(), "upstream_failed", id="reset"),
        pytest.param(Hang(), "deadline_exceeded", id="hang"),
    ],
)
@pytest.mark.parametrize("kind", LOOPS)
async def test_when_everything_fails_the_error_is_typed(
    team: Team, kind: str, fault: AnyFault, code: str
) -> None:
    """When every model fails in the same way, the error says in which, with nothing of an upstream's words in it."""
    for name in team.simulator.models:
        team.simulator.fault(name, fault)

    with pytest.raises(LooperError) as caught:
        await play(kind, team, deadline=0.5 if isinstance(fault, Hang) else 60)

    assert caught.value.code == code
    assert caught.value.retry_after == (7 if code == "rate_limited" else None)
    assert "simulated" not in caught.value.message


@pytest.mark.parametrize("kind", LOOPS)
async def test_cancelling_a_run_ends_its_calls(team: Team, kind: str) -> None:
    """When a run is cancelled, its calls are disconnected at once, and no new one starts."""
    for name in team.simulator.models:
        team.simulator.fault(name, Hang())
    async with asyncio.TaskGroup() as group:
        playing = group.create_task(play(kind, team))
        await team.simulator.wait_for(lambda: team.simulator.running() > 0)
        playing.cancel()
    started = team.simulator.count()
    await team.simulator.wait_for(lambda: team.simulator.running() == 0)

    assert {call.outcome for call in team.simulator.calls} == {"disconnected"}
    assert team.simulator.count() == started


@pytest.mark.parametrize("calls", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", LOOPS)
async def test_the_budget_of_calls_is_kept(team: Team, kind: str, calls: int) -> None:
    """However small its budget, a run makes no more calls than it allows, and publishes what they brought."""
    events, ledger = await play(kind, team, calls=calls)

    assert team.simulator.count() <= calls
    assert ledger.calls <= calls
    assert text(events)


# A form that none of the simulated models keeps.
NUMBER = ExactConfig(type="exact", regex="[0-9]{9}").build()
both_ways = pytest.mark.parametrize("streamed", [False, True], ids=["unstreamed", "streamed"])


@both_ways
@pytest.mark.parametrize("kind", LOOPS)
async def test_every_answer_is_held_to_its_contract(team: Team, kind: str, streamed: bool) -> None:
    """What cannot be brought into the form is an error where the decision says so, and nothing of it is said before."""
    with pytest.raises(ContractViolated):
        await play(kind, team, terms=Terms(NUMBER, on_violation="fail"), stream=streamed)
    roles = [call.headers["x-looper-role"] for call in team.simulator.calls]
    assert "repair" in roles

    events, _ = await play(kind, team, terms=Terms(NUMBER), stream=streamed)
    done = events[-1]
    assert isinstance(done, Done)
    assert done.outcome == "degraded"
    assert text(events).strip()


@both_ways
@pytest.mark.parametrize("kind", LOOPS)
async def test_every_loop_tells_of_the_contract_those_who_answer(
    team: Team, kind: str, streamed: bool
) -> None:
    """`contract_prompt` is in every call whose answer may be published, and in no other."""
    prompt = "Say nothing but CITY: and its name."
    await play(kind, team, terms=Terms(NUMBER, prompt), stream=streamed)

    for call in team.simulator.calls:
        private = call.headers["x-looper-role"] in get_args(Private)
        assert (prompt.encode() in call.body) is not private, call.headers["x-looper-role"]


@both_ways
@pytest.mark.parametrize("habit", [None, FunctionCall()], ids=["tools", "function-calls"])
@pytest.mark.parametrize("kind", LOOPS)
async def test_every_loop_calls_functions(
    team: Team, kind: str, habit: AnyFault | None, streamed: bool
) -> None:
    """A client of OpenAI's older API has its function called by every team, whichever API its backends answer in."""
    for name in team.simulator.models:
        team.simulator.fault(name, habit)
    asked = [{"role": "user", "content": f"Use find_capital. {QUESTION}"}]
    schema = {"type": "object", "properties": {"of": {"type": "string"}}}
    functions = [{"name": "find_capital", "parameters": schema}]
    events, _ = await play(kind, team, messages=asked, functions=functions, stream=streamed)

    said = [event.value for event in events if isinstance(event, Delta)]
    calls = [each for each in said if isinstance(each, dict) and "arguments" in each]
    assert [call["name"] for call in calls if "name" in call] == ["find_capital"]
    assert json.loads("".join(call["arguments"] for call in calls)) == {"of": "simulated of"}
    assert [event.reason for event in events if isinstance(event, Finish)] == ["function_call"]
    assert not any(isinstance(each, list) for each in said)


TOOL = {
    "type": "function",
    "function": {"name": "find_capital", "parameters": {"properties": {"of": {"type": "string"}}}},
}


@pytest.mark.parametrize(
    ("habit", "streamed"),
    [
        pytest.param(PlainStop(), False, id="stop"),
        pytest.param(PlainStop(), True, id="stop-streamed"),
        pytest.param(Ending(kind="without_finish"), False, id="nothing"),
    ],
)
@pytest.mark.parametrize("kind", LOOPS)
async def test_an_answer_that_calls_tools_ends_in_calls(
    team: Team, kind: str, habit: AnyFault, streamed: bool
) -> None:
    """Whatever its backend says of how it ended: a client goes by `finish_reason` to see that it has tools to run."""
    for name in team.simulator.models:
        team.simulator.fault(name, habit)
    asked = [{"role": "user", "content": f"Use find_capital. {QUESTION}"}]
    events, _ = await play(kind, team, messages=asked, tools=[TOOL], stream=streamed)

    said = [event for event in events if isinstance(event, Delta)]
    assert any(event.kind == "tool_calls" for event in said)
    assert [event.reason for event in events if isinstance(event, Finish)] == ["tool_calls"]


@both_ways
@pytest.mark.parametrize("kind", LOOPS)
async def test_a_call_that_is_only_written_stays_text(
    team: Team, kind: str, streamed: bool
) -> None:
    """What looks like a call in an answer's words is for backends to read, as only they know their models' form."""
    written = '<tool_call>{"name": "find_capital", "arguments": {"of": "Canada"}}</tool_call>'
    for name in team.simulator.models:
        team.simulator.script(name, *[written] * 9)
    events, _ = await play(kind, team, tools=[TOOL], stream=streamed)

    assert text(events) == written
    assert [event.reason for event in events if isinstance(event, Finish)] == ["stop"]


WINDOW = 8000
WHY = "It is Ottawa, and here is why. "  # some eight tokens as we take them


def tight(team: Team, token_length: float, answer: str) -> None:
    """Models whose window holds prompt and answer together, that say a lot and are asked by a long conversation."""
    for model in team.simulator.models.values():
        team.simulator.put(
            model.model_copy(update={"context_window": WINDOW, "token_length": token_length})
        )
        team.simulator.script(model.name, *[answer] * 40)


@both_ways
@pytest.mark.parametrize("token_length", [4 / 1.2, 4 * 1.2], ids=["more", "fewer"])
@pytest.mark.parametrize("kind", LOOPS)
async def test_no_call_asks_for_more_than_the_window_holds(
    team: Team, kind: str, token_length: float, streamed: bool
) -> None:
    """Where models count a fifth more or fewer tokens than we, no call is refused for its length, and each stage has
    room for an answer that is of use."""
    tight(team, token_length, WHY * 700)
    asked = [{"role": "user", "content": f"{QUESTION} {'Think hard. ' * 600}"}]
    members: dict[str, Any] = {"messages": asked, "max_tokens": 6000, "stream": streamed}
    events, _ = await play(kind, team, window=WINDOW, **members)

    assert text(events)
    calls = team.simulator.calls
    assert {call.status for call in calls} == {200}
    for call in calls:
        assert _wanted(call) >= 500


@both_ways
@pytest.mark.parametrize("kind", LOOPS)
async def test_what_is_too_long_is_asked_once_more_with_less(
    team: Team, kind: str, streamed: bool
) -> None:
    """Where nobody has said how much a model takes, a refusal does: with less evidence and less of an answer."""
    tight(team, 4.0, WHY * 200)
    asked = [{"role": "user", "content": f"{QUESTION} {'Think hard. ' * 300}"}]
    members: dict[str, Any] = {"messages": asked, "max_tokens": 7500, "stream": streamed}
    events, _ = await play(kind, team, **members)

    assert text(events)
    refused = [call for call in team.simulator.calls if call.status == 400]
    assert refused
    for call in refused:
        # Each of them, of a model and for one thing, was asked again, and then had room.
        alike = [each for each in team.simulator.calls if _what(each) == _what(call)]
        assert [each.status for each in alike].count(400) <= len(alike) / 2
        assert min(map(_wanted, alike)) < _wanted(call)


def _wanted(call: ReceivedCall) -> int:
    body = json.loads(call.body)
    wanted: int = body.get("max_completion_tokens") or body["max_tokens"]
    return wanted


def _what(call: ReceivedCall) -> tuple[str, str]:
    return call.model, call.headers["x-looper-role"]
