"""Candidates that answer at once, through a real Envoy."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from looper.simulate.server import Hang, SimulatedModel, Simulator, Status
from looper.wire.sse import DONE, EventReader
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

PEERS = {"alpha": 0.70, "beta": 0.74, "gamma": 0.72}
AHEAD = {"ahead": 0.48, "far": 0.36, "behind": 0.36}
MODELS = {**PEERS, **AHEAD, "large": 0.95, "judge": 0.9}
CHOICE = {"type": "choice", "values": ["A", "B", "C", "D"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def decision(contract: Any = None, **settings: Any) -> dict[str, Any]:
    algorithm = {"type": "ratings", "models": list(PEERS), **settings}
    agreed = {} if contract is None else {"contract": contract}
    only = {"name": "rate", "algorithm": algorithm, "budget": {"deadline": "10s"}, **agreed}
    return {"decisions": [only]}


RECIPES = {
    "vote": decision(CHOICE),
    "one-ahead": decision(CHOICE, models=list(AHEAD)),
    "one-ahead-free": decision(models=list(AHEAD)),
    "escalate": decision(CHOICE, escalate_to=["large"]),
    "free": decision(),
    "all": decision(aggregate="all"),
    "judged": decision(aggregate="judge", judge_model="judge"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def teams() -> AsyncIterator[Stack]:
    change = {
        "models": [{"name": name, "rating": rating, "url": ""} for name, rating in MODELS.items()],
        "recipes": RECIPES,
        "entrypoints": {name: name for name in RECIPES},
        "debug": True,
    }
    simulator = Simulator([SimulatedModel(name=name) for name in MODELS])
    async with run_stack(simulator, change) as stack:
        yield stack


@pytest.fixture
def team(teams: Stack) -> Stack:
    teams.simulator.reset()
    return teams


async def ask(stack: Stack, model: str, **members: Any) -> tuple[int, Any, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": "Which?"}], **members}
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json=body, headers={"looper-debug": "1"}
    ) as response:
        return response.status, response.headers, await response.json()


async def stream(stack: Stack, model: str, **members: Any) -> list[Any]:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Which?"}],
        "stream": True,
        **members,
    }
    async with stack.session.post(f"{stack.base_url}/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        events = EventReader().feed(await response.read())
    assert events[-1].data == DONE
    return [json.loads(event.data) for event in events[:-1]]


def content(chunks: list[Any], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    said = (choice["delta"].get("content") for choice in choices if choice["index"] == index)
    return "".join(text or "" for text in said)


def script(stack: Stack, **answers: Any) -> None:
    for name, answer in answers.items():
        stack.simulator.script(name, answer)


async def test_the_majority_of_peers_is_published_word_for_word(team: Stack) -> None:
    """Two of three peers agree, and the better-rated one's own words reach the client."""
    script(team, alpha="First.\n\nANSWER: A", beta="ANSWER: B", gamma="  Surely  \n\nANSWER: A")

    status, headers, answer = await ask(team, "vote")

    assert status == 200
    assert answer["choices"][0]["message"]["content"] == "  Surely  \n\nANSWER: A"
    assert headers["x-looper-algorithm"] == "ratings"
    assert headers["x-looper-outcome"] == "ok"
    assert answer["model"] == "vote"


@pytest.mark.parametrize(
    ("recipe", "answer", "other"),
    [
        ("one-ahead", "ANSWER: A", "ANSWER: B"),
        ("one-ahead-free", "Felines rest.", "The cat sat on the mat."),
    ],
)
async def test_two_that_are_far_worse_do_not_outvote_the_best(
    team: Stack, recipe: str, answer: str, other: str
) -> None:
    """They err together: their word counts only where the best one has none."""
    script(team, ahead=answer, far=other, behind=other)
    _, _, said = await ask(team, recipe)
    assert said["choices"][0]["message"]["content"] == answer

    team.simulator.fault("ahead", Status(status=500))
    script(team, far=other, behind=other)
    _, headers, said = await ask(team, recipe)
    assert said["choices"][0]["message"]["content"] == other
    assert headers["x-looper-outcome"] == "degraded"


