"""How commands take their files, and how they say that something is wrong with what they were given."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from extproc.cli.main import COMMANDS, main

GOOD = """\
version: 1
egress: unix:/run/looper/egress.sock
models: [{name: small, url: "http://10.0.0.11:8000/v1"}]
recipes: {general: {decisions: [{name: default, algorithm: {type: single, model: small}}]}}
entrypoints: {looper/auto: general}
"""
DOUBTFUL = GOOD.replace("}]\nrecipes", '}, {name: idle, url: "http://10.0.0.12/v1"}]\nrecipes')
REST = {"explain": ["hello"]}


def looper(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "looper.yaml"
    path.write_text(GOOD)
    return str(path)


@pytest.mark.parametrize("name", ["check", "cost", "explain"])
def test_a_file_is_given_in_both_ways(name: str, file: str) -> None:
    first, second = (looper(name, *given, *REST.get(name, ())) for given in ((file,), ("-c", file)))
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert first.output == second.output


@pytest.mark.parametrize(
    "name",
    ["serve", "check", "explain", "cost", "eval", "calibrate", "probe", "envoy-config", "doctor"],
)
def test_no_file_at_all_is_said(name: str) -> None:
    """In a line, whatever else a command needs."""
    needs = {
        "eval": ["--dataset", "x", "--models", "replay=x"],
        "calibrate": ["--data", "x"],
        "envoy-config": ["-o", "x"],
    }
    said = looper(name, *needs.get(name, ()))
    assert said.exit_code == 2
    assert "Give FILE, or -c FILE." in said.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "nowhere.yaml"),
        ("cost", "nowhere.yaml"),
        ("explain", "nowhere.yaml", "x"),
        ("serve", "nowhere.yaml"),
        ("doctor", "-c", "nowhere.yaml"),
        ("probe", "nowhere.yaml"),
        ("up", "nowhere.yaml"),
        ("up", "--port", "99999"),
        ("up", "--envoy", "/nowhere"),
        ("serve", "nowhere.yaml", "--log-level", "loud"),
        ("check", "/dev/zero"),
        ("check", "/"),
        ("recipes", "show", "generel"),
        ("simulate", "--model", "a:b"),
    ],
)
def test_what_cannot_be_is_an_error_in_words(arguments: tuple[str, ...]) -> None:
    """Status 1 or 2 and a line or two; a traceback would be an exception of another kind."""
    said = looper(*arguments)
    assert said.exit_code in (1, 2)
    assert isinstance(said.exception, SystemExit)
    assert said.output.strip()


@pytest.mark.parametrize("listen", ["[::]:99999", "nowhere", "127.0.0.1", ":1", "unix:relative"])
def test_an_address_that_is_none_is_said(listen: str, file: str) -> None:
    said = looper("serve", file, "--listen", listen)
    assert (said.exit_code, isinstance(said.exception, SystemExit)) == (1, True)
    assert "nor host:port" in said.output or "has no host" in said.output


def test_two_files_are_one_too_many(file: str) -> None:
    assert "Two configurations" in looper("check", file, "-c", file).output
    assert "put the text in quotes" in looper("explain", file, "two", "words").output


def test_good_is_said_of_what_is_good_alone(file: str) -> None:
    """Of what is doubtful it is said how often; `--strict` fails for it, and `--json` has it all."""
    assert looper("check", file).output.endswith(": good\n")
    Path(file).write_text(DOUBTFUL)
    said = looper("check", file)
    assert said.exit_code == 0
    assert ": valid, with 1 warning" in said.output
    assert ": good" not in said.output
    assert looper("check", file, "--strict").exit_code == 1
    found = json.loads(looper("check", file, "--json").output)
    assert (found["valid"], found["problems"], len(found["warnings"])) == (True, [], 1)
    Path(file).write_text("version: 2\n")
    failed = looper("check", file, "--json")
    assert failed.exit_code == 1
    assert json.loads(failed.output)["valid"] is False


def test_recipes_are_listed_and_shown() -> None:
    listed = looper("recipes").output
    assert "general" in listed
    assert "recipe:" in looper("recipes", "show", "general").output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    assert looper(name, "--help").exit_code == 0
