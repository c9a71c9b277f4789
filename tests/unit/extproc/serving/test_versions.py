"""Which configuration an exchange begins with, while file and Envoy change one after the other."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from extproc.config import Config, parse_config
from extproc.process.generation import announcement, generation, reach
from extproc.process.runtime import Runtime
from extproc.serving.versions import Versions, at_work
from looper.calling.calls import Call
from looper.errors import Overloaded
from looper.simulate.models import SimulatedModel
from looper.simulate.server import Simulator

TEXT = """
version: 1
egress: %(egress)s
limits: {max_runs: %(max_runs)s, max_waiting: 0}
models: [%(models)s]
recipes: {general: {decisions: [{name: default, algorithm: {type: single, model: %(default)s}}]}}
entrypoints: {looper/auto: general}
"""


def config(
    *models: str, port: int = 1, egress: str = "unix:/tmp/none.sock", max_runs: int = 10
) -> Config:
    """A configuration with these models, the first of which answers."""
    entries = ", ".join(f'{{name: {name}, url: "http://{name}:{port}/v1"}}' for name in models)
    values = {"egress": egress, "models": entries, "default": models[0], "max_runs": max_runs}
    return parse_config(TEXT % values, "looper.yaml")


OLD = config("a", "b")
WITH_A_NEW_MODEL = config("a", "b", "c")
WITHOUT_A_MODEL = config("b")
ANOTHER_DEFAULT = config("b", "a")
MOVED = config("a", "b", port=2)


@pytest_asyncio.fixture
async def versions() -> AsyncIterator[Versions]:
    async with at_work(OLD) as found:
        yield found


async def put_to_work(versions: Versions, new: Config) -> None:
    await versions.add(new, generation(new))


def announced(envoy: Config) -> str:
    """What routes made from this configuration announce."""
    return announcement(generation(envoy), reach(envoy))


def begun(versions: Versions, envoy: Config | None) -> Config:
    """The configuration of an exchange whose routes were made from `envoy`."""
    with versions.begin(None if envoy is None else announced(envoy)) as runtime:
        return runtime.config


@pytest.mark.parametrize("new", [WITHOUT_A_MODEL, ANOTHER_DEFAULT], ids=["fewer", "same"])
async def test_what_envoy_has_routes_for_is_used_at_once(versions: Versions, new: Config) -> None:
    """A configuration that names no model unknown to Envoy need not wait for it."""
    assert begun(versions, OLD) is OLD
    await put_to_work(versions, new)
    assert begun(versions, OLD) is new
    assert versions.is_stale


@pytest.mark.parametrize("new", [WITH_A_NEW_MODEL, MOVED], ids=["new", "moved"])
async def test_a_model_without_a_route_is_waited_for(versions: Versions, new: Config) -> None:
    """The last configuration stays in use for requests on routes that do not lead to all of the new one's models."""
    assert begun(versions, OLD) is OLD
    await put_to_work(versions, new)
    assert begun(versions, OLD) is OLD
    assert versions.is_stale
    assert begun(versions, new) is new
    assert not versions.is_stale


async def test_workers_of_envoy_may_change_one_after_the_other(versions: Versions) -> None:
    """Each request gets the configuration that goes with its own routes."""
    await put_to_work(versions, WITH_A_NEW_MODEL)
    seen = [begun(versions, envoy) for envoy in (OLD, WITH_A_NEW_MODEL) * 3]
    assert seen == [OLD, WITH_A_NEW_MODEL] * 3


async def test_several_edits_may_overtake_envoy(versions: Versions) -> None:
    """What was edited twice before Envoy had the first is not used half."""
    begun(versions, OLD)
    await put_to_work(versions, WITH_A_NEW_MODEL)
    await put_to_work(versions, config("d", "a"))
    assert begun(versions, OLD) is OLD
    assert begun(versions, WITH_A_NEW_MODEL) is not OLD


async def test_an_envoy_that_says_nothing_is_believed_to_know(versions: Versions) -> None:
    """Routes that were written by hand do not hold a configuration up, nor do those of an unknown generation."""
    await put_to_work(versions, WITH_A_NEW_MODEL)
    assert begun(versions, None) is WITH_A_NEW_MODEL
    assert not versions.is_stale
    with versions.begin("0123456789ab") as runtime:
        assert runtime.config is WITH_A_NEW_MODEL
    assert versions.is_stale


