"""`looper cost`: what each decision may cost at the most."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from extproc.cli.main import main

CONFIG = """\
version: 1
egress: unix:/run/egress.sock
models:
  - {name: small, url: "http://s/v1", max_output: 1k, price: {input: 1, output: 2}, retry: {attempts: 0}}
  - {name: large, url: "http://l/v1", max_output: 2k, price: {input: 1, output: 3}, retry: {attempts: 1}}
  - {name: open, url: "http://o/v1"}
recipes:
  general:
    signals:
      hard: {type: keyword, any: [prove]}
    decisions:
      - {name: blocked, when: hard, on_unknown: skip, respond: {message: "No."}}
      - name: pair
        when: hard
        algorithm: {type: single, model: small, fallbacks: [large]}
        budget: {calls: 2, cost_usd: 0.005}
      - name: team
        when: hard
        algorithm: {type: fusion, analysis_models: [small, large], judge_model: large}
      - name: default
        algorithm: {type: single, model: open}
        budget: {tokens: 10}
entrypoints: {looper/auto: general}
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "looper.yaml"
    file.write_text(CONFIG)
    return str(file)


def shown(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["cost", *arguments], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    return result.output


def test_as_data(path: str) -> None:
    """Every decision in which a model answers, in the order of the file."""
    found = json.loads(shown(path, "--json"))
    assert found["prompt_tokens"] == 1000
    pair, team, default = found["decisions"]
    assert pair == {
        "recipe": "general",
        "decision": "pair",
        "algorithm": "single",
        "least": 1,
        "calls": 2,
        "spare": 1,
        "tokens": (1000 + 1000) + (1000 + 2000),
        "cost_usd": "0.01",
        "unbounded": [],
        "unpriced": [],
        "budget": {"calls": 2, "cost_usd": "0.005"},
        "over": ["cost_usd"],
    }
    assert (team["algorithm"], team["budget"], team["over"]) == ("fusion", {}, [])
    assert team["calls"] >= 4
    assert (default["tokens"], default["unbounded"], default["unpriced"]) == (
        None,
        ["open"],
        ["open"],
    )
    assert default["budget"] == {}, "Envoy routes it by itself"


def test_grows_with_the_prompt(path: str) -> None:
    pair, *_ = json.loads(shown(path, "--json", "--prompt-tokens", "2000"))["decisions"]
    assert pair["tokens"] == 5000 + 2 * 1000


def test_as_a_table(path: str) -> None:
    """Numbers, limits beside them, and what the numbers leave out."""
    output = shown(path)
    row = next(line for line in output.splitlines() if "pair" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        "general", "pair", "single", "1-2 +1 of 2", "5,000", "0.010000 of 0.005",
    ]  # fmt: skip
    assert "fusion" in next(line for line in output.splitlines() if "team" in line)
    assert "no bound" in next(line for line in output.splitlines() if "default" in line)
    assert "neither `max_output` nor `context_window` is known of open" in output
    assert "no `price` is known of open" in output
    assert "blocked" not in output


def test_a_bad_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("version: 2\n")
    result = CliRunner().invoke(main, ["cost", str(file)])
    assert result.exit_code == 1
    assert "version" in result.output
