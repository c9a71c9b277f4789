"""Envoy's files follow the configuration, and keep what may still be needed for a while."""

from pathlib import Path

import pytest

from extproc.bootstrap.watch import Follower, step
from extproc.config import Config, parse_config
from extproc.config.watch import Watched
from extproc.process.generation import generation

TEXT = """
version: 1
egress: unix:/tmp/none.sock
models: [%s]
recipes:
  general:
    decisions: [{name: only, algorithm: {type: single, model: a}, budget: {deadline: 10s}}]
entrypoints: {looper/auto: general}
"""
FILES = ("cds.yaml", "rds-egress.yaml", "rds-ingress.yaml")


def text(*models: str) -> str:
    return TEXT % ", ".join(f'{{name: {name}, url: "http://{name}:1/v1"}}' for name in models)


def config(*models: str) -> Config:
    return parse_config(text(*models), "looper.yaml")


def follower(folder: Path, *models: str) -> Follower:
    found = Follower(config(*models), folder, None, linger=5.0, settle=0.0)
    found.begin()
    return found


def models_in(folder: Path) -> set[str]:
    """The models that every one of the files has."""
    texts = [(folder / name).read_text() for name in FILES]
    return {name for name in "abcd" if all(f"model:{name}\n" in each for each in texts)}


def mentioned_in(folder: Path) -> set[str]:
    return {
        name
        for name in "abcd"
        for file in FILES
        if f"model:{name}\n" in (folder / file).read_text()
    }


def test_a_model_that_leaves_can_be_reached_a_while(tmp_path: Path) -> None:
    """For as long as what began with it may take, and then it is gone from every file."""
    files = follower(tmp_path, "a", "b")
    files.change(config("a", "c"), now=100.0)
    assert models_in(tmp_path) == {"a", "b", "c"}
    longest = 10 + 5  # a deadline, and what Envoy's own clocks allow beyond it
    assert not files.let_go(100.0 + longest + 4.9)
    assert files.let_go(100.0 + longest + 5.0)
    assert mentioned_in(tmp_path) == {"a", "c"}
    assert not files.let_go(1000.0)


def test_a_model_that_comes_back_stays(tmp_path: Path) -> None:
    """Taken out by mistake and put back, it is not taken out later."""
    files = follower(tmp_path, "a", "b")
    files.change(config("a"), now=0.0)
    files.change(config("a", "b"), now=1.0)
    assert not files.let_go(1000.0)
    assert models_in(tmp_path) == {"a", "b"}


def test_the_generation_is_the_configurations(tmp_path: Path) -> None:
    """Models that linger do not make another configuration of it."""
    files = follower(tmp_path, "a", "b")
    files.change(config("a"), now=0.0)
    for name in FILES:
        assert f"version_info: {generation(config('a'))}" in (tmp_path / name).read_text()


def test_a_bad_edit_leaves_the_files_alone(tmp_path: Path) -> None:
    """It is told, and what Envoy runs stays as it is."""
    path = tmp_path / "looper.yaml"
    path.write_text(text("a"))
    files = follower(tmp_path, "a")
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    watched = Watched(path)
    path.write_text(text("a").replace("version", "versoin"))
    assert any("did you mean 'version'?" in line for line in step(watched, files))
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == before
    path.write_text(text("a", "d"))
    assert list(step(watched, files)) == ["written"]
    assert models_in(tmp_path) == {"a", "d"}


def test_clients_routes_come_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They tell the processor what it may call, so that all that leads there has to be there before."""
    files = follower(tmp_path, "a")
    written: list[str] = []

    def replace(source: str, target: Path) -> None:
        written.append(Path(target).name)
        Path(source).rename(target)

    monkeypatch.setattr("extproc.bootstrap.files.os.replace", replace)
    files.change(config("a", "b"), now=0.0)
    assert written == ["cds.yaml", "rds-egress.yaml", "rds-ingress.yaml", "bootstrap.yaml"]


def test_what_says_the_same_is_not_written_again(tmp_path: Path) -> None:
    """Envoy has nothing to read that it has read."""
    files = follower(tmp_path, "a")
    before = {name: (tmp_path / name).stat().st_ino for name in FILES}
    files.begin()
    assert {name: (tmp_path / name).stat().st_ino for name in FILES} == before


def test_what_takes_a_restart_is_told(tmp_path: Path) -> None:
    """Another model is taken over by Envoy as it runs; a key in a variable, or another clock, is not."""
    path = tmp_path / "looper.yaml"
    path.write_text(text("a"))
    files, watched = follower(tmp_path, "a"), Watched(path)
    path.write_text(text("a", "b"))
    assert list(step(watched, files)) == ["written"]
    path.write_text(text("a", "b") + "envoy: {stream_idle_timeout: 400s}\n")
    said = list(step(watched, files))
    assert said == ["written", "what has changed in bootstrap.yaml takes a restart of Envoy"]
