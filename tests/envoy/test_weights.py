"""From runs that were recorded to a weights file at work, through a real Envoy and with the real commands."""

import asyncio
import json
import math
import os
import random
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from looper.simulate.server import SimulatedModel, Simulator
from looper.wire.sse import DONE, EventReader
from tests.envoy.test_reload import admin, edit, until
from tests.envoy.test_runs import run_of
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

RATINGS = {"alpha": 0.70, "beta": 0.74, "gamma": 0.72}
"""What the operator believes. Two that agree outvote the third then."""

CHOICE = {"type": "choice", "values": ["A", "B", "C", "D"]}
QUESTIONS = 240
TRICKY = "TRICKY"
"""A question on which alpha and beta are wrong together."""


@dataclass(frozen=True)
class Question:
    text: str
    gold: str
    answers: dict[str, str]


def questions() -> Iterator[Question]:
    """Two thirds are easy for everybody; of the others only gamma knows the answer, and the others guess."""
    chance = random.Random(7)
    for number in range(QUESTIONS):
        gold, *wrong = chance.sample("ABCD", 4)
        easy = number % 3 > 0
        guesses = {name: gold if easy else chance.choice([*wrong, gold]) for name in RATINGS}
        if not easy and guesses["alpha"] == guesses["beta"] != gold and chance.random() < 0.7:
            guesses["beta"] = gold
        known = gold if chance.random() < 0.97 else wrong[0]
        yield Question(f"Question {number}?", gold, {**guesses, "gamma": known})
    yield Question(TRICKY, "B", {"alpha": "A", "beta": "A", "gamma": "B"})


BANK = {question.text: question for question in questions()}


def decision(**algorithm: Any) -> dict[str, Any]:
    only = {"name": "team", "algorithm": algorithm, "budget": {"deadline": "20s"}}
    return {"decisions": [{**only, "contract": CHOICE}]}


def with_weights(config: dict[str, Any], **names: str) -> None:
    for recipe, name in names.items():
        config["recipes"][recipe]["decisions"][0]["algorithm"]["weights"] = name


def with_an_access_log(folder: Path) -> None:
    """What operators add to Envoy's listener to read what the processor tells of a run."""
    file = folder / "bootstrap.yaml"
    bootstrap = yaml.safe_load(file.read_text())
    known = {"run": "run", "sure": "confidence_permille", "by": "confidence_method"}
    known |= {"enough": "threshold_permille", "outcome": "outcome"}
    fields = {name: f"%DYNAMIC_METADATA(looper:{key})%" for name, key in known.items()}
    log = {
        "name": "access",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(folder / "access.jsonl"),
            "log_format": {"json_format": fields},
        },
    }
    listeners = bootstrap["static_resources"]["listeners"]
    (ingress,) = (each for each in listeners if each["name"] == "ingress")
    ingress["filter_chains"][0]["filters"][0]["typed_config"]["access_log"].append(log)
    file.write_text(yaml.safe_dump(bootstrap))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack() -> AsyncIterator[Stack]:
    change = {
        "models": [{"name": name, "rating": rating, "url": ""} for name, rating in RATINGS.items()],
        "recipes": {
            "vote": decision(type="ratings", models=list(RATINGS), stop="all"),
            "chain": decision(
                type="confidence", stages=[["alpha", "beta"], "gamma"], max_accepted_error=0.1
            ),
            "sure": decision(
                type="confidence",
                stages=["alpha", "gamma"],
                confidence_method="avg_logprob",
                max_accepted_error=0.1,
            ),
        },
        "entrypoints": {"vote": "vote", "chain": "chain", "sure": "sure"},
        "debug": True,
        "trace": {"record": "full"},
    }
    simulator = Simulator([SimulatedModel(name=name) for name in RATINGS])
    async with run_stack(simulator, change, runs_file=True, edit=with_an_access_log) as running:
        for name in RATINGS:
            simulator.script(name, *[_speaker(name)] * 2000)
        yield running


def _speaker(name: str) -> Any:
    """Knows its answer to each question, and is surer of those that are right."""
    chance = random.Random(name)

    def speak(request: dict[str, Any]) -> dict[str, Any]:
        question = BANK[request["messages"][0]["content"]]
        text = f"ANSWER: {question.answers[name]}"
        usual = -0.15 if question.answers[name] == question.gold else -1.2
        token = {"token": text, "logprob": usual - 0.1 * chance.random(), "top_logprobs": []}
        return {"content": text, "logprobs": {"content": [token]}}

    return speak


