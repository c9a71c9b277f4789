"""Recorded requests put to another configuration, and the schema of records."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from extproc.cli.main import main
from tests.fakes.records import record

CONFIG = """\
version: 1
egress: unix:/run/egress.sock
models:
  - {name: small, url: "http://s/v1", max_output: 1k, price: {input: 1, output: 2}}
  - {name: large, url: "http://l/v1", max_output: 1k, price: {input: 10, output: 20}}
recipes:
  general:
    signals:
      hard: {type: keyword, any: [prove]}
      long: {type: context, at_least: 1k}
      gold: {type: header, name: x-tier, in: [gold]}
      maths: {type: model, model: small, labels: {maths: sums, other: the rest}}
    decisions:
      - {name: blocked, when: long, on_unknown: skip, respond: {message: "No."}}
      - {name: DECIDES, when: hard, algorithm: {type: ratings, models: [small, large]}}
      - {name: default, algorithm: {type: single, model: small}}
entrypoints: {looper/auto: general}
"""
HARD = [{"role": "user", "content": "prove it"}]
EASY = [{"role": "user", "content": "hello"}]


def explain(
    folder: Path, records: list[dict[str, Any]], *arguments: str, config: str = CONFIG
) -> Result:
    (folder / "new.yaml").write_text(config)
    lines = "".join(json.dumps(each) + "\n" for each in records)
    (folder / "runs.jsonl").write_text(lines)
    told = ["explain", "--records", str(folder / "runs.jsonl"), "-c", str(folder / "new.yaml")]
    return CliRunner(env={"COLUMNS": "120"}).invoke(main, [*told, *arguments])


def replayed(folder: Path, records: list[dict[str, Any]], config: str = CONFIG) -> Any:
    found = explain(folder, records, "--json", config=config)
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


def test_requests_with_contents_are_decided_anew(tmp_path: Path) -> None:
    """And priced: 100 tokens in, and 50 out as recorded, for each model that is asked."""
    found = replayed(tmp_path, [record(1, messages=HARD), record(2, messages=EASY)])
    hard, easy = found["runs"]
    assert (hard["before"], hard["after"]) == ("general.panel", "general.DECIDES")
    assert hard["cost_after"] == 200 + 2000
    assert (easy["after"], easy["cost_after"]) == ("general.default", 200)
    assert easy["cost_before"] == 30
    assert easy["most"] > easy["cost_after"]
    assert found["comparison"]["changed"] == 2


def test_without_contents_it_is_said_which_signals_would_have_to_be_read(tmp_path: Path) -> None:
    """What hangs on the size alone is decided all the same."""
    small, big = record(1), record(2)
    big["request"] = {**big["request"], "prompt_tokens": 5000}
    found = replayed(tmp_path, [small, big])
    unknown, blocked = found["runs"]
    assert (unknown["after"], unknown["unread"]) == (None, ["hard"])
    assert (blocked["after"], blocked["cost_after"]) == ("general.blocked", 0)
    assert found["comparison"]["unknown"] == 1
    text = explain(tmp_path, [small, big]).stdout
    assert "hang on signals that cannot be read: hard (1)" in " ".join(text.split())
    assert "record: full" in text


@pytest.mark.parametrize("signal", ["gold", "maths.maths"])
def test_headers_and_labels_are_in_no_record(tmp_path: Path, signal: str) -> None:
    """No model is asked, and a header that was not kept is not one that was not there."""
    config = CONFIG.replace("when: hard", f"when: {signal}")
    found = replayed(tmp_path, [record(1, messages=HARD)], config)
    assert found["runs"][0]["after"] is None
    assert found["comparison"]["unread"] == {signal.partition(".")[0]: 1}


def test_a_rule_that_holds_without_them_is_no_riddle(tmp_path: Path) -> None:
    config = CONFIG.replace("when: hard", "when: {any: [hard, gold]}")
    found = replayed(tmp_path, [record(1, messages=HARD)], config)
    assert found["runs"][0]["after"] == "general.DECIDES"


def test_what_stays_and_what_moves_is_told_in_sum(tmp_path: Path) -> None:
    config = CONFIG.replace("DECIDES", "panel")
    records = [record(at, messages=HARD) for at in range(3)] + [record(9, messages=EASY)]
    text = explain(tmp_path, records, config=config).stdout
    assert "1 of 4 decided requests would go elsewhere" in text
    (moved,) = [line for line in text.splitlines() if "general.default" in line]
    assert moved.split() == [
        "general.panel",
        "general.default",
        "1",
        "$0.000030",
        "$0.00020",
        "$0.0020",
    ]


def test_a_name_that_is_gone_is_refused(tmp_path: Path) -> None:
    config = CONFIG.replace("looper/auto", "other/name")
    assert (
        "would be refused: The model `looper/auto` does not exist."
        in explain(tmp_path, [record(1, messages=HARD)], config=config).stdout
    )


def test_a_model_without_a_price_costs_nobody_knows_what(tmp_path: Path) -> None:
    config = CONFIG.replace(", price: {input: 1, output: 2}", "")
    (found,) = replayed(tmp_path, [record(1, messages=EASY)], config)["runs"]
    assert found["cost_after"] is None


def test_compressed_records_are_read(tmp_path: Path) -> None:
    (tmp_path / "new.yaml").write_text(CONFIG)
    path = tmp_path / "runs.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(record(1, messages=EASY)).encode() + b"\n\n"))
    told = ["explain", "--records", str(path), str(tmp_path / "new.yaml"), "--json"]
    assert json.loads(CliRunner().invoke(main, told).stdout)["comparison"]["runs"] == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", "runs.jsonl:1: line: Invalid JSON"),
        ('{"version": 2}', "runs.jsonl:1: version: Input should be 1"),
        (json.dumps({**record(), "calls": [{"model": 1}]}), "runs.jsonl:1: calls.0.model"),
    ],
)
def test_what_is_no_record_is_named_with_its_line(tmp_path: Path, line: str, said: str) -> None:
    """And not what stands in it."""
    (tmp_path / "new.yaml").write_text(CONFIG)
    (tmp_path / "runs.jsonl").write_text(line)
    told = ["explain", "--records", str(tmp_path / "runs.jsonl"), str(tmp_path / "new.yaml")]
    found = CliRunner().invoke(main, told)
    assert found.exit_code == 1
    assert said in found.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--records", "x"), "Which configuration?"),
        (("--records", "x", "PATH", "text"), "either TEXT or --request, or --records"),
        (("-c", "PATH", "text", "more"), "one word too many"),
        (("--records", "/nowhere", "PATH"), "cannot be read"),
        (("--records", "EMPTY", "PATH", "--recipe", "genral"), "did you mean 'general'?"),
    ],
)
def test_what_cannot_be_compared_is_said(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "new.yaml").write_text(CONFIG)
    (tmp_path / "empty").write_text("")
    names = {"PATH": str(tmp_path / "new.yaml"), "EMPTY": str(tmp_path / "empty")}
    found = CliRunner().invoke(main, ["explain", *(names.get(each, each) for each in arguments)])
    assert found.exit_code != 0
    assert said in found.stderr


def test_the_schema_of_records_is_printed() -> None:
    found = json.loads(CliRunner().invoke(main, ["schema", "--records"]).stdout)
    assert found["properties"]["version"] == {"const": 1, "title": "Version", "type": "integer"}
