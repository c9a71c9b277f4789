"""A file that is edited, replaced, broken and mended, and what becomes of it."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from extproc.config import Config, load
from extproc.config.watch import Watched
from extproc.errors import ConfigError
from extproc.process.process import Process
from extproc.process.tally import Tally
from extproc.serving.lag import Lag
from extproc.serving.metrics import facts, render
from extproc.serving.reload import Reloads
from extproc.serving.versions import Versions, at_work
from looper.calling.budget import Budget, Grant, Ledger
from looper.wire.chat import Usage
from tests.fakes.models import model

GOOD = """
version: 1
egress: unix:/tmp/none.sock
models: [{name: a, url: "http://a/v1"}, {name: b, url: "http://b/v1"}]
recipes: {general: {include: own.yaml}}
entrypoints: {looper/auto: general}
"""
OWN = """
models: {a: answers, b: answers too}
recipe: {decisions: [{name: default, algorithm: {type: single, model: a}}]}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "own.yaml").write_text(OWN)
    file = tmp_path / "looper.yaml"
    file.write_text(GOOD)
    return file


@asynccontextmanager
async def following(path: Path) -> AsyncIterator[tuple[Versions, Reloads]]:
    loaded = load(path)
    reloads = Reloads()
    async with at_work(loaded.config) as versions, asyncio.TaskGroup() as group:
        watched = Watched(path, loaded.files)
        task = group.create_task(reloads.follow(watched, versions, 0.01))
        yield versions, reloads
        task.cancel()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.01)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def default_of(versions: Versions) -> object:
    return versions.newest.runtime.policies["general"].decisions[-1].algorithm


async def test_an_edit_is_put_to_work(path: Path) -> None:
    """A new version of the file replaces the last one in the process."""
    async with following(path) as (versions, reloads):
        before = versions.newest.generation
        edit(path, "looper/auto", "looper/other")
        await until(lambda: versions.newest.generation != before)
        assert "looper/other" in versions.newest.runtime.config.entrypoints
        assert (reloads.succeeded, reloads.failed) == (1, 0)


async def test_an_included_file_is_followed_too(path: Path) -> None:
    """What a configuration includes is a part of it."""
    async with following(path) as (versions, _):
        before = default_of(versions)
        edit(path.with_name("own.yaml"), "model: a", "model: b")
        await until(lambda: default_of(versions) != before)


async def test_fitted_weights_are_followed_too(path: Path) -> None:
    """What `looper calibrate` writes anew counts from then on."""
    member = {"weight": 1.5, "rating": 0.7}
    weights = {
        "version": 1,
        "provenance": {"date": "2026-01-31", "rows": 100, "checksum": "sha256:" + "0" * 64},
        "teams": [{"members": {"a": member, "b": member}, "none_of_these": 1.0}],
    }
    file = path.with_name("weights.json")
    file.write_text(json.dumps(weights))
    vote = "{type: ratings, models: [a, b], weights: weights.json}"
    edit(path.with_name("own.yaml"), "{type: single, model: a}", vote)
    edit(
        path,
        "recipes",
        "recipes: {general: {include: own.yaml}, other: {decisions: [{name: x, "
        f"algorithm: {vote}" + "}]}}\nrecipes_",
    )
    path.write_text(
        path.read_text().partition("recipes_")[0] + "entrypoints: {looper/auto: other}\n"
    )
    async with following(path) as (versions, reloads):
        before = versions.newest.generation
        file.write_text(json.dumps(weights).replace("1.5", "2.5"))
        await until(lambda: versions.newest.generation != before)
        assert reloads.succeeded == 1