@dataclass(frozen=True)
class Said:
    """An answer, and what a client may ask about it."""

    text: str
    facts: dict[str, Any]

    @property
    def confidence(self) -> float:
        return float(self.facts["confidence"])

    @property
    def verdicts(self) -> dict[str, str]:
        return {call["model"]: call.get("verdict", "") for call in self.facts["trace"]["calls"]}


async def ask(stack: Stack, model: str, text: str) -> Said:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": True}
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json=body, headers={"looper-debug": "1"}
    ) as response:
        assert response.status == 200, await response.text()
        events = EventReader().feed(await response.read())
    chunks = [json.loads(event.data) for event in events if event.data != DONE]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    said = "".join(delta.get("content") or "" for delta in deltas)
    return Said(said, next(chunk["looper"] for chunk in chunks if "looper" in chunk))


async def command(stack: Stack, *arguments: str | Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "extproc", *map(str, arguments)),
        cwd=stack.folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def outcomes(stack: Stack) -> Path:
    """What the team answered, as the processor recorded it, and beside it what would have been right."""
    for some in _in_tens([text for text in BANK if text != TRICKY]):
        async with asyncio.TaskGroup() as group:
            for text in some:
                group.create_task(ask(stack, "vote", text))
    file, written = stack.folder / "runs.jsonl", stack.folder / "outcomes.jsonl"

    async def is_written() -> bool:
        return len(file.read_bytes().splitlines()) >= QUESTIONS

    await until(is_written)
    records = [json.loads(line) for line in file.read_text().splitlines()]
    for record in records:
        record["gold"] = BANK[record["messages"][0]["content"]].gold
    written.write_text("".join(json.dumps(record) + "\n" for record in records))
    return written


