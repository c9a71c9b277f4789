"""What early stops save, and what they cost in accuracy: teams of simulated models over seeded questions."""

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from looper.algorithms import AlgorithmConfig, SingleConfig
from looper.calling.budget import Budget, Ledger
from looper.calling.client import EgressClient
from looper.calling.models import Model
from looper.contract import ChoiceConfig, Terms
from looper.run import Deadline, Heartbeat, Run, drive, seeded
from looper.simulate.answers import KnownQuestion
from looper.simulate.server import SimulatedModel, Simulator
from looper.wire.chat import ChatRequest
from looper.wire.events import Delta, Event

SKILLS = {"small": 0.70, "other": 0.72, "third": 0.68, "large": 0.90}
PRICES = {"small": (0.05, 0.20), "other": (0.10, 0.40), "third": (0.05, 0.20), "large": (2.0, 8.0)}
_AT_ONCE = 8

_PANEL = {
    "type": "fusion",
    "analysis_models": ["small", "other", "third"],
    "judge_model": "large",
    "final_model": "large",
}
_ROUNDS = {
    "type": "remom",
    "models": ["small", "other", "third"],
    "breadth_schedule": [9],
    "synthesis_model": "large",
}
TEAMS: Mapping[str, Mapping[str, Any]] = {
    "large alone": {"type": "single", "model": "large"},
    "fusion, always judged": {**_PANEL, "skip_judge_when": "never"},
    "fusion, unless unanimous": _PANEL,
    "remom, all nine": _ROUNDS,
    "remom, adaptive": {**_ROUNDS, "adaptive": True},
}


@dataclass(frozen=True, slots=True)
class Row:
    """A team over all questions: how many it got right, its calls, and its cost in micro-USD."""

    team: str
    questions: int
    right: int
    calls: int
    microusd: int

    @property
    def accuracy(self) -> float:
        return self.right / self.questions


def questions(count: int, seed: int = 1) -> list[KnownQuestion]:
    """So many questions with four options each."""
    chance = random.Random(seed)
    made = []
    for number in range(1, count + 1):
        right = chance.choice("ABCD")
        text = f"Question {number}: which is it? A) red B) green C) blue D) none of these"
        made.append(KnownQuestion(text, right, tuple(each for each in "ABCD" if each != right)))
    return made


async def play(count: int, teams: Mapping[str, Mapping[str, Any]] = TEAMS) -> list[Row]:
    """Every team over the same questions, with real sockets to simulated models."""
    asked = questions(count)
    models = [SimulatedModel(name=name, skill=skill) for name, skill in SKILLS.items()]
    simulator = Simulator(models, known=asked)
    async with simulator.serve() as address, EgressClient(address.url) as client:
        catalogue = {
            name: Model.model_validate({
                "name": name, "url": f"{address.url}/v1", "rating": skill,
                "price": {"input": PRICES[name][0], "output": PRICES[name][1]},
            })
            for name, skill in SKILLS.items()
        }  # fmt: skip
        return [
            await _row(team, settings, asked, catalogue, client) for team, settings in teams.items()
        ]


async def _row(
    team: str,
    settings: Mapping[str, Any],
    asked: Sequence[KnownQuestion],
    catalogue: Mapping[str, Model],
    client: EgressClient,
) -> Row:
    config: SingleConfig | Any = TypeAdapter(AlgorithmConfig).validate_python(settings)
    turn = asyncio.Semaphore(_AT_ONCE)
    results: list[tuple[bool, Ledger]] = []

    async def one(question: KnownQuestion) -> None:
        async with turn:
            results.append(await _answer(config, question, catalogue, client))

    async with asyncio.TaskGroup() as group:
        for question in asked:
            group.create_task(one(question))
    ledgers = [ledger for _, ledger in results]
    return Row(
        team,
        len(asked),
        sum(right for right, _ in results),
        sum(ledger.calls for ledger in ledgers),
        sum(ledger.cost for ledger in ledgers),
    )


async def _answer(
    config: Any, question: KnownQuestion, catalogue: Mapping[str, Model], client: EgressClient
) -> tuple[bool, Ledger]:
    """Whether a team gets a question right, and what it spends on it."""
    messages = [{"role": "user", "content": question.text}]
    request = ChatRequest.parse(json.dumps({"model": "team", "messages": messages}).encode())
    contract = ChoiceConfig(
        type="choice", values=("A", "B", "C", "D"), render="ANSWER: {choice}"
    ).build()
    ledger = Ledger(Budget())
    said: list[str] = []

    async def hear(event: Event | Heartbeat) -> None:
        if isinstance(event, Delta) and event.kind == "content":
            said.append(event.value)

    run = Run(
        "run", catalogue, client, ledger, Deadline.after(60), seeded(request), terms=Terms(contract)
    )
    await drive(config.build(), request, run, hear, heartbeat=60)
    return contract.extract("".join(said)) == question.right, ledger


def show(rows: Sequence[Row], console: Console) -> None:
    """A table: accuracy, calls and cost for each question."""
    table = Table(title=f"{rows[0].questions} seeded questions, simulated models")
    for heading in ("team", "right", "calls per question", "micro-USD per question"):
        table.add_column(heading, justify="left" if heading == "team" else "right")
    for row in rows:
        table.add_row(
            row.team,
            f"{row.accuracy:.1%}",
            f"{row.calls / row.questions:.2f}",
            f"{row.microusd / row.questions:.1f}",
        )
    console.print(table)
