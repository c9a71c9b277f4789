"""What is kept of a run, for people and for calibration."""

import json
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest
import structlog

from extproc.config.trace import RoutedTrace, TraceSettings
from extproc.process.records import Opened, Routed
from extproc.process.runs import Runs
from looper.calling.budget import Budget, Ledger
from looper.calling.drafts import answering, private
from looper.calling.trace import Trace
from looper.contract import ChoiceConfig, NumberConfig, TextConfig
from looper.contract.terms import NO_TERMS, Terms
from looper.run import Deadline, Run
from looper.wire.chat import ChatRequest
from tests.fakes.models import ScriptedClient, model

REQUEST = ChatRequest.parse(b'{"model": "m", "messages": [{"role": "user", "content": "secret?"}]}')
CHOICE = Terms(ChoiceConfig(type="choice", values=("A", "B")).build())
NUMBER = Terms(NumberConfig(type="number").build())
TEXT = Terms(TextConfig(type="text").build())
SAID = {"a": "I think it is (B).", "b": "Answer: B", "c": "hard to say", "judge": "Answer: A"}


async def recorded(
    terms: Terms = CHOICE,
    *,
    full: bool = True,
    said: dict[str, str] = SAID,
    path: Path | None = None,
    request: ChatRequest = REQUEST,
) -> dict[str, Any]:
    """The record of a run in which all of them were asked, the last one as a judge."""
    runs = Runs(TraceSettings(record="full" if full else "metadata", file=path and str(path)))
    models = {name: model(name, price={"input": 1, "output": "0.5"}) for name in said}
    run = Run(
        id="r",
        models=models,
        client=ScriptedClient(said),
        ledger=Ledger(Budget(calls=9, cost_usd=Decimal("0.5"))),
        deadline=Deadline.after(9),
        random=Random(1),
        terms=terms,
        trace=Trace(full=full),
    )
    *members, judge = models.values()
    with runs.writing():
        for member in members:
            await run.ask(answering(request, member, "member"), until=1e9)
        question = private(request, judge, "judge", instruction="Judge!", schema=None)
        await run.ask(question, until=1e9)
        opened = Opened(request, run, {"run": "r", "decision": "d"})
        runs.begin(opened)
        runs.end(opened, {**opened.facts, "outcome": "ok"})
    (record,) = runs
    return record


@pytest.mark.parametrize("odd", ["1" * 5000, "1e400"], ids=["long", "large"])
async def test_what_is_no_value_to_us_costs_nobody_the_record(tmp_path: Path, odd: str) -> None:
    """Vendors' own members may hold what Python has no room for: then the conversation is not in the record."""
    message = b'{"role": "user", "content": "hi", "x": %b}' % odd.encode()
    request = ChatRequest.parse(b'{"model": "m", "messages": [%b]}' % message)
    record = await recorded(request=request, path=tmp_path / "runs.jsonl")
    assert "messages" not in record
    assert [call["answer"] for call in record["calls"] if "answer" in call] == ["B", "B"]


async def test_each_call_has_what_it_cost_and_the_run_what_it_might() -> None:
    record = await recorded(full=False)
    assert [call["cost_microusd"] for call in record["calls"]] == [10 + 5 * 0.5] * 4
    assert record["budget"] == {"calls": 9, "cost_microusd": 500_000, "seconds": 9}
    assert record["spent"] == {"calls": 4, "tokens": 60, "cost_microusd": 50}


async def test_without_full_nothing_that_was_said_is_kept() -> None:
    record = await recorded(full=False)
    assert "secret" not in json.dumps(record)
    assert not {"messages", "options"} & record.keys()
    assert not any({"text", "answer"} & call.keys() for call in record["calls"])


async def test_a_full_record_says_what_each_answer_counts_as() -> None:
    """By the contract: what calibration needs beside who was right. A judge's word is no answer."""
    record = await recorded()
    answers = [(call["model"], call["role"], call.get("answer")) for call in record["calls"]]
    assert answers == [
        ("a", "member", "B"), ("b", "member", "B"), ("c", "member", None), ("judge", "judge", None),
    ]  # fmt: skip
    assert record["options"] == 2