def _in_tens(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    return (texts[at : at + 10] for at in range(0, len(texts), 10))


async def generation(stack: Stack) -> str:
    return str((await admin(stack, "/config"))["generation"])


async def put(stack: Stack, name: str, data: bytes) -> None:
    """Have a file take the place of another, as a mounted one does."""
    other = stack.folder / f"{name}.new"
    other.write_bytes(data)
    os.replace(other, stack.folder / name)


async def until_another(stack: Stack, before: str) -> None:
    async def is_another() -> bool:
        return await generation(stack) != before

    await until(is_another)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def calibrated(stack: Stack, outcomes: Path) -> dict[str, str]:
    """Weights for both decisions, named in the configuration and at work. What the commands said, by recipe."""
    file = stack.processor.config
    said = {
        recipe: await command(
            stack, "calibrate", file, "--data", outcomes, "--decision", f"{recipe}.team",
            "-o", stack.folder / f"{recipe}.json",
        )
        for recipe in ("vote", "chain")
    }  # fmt: skip
    before = await generation(stack)
    # Votes end as soon as they are settled, in this version as in any other.
    edit(file, lambda config: with_weights(config, vote="vote.json", chain="chain.json"))
    assert "valid" in await command(stack, "check", file)
    await until_another(stack, before)
    return said


def expected(file: Path, said: dict[str, str]) -> tuple[str, float]:
    """The answer of a weights file, and its confidence, by the formulas alone: of the team of all who have spoken."""
    weights = json.loads(file.read_text())
    team = next(each for each in weights["teams"] if said.keys() <= each["members"].keys())
    sums: dict[str, float] = {}
    voted: dict[str, float] = {}
    for name, answer in said.items():
        member = team["members"][name]
        sums[answer] = sums.get(answer, 0.0) + member["weight"]
        if member.get("votes", True):
            voted[answer] = voted.get(answer, 0.0) + member["weight"]
    leader = max(voted, key=voted.__getitem__)
    odds = [math.exp(each) for each in sums.values()]
    posterior = math.exp(sums[leader]) / (sum(odds) + math.exp(team["none_of_these"]))
    return leader, _on_the_line(team["posterior"]["knots"], posterior)


def _on_the_line(knots: list[list[float]], score: float) -> float:
    if score <= knots[0][0]:
        return knots[0][1]
    for (low, one), (high, other) in pairwise(knots):
        if score <= high:
            return one + (other - one) * (score - low) / (high - low)
    return knots[-1][1]


async def test_a_calibrated_team_answers_as_its_file_says(
    stack: Stack, outcomes: Path, calibrated: dict[str, str]
) -> None:
    """Two who are believed to be peers no longer outvote the third, whom the records show to be better than both.

    What the commands have written is what is at work: answer and confidence are those of the file.
    """
    assert "gamma outweighs the others together" in calibrated["vote"]
    said = await ask(stack, "vote", TRICKY)

    answer, sure = expected(stack.folder / "vote.json", BANK[TRICKY].answers)
    assert (said.text, answer) == ("ANSWER: B", "B")
    assert said.confidence == pytest.approx(sure, abs=1e-6)


async def test_without_its_file_the_team_is_wrong(stack: Stack, outcomes: Path) -> None:
    """The same question, answered by the ratings that the operator believes in."""
    file, before = stack.processor.config, await generation(stack)
    kept = file.read_text()

    def without(config: dict[str, Any]) -> None:
        config["recipes"]["vote"]["decisions"][0]["algorithm"].pop("weights", None)
        config["heartbeat"] = "11s"

    edit(file, without)
    await until_another(stack, before)
    assert (await ask(stack, "vote", TRICKY)).text == "ANSWER: A"

    now = await generation(stack)
    await put(stack, file.name, kept.encode())
    await until_another(stack, now)


async def test_confidence_is_that_of_the_file_for_every_question(
    stack: Stack, calibrated: dict[str, str]
) -> None:
    """In the facts of a run and in Envoy's metadata alike, of what accepted in the first stage and what went on."""
    chain = stack.folder / "chain.json"
    for text in [*BANK][:9]:
        said = await ask(stack, "chain", text)
        heard = {name: BANK[text].answers[name] for name in said.verdicts}
        answer, sure = expected(chain, heard)
        assert said.text == f"ANSWER: {answer}"
        assert said.confidence == pytest.approx(sure, abs=1e-6)
        record = await run_of(stack, said.facts["run"])
        assert record["confidence_permille"] == round(1000 * sure)


async def test_easy_questions_end_early_and_hard_ones_go_on(
    stack: Stack, calibrated: dict[str, str]
) -> None:
    """By a threshold that the outcomes show to keep `max_accepted_error`, and no number that anybody wrote."""
    assert "% at alpha+beta" in calibrated["chain"]
    agreed = [q for q in BANK.values() if q.answers["alpha"] == q.answers["beta"] == q.gold]
    torn = [q for q in BANK.values() if q.answers["alpha"] != q.answers["beta"]]
    for question in agreed[:4]:
        said = await ask(stack, "chain", question.text)
        assert set(said.verdicts) == {"alpha", "beta"}
        assert said.verdicts["alpha"].startswith("accepted at 0.")
        assert said.facts["outcome"] == "ok"
    for question in torn[:4]:
        said = await ask(stack, "chain", question.text)
        assert set(said.verdicts) == {"alpha", "beta", "gamma"}


async def test_too_little_data_always_escalates(
    stack: Stack, outcomes: Path, calibrated: dict[str, str]
) -> None:
    """Twenty questions show nothing, however right the answers to them were: the file says so, and `check` warns."""
    few = stack.folder / "few.jsonl"
    few.write_text("".join(line + "\n" for line in outcomes.read_text().splitlines()[:20]))
    file, before = stack.processor.config, await generation(stack)
    kept = (stack.folder / "chain.json").read_bytes()
    arguments = ("--data", few, "--decision", "chain.team", "-o", stack.folder / "chain.json")
    assert "0.1: nothing" in await command(stack, "calibrate", file, *arguments)
    await until_another(stack, before)

    assert "answers of alpha+beta are so seldom wrong" in await command(stack, "check", file)
    for text in [*BANK][:6]:
        assert set((await ask(stack, "chain", text)).verdicts) == {"alpha", "beta", "gamma"}

    now = await generation(stack)
    await put(stack, "chain.json", kept)
    await until_another(stack, now)


async def test_a_raw_score_is_measured_before_it_is_relied_on(
    stack: Stack, calibrated: dict[str, str]
) -> None:
    """A chain by probabilities of tokens escalates always, and records what it measured; that is what makes it stop."""
    texts = [text for text in BANK if text != TRICKY][:90]
    records = []
    for some in _in_tens(texts):
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(ask(stack, "sure", text)) for text in some]
        for text, said in zip(some, asked, strict=True):
            assert set(said.result().verdicts) == {"alpha", "gamma"}
            record = await run_of(stack, said.result().facts["run"])
            records.append({**record, "gold": BANK[text].gold})
    data = stack.folder / "sure.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    file, before = stack.processor.config, await generation(stack)
    arguments = ("--data", data, "--decision", "sure.team", "-o", stack.folder / "sure.json")
    report = await command(stack, "calibrate", file, *arguments)
    assert "what ends early by `avg_logprob`" in report
    edit(file, lambda config: with_weights(config, sure="sure.json"))
    await until_another(stack, before)

    knots = json.loads((stack.folder / "sure.json").read_text())["scores"]["alpha"]["avg_logprob"]
    ended = []
    for text in texts[:15]:
        climbed = await ask(stack, "sure", text)
        if set(climbed.verdicts) == {"alpha"}:
            (call,) = climbed.facts["trace"]["calls"]
            worth = _on_the_line(knots["knots"], call["measured"]["avg_logprob"])
            assert climbed.confidence == pytest.approx(worth, abs=1e-6)
            ended.append(text)
    easy = [text for text in texts[:15] if BANK[text].answers["alpha"] == BANK[text].gold]
    assert set(ended) <= set(easy)
    assert len(ended) >= len(easy) / 2


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        pytest.param(b"{", "not JSON", id="torn"),
        pytest.param(b'{"version": 1, "teams": []}', "teams: ", id="empty"),
    ],
)
async def test_a_broken_file_changes_nothing(
    stack: Stack, calibrated: dict[str, str], broken: bytes, complaint: str
) -> None:
    """The team goes on with the weights that it had; what is wrong is told with the file and its place."""
    kept = (stack.folder / "vote.json").read_bytes()
    before = await generation(stack)

    async def is_valid(wanted: bool) -> bool:
        return (await admin(stack, "/config"))["valid"] is wanted

    await put(stack, "vote.json", broken)
    await until(lambda: is_valid(False))
    problems = " ".join((await admin(stack, "/config"))["problems"])
    assert "looper.yaml:" in problems
    assert "recipes.vote.decisions[0].algorithm" in problems
    assert "vote.json: " in problems
    assert complaint in problems
    assert await generation(stack) == before
    assert (await ask(stack, "vote", TRICKY)).text == "ANSWER: B"

    await put(stack, "vote.json", kept)
    await until(lambda: is_valid(True))
    assert await generation(stack) == before


