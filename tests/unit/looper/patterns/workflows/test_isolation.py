"""Whatever the plan, and wherever runs pause: who gets to read what."""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from looper.calling.budget import Budget
from looper.calling.models import Model
from looper.errors import UpstreamFailed
from looper.patterns.workflows import WorkflowsConfig
from tests.fakes.models import Answers, Asked, ScriptedClient, Step, completion, model, refused
from tests.unit.looper.patterns.workflows.test_tools import ASKED, Agentic, call, with_results

MODELS: Mapping[str, Model] = {f"m{number}": model(f"m{number}") for number in range(17)}
MARK = re.compile(r"(?:said|reason|result):[a-z0-9.]+")


@st.composite
def plans(draw: st.DrawFn) -> WorkflowsConfig:
    """A plan in which each agent has a model of its own, so that whoever is asked is known."""
    steps: list[dict[str, Any]] = []
    names = iter(MODELS)
    for at in range(draw(st.integers(1, 5))):
        earlier = [step["id"] for step in steps]
        needs = draw(st.lists(st.sampled_from(earlier), unique=True)) if earlier else []
        models = [next(names) for _ in range(draw(st.integers(1, 2)))]
        step: dict[str, Any] = {"id": f"s{at}", "models": models, "prompt": "work", "needs": needs}
        if any(other["id"] in needs and "role" not in other for other in steps):
            step |= draw(st.sampled_from([{}, {"role": "verifier"}]))
        if "role" not in step and needs:
            seeable = [*needs, *(f"{need}.1" for need in needs)]
            step["sees"] = draw(st.none() | st.lists(st.sampled_from(seeable), unique=True))
        steps.append(step)
    ids = st.sampled_from([step["id"] for step in steps])
    final = {"model": "m16", "sees": draw(st.none() | st.lists(ids, unique=True))}
    bounds = {
        "max_calls": draw(st.integers(2 * len(steps) + 1, 40)),
        "max_tool_turns": draw(st.integers(0, 2)),
        "max_parallel": draw(st.integers(1, 4)),
    }
    return WorkflowsConfig.model_validate(
        {"type": "workflows", "steps": steps, "final": final, **bounds}
    )


def agents_of(config: WorkflowsConfig) -> dict[str, str]:
    """Whose each model is."""
    pairs = (zip(step.models, step.agents, strict=True) for step in config.steps)
    return dict(pair for step in pairs for pair in step) | {config.final.model: "final"}


def shown(config: WorkflowsConfig, sees: Sequence[str] | None, needs: Sequence[str]) -> set[str]:
    """The agents whose answers somebody gets who `sees` this."""
    wanted = needs if sees is None else sees
    agents = {agent: step.id for step in config.steps for agent in step.agents}
    return {agent for agent, step in agents.items() if step in wanted or agent in wanted}


def may_read(config: WorkflowsConfig) -> dict[str, set[str]]:
    """For each agent the marks that it may come to see."""
    ids = [step.id for step in config.steps]
    others = {"final": shown(config, config.final.sees, ids)}
    for step in config.steps:
        others |= dict.fromkeys(step.agents, shown(config, step.sees, step.needs))
    allowed = {
        agent: {f"said:{agent}", f"result:{agent}"}
        | {f"{kind}:{other}" for other in seen for kind in ("said", "reason")}
        for agent, seen in others.items()
    }
    workers = {agent for step in config.steps if step.role == "worker" for agent in step.agents}
    for step in config.steps:
        if step.role == "verifier":  # whoever is sent back reads why
            for agent in shown(config, step.sees, step.needs) & workers:
                allowed[agent] |= {f"reason:{verifier}" for verifier in step.agents}
    return allowed


def does(agent: str, chance: Random) -> Step:
    """What a model does of all that it may: it says who it is, asks for a tool, or fails."""

    def to(asked: Asked) -> Step:
        dice = chance.random()
        if asked.role == "verifier":
            verdict = chance.choice(["pass", "fail"])
            return json.dumps({"verdict": verdict, "reasons": [f"reason:{agent}"]})
        if dice < 0.1:
            return refused(500)
        if dice < 0.5 and asked.body.get("tool_choice") != "none" and "tools" in asked.body:
            calls = [call(f"{agent}-{at}") for at in range(chance.randint(1, 2))]
            return completion(f"said:{agent}", finish="tool_calls", tool_calls=calls)
        return f"said:{agent}"

    return Answers(to)


async def play(config: WorkflowsConfig, chance: Random) -> tuple[Agentic, list[int]]:
    """The whole run, tool by tool; and the usage of each turn."""
    agents = agents_of(config)
    client = ScriptedClient({name: does(agent, chance) for name, agent in agents.items()})
    team = Agentic(client, config, budget=Budget(), models=MODELS)
    body: dict[str, Any] = dict(ASKED)
    turn = await team.turn(body)
    usages = [turn.usage]
    while turn.ids:
        body = with_results(body, turn)
        for message in body["messages"]:
            if message["role"] == "tool" and not message["content"].startswith("result:"):
                message["content"] = "result:" + owner_of(team, message["tool_call_id"])
        turn = await team.turn(body)
        usages.append(turn.usage)
    return team, usages


def owner_of(team: Agentic, id: str) -> str:
    store: Any = team.states._store
    state = json.loads(store._kept[id[5:17]].state)
    return str(state["work"]["waiting"][id][0])


@settings(max_examples=150, deadline=None)
@given(plans(), st.integers(0, 10**9))
def test_nobody_reads_what_is_not_for_them(config: WorkflowsConfig, seed: int) -> None:
    """Of answers, verdicts and results of tools each agent reads its own and those that the plan shows it, at every
    call of every turn; there are no more calls than allowed, and their usage is reported once."""
    try:
        team, usages = asyncio.run(play(config, Random(seed)))
    except UpstreamFailed:  # nobody had an answer
        return
    agents, allowed = agents_of(config), may_read(config)
    for asked in team.client.asked:
        read = set(MARK.findall(json.dumps(asked.body["messages"])))
        assert read <= allowed[agents[asked.name]], asked.name
    assert len(team.client.asked) <= config.max_calls
    assert sum(usages) == 15 * sum(asked.end == "done" for asked in team.client.asked)
