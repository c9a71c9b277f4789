"""One edit of the configuration reaches processor and Envoy, while clients are served, and no request is lost."""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from extproc import bootstrap
from extproc.config import load_config
from tests.envoy.conftest import quick_models
from tests.envoy.requests import TEAM, ask, body, chat
from tests.envoy.series import count
from tests.fakes.stack import DEMO, Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

LINGER = 1.0
CLIENTS = 8


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the file as a mounted ConfigMap does: another inode takes its place."""
    config = yaml.safe_load(path.read_text())
    change(config)
    other = path.with_suffix(".new")
    other.write_text(yaml.safe_dump(config))
    os.replace(other, path)


async def admin(stack: Stack, path: str) -> Any:
    connector = aiohttp.UnixConnector(str(stack.processor.admin))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(f"http://admin{path}") as response,
    ):
        assert response.status == 200
        return await (response.json() if path != "/metrics" else response.text())


async def facts(stack: Stack) -> dict[str, float]:
    lines = (await admin(stack, "/metrics")).splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


async def until(holds: Callable[[], Any], seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not await holds():
            await asyncio.sleep(0.05)


@asynccontextmanager
async def watching(stack: Stack) -> AsyncIterator[None]:
    """`looper envoy-config --watch` beside the stack."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "extproc", "envoy-config", "-c", str(stack.processor.config)),
        *("-o", str(stack.folder / "envoy"), "--watch", "--linger", str(LINGER)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert b"written" in await asyncio.wait_for(process.stdout.readline(), 15)
        yield
    finally:
        process.terminate()
        await process.wait()


class Traffic:
    """Clients that never stop asking, each for one model's answer and a team's in turn."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.statuses: Counter[int] = Counter()
        self.failures: list[str] = []
        self.stopped = False

    async def client(self) -> None:
        texts = ("hello", TEAM)
        while not self.stopped:
            for text in texts:
                await self._ask(text)

    async def _ask(self, text: str) -> None:
        url = f"{self._stack.base_url}/chat/completions"
        async with self._stack.session.post(url, json=chat(text)) as response:
            body = await response.text()
        self.statuses[response.status] += 1
        if response.status != 200:
            self.failures.append(f"{response.status} {dict(response.headers)} {body[:200]}")

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self.client())
            yield
            self.stopped = True


def with_a_new_model(config: dict[str, Any]) -> None:
    """The default moves to a model that Envoy has never heard of, and which joins the team."""
    new = {**config["models"][0], "name": "new", "upstream_model": "newcomer"}
    config["models"].append(new)
    for decision in config["recipes"]["general"]["decisions"]:
        if decision["algorithm"]["type"] == "single":
            decision["algorithm"]["model"] = "new"
        else:
            decision["algorithm"]["analysis_models"].append("new")


def with_a_new_member(config: dict[str, Any]) -> None:
    """The same model joins the team alone."""
    default = config["recipes"]["general"]["decisions"][-1]["algorithm"]["model"]
    with_a_new_model(config)
    config["recipes"]["general"]["decisions"][-1]["algorithm"]["model"] = default


def with_another_route(config: dict[str, Any]) -> None:
    """The default moves to a model that was there all the time."""
    config["recipes"]["general"]["decisions"][-1]["algorithm"]["model"] = "large"


def without_a_model(config: dict[str, Any]) -> None:
    """The model that came last is gone again, from the team too."""
    config["models"] = [model for model in config["models"] if model["name"] != "new"]
    for decision in config["recipes"]["general"]["decisions"]:
        if decision["algorithm"]["type"] != "single":
            decision["algorithm"]["analysis_models"].remove("new")


def quick_recipes(deadline: str = "3s") -> dict[str, Any]:
    """The demo's recipes with short deadlines: a removed model can be reached until the last is over."""
    recipes: dict[str, Any] = yaml.safe_load(DEMO.read_text())["recipes"]
    for decision in recipes["general"]["decisions"]:
        decision["budget"] = {"deadline": deadline}
    return recipes


@pytest.mark.timeout(120)
async def test_edits_lose_no_request() -> None:
    """A new model, a changed route and a removed model arrive under load; every request is answered 200."""
    models = quick_models()
    models.models["newcomer"] = models.models["small"].model_copy(update={"name": "newcomer"})
    async with run_stack(models, {"recipes": quick_recipes()}) as stack, watching(stack):
        traffic = Traffic(stack)
        clusters = stack.folder / "envoy" / "cds.yaml"

        async def is_everywhere(before: str) -> bool:
            said = await admin(stack, "/config")
            return said["generation"] != before and not said["envoy"]["stale"]

        async def is_let_go() -> bool:
            return "model:new" not in clusters.read_text()

        async with traffic.flowing():
            for change in (with_a_new_model, with_another_route, without_a_model):
                before = (await admin(stack, "/config"))["generation"]
                edit(stack.processor.config, change)
                await until(partial(is_everywhere, before))
                await asyncio.sleep(0.5)
            await until(is_let_go)
            await asyncio.sleep(0.5)
        said = await facts(stack)
        served = Counter(call.model for call in stack.simulator.calls)

    assert traffic.failures == []
    assert set(traffic.statuses) == {200}
    assert traffic.statuses[200] > 100
    assert served["newcomer"] > 10
    assert said["looper_config_valid"] == 1
    assert said["looper_config_envoy_stale"] == 0
    assert said['looper_config_reloads_total{result="ok"}'] == 3


async def test_a_run_outlives_a_model_that_is_removed() -> None:
    """A team at work finishes as it began, streamed or not, although one of its models is gone from the file."""
    models = quick_models()
    models.put(models.models["small"].model_copy(update={"name": "newcomer", "latency": 8.0}))
    async with run_stack(models, {"recipes": quick_recipes("25s")}) as stack, watching(stack):

        async def is_at_work(generation: str) -> bool:
            url = f"{stack.base_url}/chat/completions"
            async with stack.session.post(url, json=chat()) as response:
                assert response.status == 200
            said = await admin(stack, "/config")
            return said["generation"] != generation and not said["envoy"]["stale"]

        async def edited(change: Callable[[dict[str, Any]], None]) -> None:
            before = (await admin(stack, "/config"))["generation"]
            edit(stack.processor.config, change)
            await until(partial(is_at_work, before))

        await edited(with_a_new_member)
        async with asyncio.TaskGroup() as group:
            plain = group.create_task(ask(stack))
            streamed = group.create_task(streamed_text(stack))
            await models.wait_for(lambda: models.running("newcomer") == 2)
            await edited(without_a_model)
            assert models.running("newcomer") == 2
        status, headers, _ = plain.result()
        asked = models.count("newcomer")
        assert (await ask(stack))[0] == 200

    assert (status, headers["x-looper-outcome"]) == (200, "ok")
    assert streamed.result().rstrip().endswith("data: [DONE]")
    assert "error" not in streamed.result()
    assert models.count("newcomer") == asked


async def streamed_text(stack: Stack) -> str:
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json=chat(TEAM, stream=True)
    ) as response:
        assert response.status == 200
        return await response.text()