async def test_equal_answers_are_equal_texts() -> None:
    """However they were written."""
    said = {"a": "Answer: 1.50", "b": "Answer: 3/2", "c": "Answer: 2", "judge": "x"}
    record = await recorded(NUMBER, said=said)
    one, other, third, _ = (call.get("answer") for call in record["calls"])
    assert one == other != third
    assert one is not None
    assert "options" not in record


@pytest.mark.parametrize("terms", [NO_TERMS, TEXT], ids=["no-contract", "not-comparable"])
async def test_where_nothing_compares_answers_they_are_only_texts(terms: Terms) -> None:
    record = await recorded(terms)
    assert [call["text"] for call in record["calls"]] == list(SAID.values())
    assert not any("answer" in call for call in record["calls"])


async def test_the_file_holds_the_same(tmp_path: Path) -> None:
    record = await recorded(path=tmp_path / "runs" / "runs.jsonl")
    (line,) = (tmp_path / "runs" / "runs.jsonl").read_text().splitlines()
    assert json.loads(line) == record


async def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    """What was said stands in it: nobody else may read it, one from before or one that was put aside neither."""
    path = tmp_path / "runs.jsonl"
    path.touch(mode=0o644)
    runs = Runs(TraceSettings(file=str(path), max_bytes=1, files=2))
    with runs.writing():
        for at in range(3):
            runs.add({"kind": "team", "run": f"{at}"})

    modes = {each.name: each.stat().st_mode & 0o777 for each in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("runs.jsonl", "runs.jsonl.1", "runs.jsonl.2"), 0o600)


async def test_what_cannot_be_written_turns_up_nowhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """On a full disk records are lost, which the log says once, and without a word of what was said in them."""
    path = tmp_path / "runs.jsonl"
    path.symlink_to("/dev/full")
    runs = Runs(TraceSettings(record="full", file=str(path)))
    with structlog.testing.capture_logs() as logged, runs.writing():
        for at in range(3):
            runs.add({"kind": "team", "run": f"{at}", "calls": [], "text": "a canary"})

    assert [(event["event"], event["reason"]) for event in logged] == [
        ("trace.not_written", "No space left on device")
    ]
    said = capfd.readouterr()
    assert "canary" not in said.out + said.err + repr(logged)


def routed(run: str, **facts: Any) -> Routed:
    known = {"run": run, "recipe": "general", "decision": "default", "algorithm": "single"}
    return Routed({**known, "model": "small", **facts}, {}, {"model": "m"}, at=0, routing=0.001)


def test_routed_requests_have_a_ring_and_a_sampling_of_their_own(tmp_path: Path) -> None:
    """However many there are, they push no team's run out of memory, and hardly one out of the file."""
    path = tmp_path / "runs.jsonl"
    runs = Runs(TraceSettings(keep=2, file=str(path), routed=RoutedTrace(keep=3, per_second=0.5)))
    with runs.writing():
        runs.add({"kind": "team", "run": "t"})
        for at in range(1000):
            if runs.wants_routed():
                runs.add(routed(f"{at}"))

    assert [record["run"] for record in runs] == ["4", "3", "2", "t"]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["run"] for line in lines] == ["t", "0", "1", "2", "3", "4"]
    assert runs.forgotten == 0
    assert runs.find("2") is not None
    assert runs.find("1") is None


@pytest.mark.parametrize(("settings", "lines"), [({"sample": 0}, 1), ({"keep": 0}, 2)])
def test_the_file_takes_its_part_of_routed_requests(
    tmp_path: Path, settings: dict[str, Any], lines: int
) -> None:
    path = tmp_path / "runs.jsonl"
    runs = Runs(TraceSettings(file=str(path), routed=RoutedTrace(**settings)))
    with runs.writing():
        runs.add({"kind": "team", "run": "t"})
        runs.add(routed("r"))
    assert len(path.read_text().splitlines()) == lines


def test_without_records_none_is_kept_of_routed_requests() -> None:
    runs = Runs(TraceSettings(record="none"))
    assert not runs.wants_routed()
    runs.add(routed("r"))
    assert list(runs) == []