async def test_envoy_knows_how_sure_they_were_and_why(
    stack: Stack, calibrated: dict[str, str]
) -> None:
    """An access log has the winner's confidence, what it was measured by, and what was enough: of both algorithms."""
    easy = next(q for q in BANK.values() if set(q.answers.values()) == {q.gold})
    chain, vote = await ask(stack, "chain", easy.text), await ask(stack, "vote", easy.text)

    lines: dict[str, dict[str, Any]] = {}

    async def are_written() -> bool:
        written = (stack.folder / "envoy" / "access.jsonl").read_text().rpartition("\n")[0]
        lines.update((line["run"], line) for line in map(json.loads, written.splitlines()))
        return {chain.facts["run"], vote.facts["run"]} <= lines.keys()

    await until(are_written, seconds=20)  # Envoy writes its log every ten
    climbed = lines[chain.facts["run"]]
    assert climbed["sure"] == round(1000 * chain.confidence)
    assert climbed["enough"] <= climbed["sure"]
    enough = float(chain.verdicts["alpha"].removeprefix("accepted at "))
    assert climbed["enough"] == round(1000 * enough)
    assert (climbed["by"], climbed["outcome"]) == ("posterior", "ok")
    voted = lines[vote.facts["run"]]
    assert (voted["sure"], voted["by"]) == (round(1000 * vote.confidence), "posterior")
    assert voted["enough"] is None