async def test_what_envoy_does_not_know_is_not_used() -> None:
    """Without new routes a new model is waited for: the last configuration answers, and statistics say why."""
    async with run_stack(quick_models(), {"recipes": quick_recipes()}) as stack:
        assert (await ask(stack))[0] == 200
        edit(stack.processor.config, with_a_new_model)

        async def is_waiting() -> bool:
            await ask(stack)
            return (await facts(stack))["looper_config_envoy_stale"] == 1

        await until(is_waiting)
        async with stack.session.post(
            f"{stack.base_url}/chat/completions", json=chat()
        ) as response:
            assert response.status == 200
        said = await facts(stack)
        asked = {call.model for call in stack.simulator.calls}
        runs = [run for run in await admin(stack, "/runs") if run["kind"] == "team"]

    assert "newcomer" not in asked
    assert said["looper_config_valid"] == 1
    assert said["looper_open_runs"] == 0
    labels = {"recipe": "general", "decision": "panel", "algorithm": "fusion"}
    assert count(said, "looper_runs_total", **labels, outcome="ok") == len(runs) > 1
    cost = count(said, "looper_spend_microusd_total", **labels)
    assert cost == sum(run["cost_microusd"] for run in runs)
    assert 0 <= said["looper_event_loop_lag_seconds"] < 5