async def test_a_settled_vote_closes_the_sockets_of_the_rest(team: Stack) -> None:
    """When nobody can change the winner any more the straggler's connection is closed."""
    team.simulator.fault("alpha", Hang())
    script(team, beta="ANSWER: A", gamma="ANSWER: A")
    began = time.monotonic()

    _, _, answer = await ask(team, "vote")
    took = time.monotonic() - began
    await team.simulator.wait_for(lambda: team.simulator.running() == 0)

    assert took < 10
    assert answer["choices"][0]["message"]["content"] == "ANSWER: A"
    outcomes = {call.model: call.outcome for call in team.simulator.calls}
    assert outcomes == {"alpha": "disconnected", "beta": "finished", "gamma": "finished"}
    # The straggler has read its prompt, and is paid for that.
    billed = [call.usage for call in team.simulator.calls if call.usage is not None]
    prompts = [usage["prompt_tokens"] for usage in billed]
    assert answer["usage"]["looper"]["estimated_tokens"] == pytest.approx(prompts[0], abs=8)
    assert answer["usage"]["prompt_tokens"] > sum(prompts)


async def test_streamed_and_whole_say_the_same(team: Stack) -> None:
    """The winner is the same, however it is asked for."""
    answers = {"alpha": "ANSWER: A", "beta": "é→😀 ANSWER: A", "gamma": "ANSWER: B"}
    script(team, **answers)
    _, _, whole = await ask(team, "vote")
    script(team, **answers)
    chunks = await stream(team, "vote")

    assert content(chunks) == whole["choices"][0]["message"]["content"] == "é→😀 ANSWER: A"


async def test_a_vote_in_doubt_asks_a_stronger_model(team: Stack) -> None:
    """Three that contradict each other are settled by a fourth; three that agree need none."""
    script(team, alpha="ANSWER: A", beta="ANSWER: B", gamma="ANSWER: C", large="ANSWER: D")
    _, _, answer = await ask(team, "escalate")
    assert answer["choices"][0]["message"]["content"] == "ANSWER: D"
    assert team.simulator.count("large") == 1

    script(team, alpha="ANSWER: A", beta="ANSWER: A", gamma="ANSWER: A")
    await ask(team, "escalate")
    assert team.simulator.count("large") == 1


async def test_calls_of_tools_are_voted_on(team: Stack) -> None:
    """Two candidates call the same tool with the same arguments, and the call reaches the client as it was made."""

    def calling(arguments: str, id: str) -> dict[str, Any]:
        function = {"name": "weather", "arguments": arguments}
        return {
            "content": None,
            "tool_calls": [{"id": id, "type": "function", "function": function}],
        }

    script(
        team,
        alpha=calling('{"a": 1, "b": 2}', "call_alpha"),
        beta="I cannot say.",
        gamma=calling('{"b":2,"a":1}', "call_gamma"),
    )

    _, _, answer = await ask(team, "free", tools=TOOLS)

    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert call == {
        "id": "call_gamma",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"b":2,"a":1}'},
    }


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_all_gives_a_choice_of_each(team: Stack, streamed: bool) -> None:
    """Every candidate that answered is a choice with the name of its model, and no character of it is lost."""
    text = "é→😀 \n" * 200
    team.simulator.fault("beta", Status(status=500))
    script(team, alpha=f"one {text}", gamma=f"three {text}")

    if streamed:
        chunks = await stream(team, "all")
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        models = [
            next(c["model"] for c in choices if c["index"] == at and "model" in c) for at in (0, 1)
        ]
        texts = [content(chunks, at) for at in (0, 1)]
        assert {choice["index"] for choice in choices} == {0, 1}
        finishes = [c["index"] for c in choices if c["finish_reason"]]
        assert finishes == [0, 1]
    else:
        _, _, answer = await ask(team, "all")
        models = [choice["model"] for choice in answer["choices"]]
        texts = [choice["message"]["content"] for choice in answer["choices"]]

    assert models == ["alpha", "gamma"]
    assert texts == [f"one {text}", f"three {text}"]


async def test_a_judge_chooses_among_free_texts(team: Stack) -> None:
    """The judge reads the answers without their names, and its favourite is published."""

    def judge(request: dict[str, Any]) -> str:
        prompt = request["messages"][-1]["content"]
        order = sorted(("red", "green", "blue"), key=prompt.index)
        return json.dumps({"scores": [9 if colour == "green" else 2 for colour in order]})

    script(team, alpha="red", beta="green", gamma="blue", judge=judge)

    _, _, answer = await ask(team, "judged")

    assert answer["choices"][0]["message"]["content"] == "green"
    prompt = json.dumps(team.simulator.calls[-1].parsed)
    assert not any(name in prompt for name in PEERS)


async def test_n_is_refused_where_one_answer_comes_of_all(team: Stack) -> None:
    """More than one choice cannot be had, and nobody is asked."""
    status, _, answer = await ask(team, "vote", n=2)

    assert (status, answer["error"]["code"], answer["error"]["param"]) == (
        400,
        "invalid_field",
        "n",
    )
    assert team.simulator.count() == 0
