import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from extproc.cli.main import main

CONFIG = """\
version: 1
egress: http://127.0.0.1:9
models:
  - {name: a, url: "http://a.test/v1", rating: 0.7, price: {input: 1, output: 1}}
  - {name: b, upstream_model: vendor-b, url: "http://b.test/v1", rating: 0.7, price: {input: 1, output: 1}}
  - {name: c, url: "http://c.test/v1", rating: 0.7, price: {input: 1, output: 1}}
recipes:
  r:
    signals:
      easy: {type: keyword, any: [easy]}
      rude: {type: keyword, any: [rude]}
    decisions:
      - {name: refused, when: rude, respond: {status: 400, message: "No.", code: refused}, on_unknown: skip}
      - name: easy
        when: easy
        algorithm: {type: single, model: a}
        contract: {type: choice, values: [A, B, C], render: "ANSWER: {choice}"}
      - name: team
        algorithm: {type: ratings, models: [a, b, c]}
        contract: {type: choice, values: [A, B, C], render: "ANSWER: {choice}"}
entrypoints: {team/auto: r}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine questions for the team, of which each member gets two thirds, never the same; two easy ones; a rude one."""
    (tmp_path / "looper.yaml").write_text(CONFIG)
    questions, records = [], []
    for number in range(9):
        wrong = "abc"[number % 3]
        answers = {"a": "B", "vendor-b": "B", "c": "B"}
        answers[{"a": "a", "b": "vendor-b", "c": "c"}[wrong]] = "C"
        questions.append(
            {"id": f"t{number}", "text": f"Hard one {number}?", "options": list("xyz")}
        )
        records.append({"id": f"t{number}", "gold": "B", "answers": answers})
    for number, said in enumerate(("A", "")):
        questions.append({"id": f"e{number}", "text": f"An easy one {number}?"})
        records.append({"id": f"e{number}", "gold": "A", "answers": {"a": said, "c": "A"}})
    questions.append({"id": "x", "text": "A rude one?"})
    records.append({"id": "x", "gold": "A", "answers": {"a": "A"}})
    for name, rows in (("data.jsonl", questions), ("outcomes.jsonl", records)):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def evaluate(folder: Path, *more: str, models: str | None = None) -> Any:
    source = models or f"replay={folder}/outcomes.jsonl"
    return CliRunner().invoke(
        main,
        ["eval", "-c", f"{folder}/looper.yaml", "--dataset", f"{folder}/data.jsonl", "--models", source, *more],
    )  # fmt: skip


def test_decisions_and_teams_are_graded(folder: Path) -> None:
    """Each question comes to its own decision, and the team is right where each of its members often is not."""
    result = evaluate(folder, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)
    assert told["questions"] == 11
    assert told["skipped"] == 1
    assert told["decisions"]["team"] == {"questions": 9, "accuracy": 1.0}
    assert told["decisions"]["easy"] == {"questions": 2, "accuracy": 0.5}
    assert told["outcomes"]["upstream_failed"] == {"questions": 1, "accuracy": 0.0}
    assert told["accuracy"]["mean"] == pytest.approx(10 / 11)
    assert told["members"]["b"]["accuracy"] == pytest.approx(6 / 11)
    assert told["difference"]["mean"] > 0.15


def test_one_decision_may_be_asked_whatever_its_rule_says(folder: Path) -> None:
    """`--decision` puts every question to it."""
    told = json.loads(evaluate(folder, "--decision", "easy", "--json").output)
    assert list(told["decisions"]) == ["easy"]
    assert told["questions"] == 12
    assert list(told["members"]) == ["a"]


def test_a_readable_report(folder: Path) -> None:
    """Without `--json` it is for people."""
    output = evaluate(folder, "--limit", "9").output
    assert "9 questions: 100.00 % right" in output
    assert "the best member, alone: 66.67 %" in output


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        pytest.param(["--decision", "teem"], "did you mean 'team'?", id="decision"),
        pytest.param(["--model", "team/out"], "did you mean 'team/auto'?", id="model"),
    ],
)
def test_names_that_do_not_exist(folder: Path, more: list[str], complaint: str) -> None:
    """With a suggestion, and status 1."""
    result = evaluate(folder, *more)
    assert result.exit_code == 1
    assert complaint in result.output


@pytest.mark.parametrize(
    ("models", "complaint"),
    [
        pytest.param("outcomes.jsonl", "give replay=FILE", id="no-kind"),
        pytest.param("replay=/nowhere.jsonl", "cannot be read", id="no-file"),
    ],
)
def test_records_that_cannot_be_read(folder: Path, models: str, complaint: str) -> None:
    """What is wrong with `--models` is said."""
    result = evaluate(folder, models=models)
    assert result.exit_code != 0
    assert complaint in result.output