async def test_a_mounted_file_is_followed(tmp_path: Path, path: Path) -> None:
    """A ConfigMap's directory changes by the rename of a link in the middle of the path."""
    for name, public in (("one", "looper/auto"), ("two", "looper/two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "looper.yaml").write_text(GOOD.replace("looper/auto", public))
        (tmp_path / name / "own.yaml").write_text(OWN)
    data = tmp_path / "..data"
    data.symlink_to("one")
    path.unlink()
    path.symlink_to("..data/looper.yaml")
    async with following(path) as (versions, _):
        (tmp_path / "next").symlink_to("two")
        os.replace(tmp_path / "next", data)
        await until(lambda: "looper/two" in versions.newest.runtime.config.entrypoints)


async def test_a_bad_version_changes_nothing_and_is_told(path: Path) -> None:
    """The last good one stays at work; the problems are there for whoever asks, until the file is mended."""
    async with following(path) as (versions, reloads):
        before = versions.newest
        edit(path, "version: 1", "version: 1\ndebgu: true")
        await until(lambda: not reloads.is_valid)
        assert versions.newest is before
        assert reloads.problems == (f"{path}:3: debgu: unknown key; did you mean 'debug'?",)
        found = facts(versions, reloads, Lag())
        assert b"looper_config_valid 0.0\n" in await asyncio.to_thread(render, found)
        edit(path, "debgu: true", "debug: true")
        await until(lambda: reloads.is_valid)
        assert versions.newest.runtime.config.debug
        assert (reloads.succeeded, reloads.failed) == (1, 1)


@pytest.mark.parametrize("name", ["looper.yaml", "own.yaml"])
async def test_a_file_that_is_gone_changes_nothing(path: Path, name: str) -> None:
    """Nor does one that is missing for a moment; once it is back, all is well."""
    async with following(path) as (versions, reloads):
        before = versions.newest
        file = path.with_name(name)
        text = file.read_text()
        file.unlink()
        await until(lambda: not reloads.is_valid)
        file.write_text(text)
        await until(lambda: reloads.is_valid)
        assert versions.newest is before
        assert reloads.succeeded == 0


async def test_a_mistake_in_an_included_file_can_be_mended_there(path: Path) -> None:
    """A file that could not be read is looked at again, although the configuration that includes it is the same."""
    own = path.with_name("own.yaml")
    async with following(path) as (_, reloads):
        edit(own, "model: a", "modle: a")
        await until(lambda: not reloads.is_valid)
        assert any("own.yaml" in problem for problem in reloads.problems)
        edit(own, "modle: a", "model: b")
        await until(lambda: reloads.is_valid)
        assert reloads.succeeded == 1


async def test_a_mistake_of_ours_ends_nothing(path: Path) -> None:
    """A version that cannot be built, for whatever reason, is refused like any other, and the next one is tried."""
    loaded = load(path)
    reloads = Reloads()

    class Failing(Versions):
        broken = True

        async def add(self, config: Config, generation: str) -> None:
            if self.broken:
                raise ZeroDivisionError("what a prompt said")
            await super().add(config, generation)

    versions = Failing(Process.of(loaded.config))
    versions.broken = False
    await versions.add(loaded.config, "first")
    versions.broken = True
    async with asyncio.TaskGroup() as group:
        task = group.create_task(reloads.follow(Watched(path, loaded.files), versions, 0.01))
        edit(path, "looper/auto", "looper/x")
        await until(lambda: not reloads.is_valid)
        assert reloads.problems == (f"{path}: cannot be put to work: ZeroDivisionError",)
        versions.broken = False
        edit(path, "looper/x", "looper/y")
        await until(lambda: reloads.is_valid)
        task.cancel()
    assert "looper/y" in versions.newest.runtime.config.entrypoints
    await versions.close()


async def test_another_layout_is_no_other_configuration(path: Path) -> None:
    """A comment is no reason to build everything anew."""
    async with following(path) as (versions, reloads):
        before = versions.newest
        edit(path, "version: 1", "# a comment\nversion: 1")
        await asyncio.sleep(0.5)
        assert versions.newest is before
        assert (reloads.succeeded, reloads.failed) == (0, 0)


def test_there_are_news_once(path: Path) -> None:
    """A change is told once, and what says the same is none."""
    watched = Watched(path)
    assert not watched.news()
    edit(path, "looper/auto", "looper/x")
    assert watched.news()
    assert not watched.news()
    os.utime(path)
    assert not watched.news()


def test_a_problem_names_the_files_that_may_hold_it(path: Path) -> None:
    """So that they can be watched."""
    own = path.with_name("own.yaml")
    own.write_text("recipe: [")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.files == (own,)


def test_runs_and_their_cost_are_counted() -> None:
    """Each run once, by what became of it."""
    tally = Tally()
    facts = {"recipe": "general", "decision": "hard", "algorithm": "fusion"}
    priced = model("a", price={"input": 1, "output": 1})
    ledger = Ledger(Budget())
    grant = ledger.reserve(priced, 10, 10)
    assert isinstance(grant, Grant)
    ledger.settle(grant, priced, Usage(10, 5))
    tally.add(ledger, {**facts, "outcome": "ok"})
    tally.add(ledger, {**facts, "outcome": "ok"})
    tally.add(ledger, {**facts, "outcome": "abandoned"})

    names = tuple(facts.values())
    assert tally.runs == {(*names, "ok"): 2, (*names, "abandoned"): 1}
    assert tally.microusd == {names: 45}


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("state", "{type: memory, ttl: 1h}"),
        ("tracing", "{otlp: {endpoint: 'http://127.0.0.1:4317'}}"),
    ],
)
async def test_what_is_only_looked_at_as_the_process_starts_is_said(
    path: Path, name: str, setting: str
) -> None:
    with capture_logs() as logs:
        async with following(path) as (_, reloads):
            edit(path, "version: 1", f"version: 1\n{name}: {setting}")
            await until(lambda: reloads.succeeded == 1)
    problems = [each["problem"] for each in logs if each["log_level"] == "warning"]
    assert f"`{name}` stays as it was until the next start" in problems
    assert sum("until the next start" in each for each in problems) == 1