TWO = """
version: 1
egress: unix:/tmp/none.sock
models: [{name: a, url: "http://a:1/v1"}, {name: c, url: "http://c:1/v1"}]
recipes:
  general:
    signals: {hard: {type: keyword, any: [prove]}}
    decisions:
      - {name: hard, when: hard, algorithm: {type: single, model: c}}
      - {name: rest, algorithm: {type: single, model: %s}}
entrypoints: {looper/auto: general}
"""


@pytest.mark.parametrize(
    ("default", "decisions"),
    [pytest.param("a", ["rest"], id="reduced"), pytest.param("c", ["hard", "rest"], id="whole")],
)
async def test_after_a_start_decisions_without_a_route_are_left_out(
    default: str, decisions: list[str]
) -> None:
    """Where no older configuration is known, the newest does without what Envoy cannot carry out, if it can."""
    two = parse_config(TWO % default, "looper.yaml")
    async with at_work(two) as versions:
        begun(versions, OLD)
        await versions.tidy()
        assert [
            each.name for each in begun(versions, OLD).recipes["general"].decisions
        ] == decisions
        assert versions.is_stale
        assert begun(versions, two) is two
        count = len(versions._known)
        for _ in range(3):
            begun(versions, OLD)
            await versions.tidy()
        assert len(versions._known) == count


async def test_an_exchange_keeps_what_it_began_with(versions: Versions) -> None:
    """The runtime of an exchange is not that of the next, and its connection stays open until it ends."""
    versions.skew = 0.0
    begun(versions, OLD)
    other = config("a", "b", egress="unix:/tmp/other.sock")
    with versions.begin(announced(OLD)) as runtime:
        client = runtime.client
        await put_to_work(versions, other)
        begun(versions, other)
        await versions.tidy()
        assert runtime.config is OLD
        assert is_open(client)
    await versions.tidy()
    assert not is_open(client)


def is_open(client: object) -> bool:
    session = getattr(client, "_session", None)
    return session is not None and not session.closed


async def test_a_run_ends_where_it_began(versions: Versions) -> None:
    """A run that is under way when `egress` changes makes its calls by the old one, and new runs by the new one."""
    slow = SimulatedModel(name="a", latency=2.0)
    one, two = Simulator([slow]), Simulator([slow])
    async with one.serve() as old, two.serve() as new:
        versions.skew = 0.0
        before, after = (config("a", egress=each.url) for each in (old, new))
        await put_to_work(versions, before)
        async with asyncio.TaskGroup() as group:
            with versions.begin(announced(before)) as runtime:
                first = group.create_task(said_by(runtime))
                await one.wait_for(lambda: one.running() == 1)
                await put_to_work(versions, after)
                with versions.begin(announced(after)) as other:
                    await versions.tidy()
                    second = await said_by(other)
                await first
                again = await said_by(runtime)
        await versions.tidy()
        assert not is_open(runtime.client)
        assert is_open(other.client)
    assert first.result() == second == again
    assert (one.count(), two.count()) == (2, 1)


async def said_by(runtime: Runtime) -> str | None:
    """The answer of the model `a` to a call that a run could make."""
    body = b'{"model": "a", "messages": [{"role": "user", "content": "hello"}]}'
    call = Call(runtime.models["a"], "single", body)
    deadline = asyncio.get_running_loop().time() + 5
    answer = await runtime.client.complete(call, {}, deadline=deadline)
    message = answer.completion.choices[0].message
    return message.content if message is not None else None


async def test_one_connection_serves_all_with_the_same_egress(versions: Versions) -> None:
    """A reload that leaves `egress` alone leaves its connections alone as well."""
    client = versions.newest.runtime.client
    await put_to_work(versions, ANOTHER_DEFAULT)
    assert versions.newest.runtime.client is client


async def test_what_is_of_the_process_outlives_a_configuration(versions: Versions) -> None:
    """Open runs count against the new limit, and nothing that is remembered is lost."""
    process = versions.process
    async with process.admission.run("general"):
        await put_to_work(versions, config("a", "b", max_runs=1))
        assert versions.newest.runtime.process is process
        assert process.admission.open == 1
        with pytest.raises(Overloaded):
            async with process.admission.run("general"):
                pass


async def test_a_file_of_runs_that_cannot_be_written_changes_nothing(
    versions: Versions, tmp_path: Path
) -> None:
    """What cannot be put to work on this machine is refused, and the last configuration stays whole."""
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    wrong = OLD.model_copy(
        update={"trace": OLD.trace.model_copy(update={"file": f"{blocked}/runs.jsonl"})}
    )
    with versions.process.runs.writing():
        with pytest.raises(OSError, match="file"):
            await put_to_work(versions, wrong)
        assert versions.newest.runtime.config is OLD