async def test_a_processor_that_is_ahead_at_its_start_makes_do() -> None:
    """It has no older configuration to fall back on, and goes without the decision that Envoy cannot carry out."""
    async with run_stack(quick_models(), {"recipes": quick_recipes()}) as stack:
        await stack.processor.stop()
        edit(stack.processor.config, with_a_new_member)
        await stack.processor.start()
        url = f"{stack.base_url}/chat/completions"

        async def is_made_do_with() -> bool:
            async with stack.session.post(url, json=chat(TEAM)) as response:
                return response.headers.get("x-looper-decision") == "default"

        await until(is_made_do_with)
        async with stack.session.post(url, json=chat(TEAM)) as response:
            assert response.status == 200
        said = await facts(stack)

    assert said["looper_config_envoy_stale"] == 1


async def test_a_bad_edit_changes_nothing() -> None:
    """The last good configuration goes on answering, the log says what is wrong, and a mended file is used again."""

    def break_(config: dict[str, Any]) -> None:
        config["recipes"]["general"]["decisions"][-1]["algorithm"]["model"] = "smal"

    async with run_stack(quick_models()) as stack:
        before = stack.processor.config.read_text()
        edit(stack.processor.config, break_)

        async def is_refused() -> bool:
            return (await facts(stack))["looper_config_valid"] == 0

        async def is_good() -> bool:
            return (await facts(stack))["looper_config_valid"] == 1

        await until(is_refused)
        status, _, _ = await ask(stack)
        config = await admin(stack, "/config")
        stack.processor.config.write_text(before)
        await until(is_good)
        log = stack.processor.log.read_text()

    assert status == 200
    assert not config["valid"]
    (problem,) = config["problems"]
    assert "unknown model 'smal': did you mean 'small'?" in problem
    assert "unknown model 'smal'" in log


async def test_a_request_keeps_the_routes_that_it_began_with() -> None:
    """Routes that change while a body arrives do not change its way, so the generation that was told stays true."""
    async with run_stack(quick_models()) as stack:
        config = load_config(stack.processor.config)
        others = tuple(model for model in config.models if model.name != "small")
        folder = stack.folder / "envoy"
        sent = body()
        begun, changed = asyncio.Event(), asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield sent[:20]
            begun.set()
            await changed.wait()
            yield sent[20:]

        async def post(data: Any) -> int:
            url = f"{stack.base_url}/chat/completions"
            async with stack.session.post(url, data=data) as response:
                return response.status

        async def is_gone() -> bool:
            return await post(sent) == 404

        async with asyncio.TaskGroup() as group:
            slow = group.create_task(post(slowly()))
            await begun.wait()
            await asyncio.sleep(0.2)
            without = config.model_copy(update={"models": others})
            text = bootstrap.render(without, directory=str(folder))["rds-ingress.yaml"]
            other = folder / "other"
            other.write_text(text)
            os.replace(other, folder / "rds-ingress.yaml")
            await until(is_gone)
            changed.set()
        assert slow.result() == 200


EXT_PROC = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"


async def test_a_route_that_names_a_recipe_still_tells_its_generation() -> None:
    """What operators say for a route comes beside what its virtual host says, and not in its place."""
    recipes = quick_recipes()
    elsewhere = {"name": "elsewhere", "algorithm": {"type": "single", "model": "large"}}
    recipes["other"] = {"decisions": [elsewhere]}
    async with run_stack(quick_models(), {"recipes": recipes}) as stack:
        path = stack.folder / "envoy" / "rds-ingress.yaml"
        routes = yaml.safe_load(path.read_text())
        host = routes["resources"][0]["virtual_hosts"][0]
        told = host["typed_per_filter_config"]["looper.ext_proc"]["overrides"]
        told["grpc_initial_metadata"][0]["value"] = "abcdefabcdef;11111111"
        named = {"key": "x-looper-recipe", "value": "other"}
        overrides = {"@type": EXT_PROC, "overrides": {"grpc_initial_metadata": [named]}}
        for route in host["routes"]:
            route["typed_per_filter_config"] = {"looper.ext_proc": overrides}
        other = path.with_suffix(".new")
        other.write_text(yaml.safe_dump(routes))
        os.replace(other, path)

        async def is_told() -> bool:
            url = f"{stack.base_url}/chat/completions"
            async with stack.session.post(url, json=chat()) as response:
                decision = response.headers.get("x-looper-decision")
            envoy = (await admin(stack, "/config"))["envoy"]
            return (decision, envoy["generation"]) == ("elsewhere", "abcdefabcdef")

        await until(is_told)
