"""`looper doctor` beside a real Envoy, whose models and settings are not what they should be."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from looper.simulate.faults import Blank, Ending, Hang, Status, Strange, UsageHabit
from looper.simulate.models import SimulatedModel
from looper.simulate.server import Address, Simulator
from tests.envoy.configured import Bootstrap, edited, manager_of
from tests.envoy.conftest import quick_models
from tests.fakes.envoy import free_port
from tests.fakes.stack import DEMO, Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

Findings = dict[tuple[str, str], dict[str, str]]


async def doctor(stack: Stack, *arguments: str) -> tuple[int, Findings]:
    """Its exit status, and what it found by what it is about."""
    status, text = await run(stack, "--json", *arguments)
    data = json.loads(text)
    found = {(each["about"], each["check"]): each for each in data["findings"]}
    assert len(found) == len(data["findings"])
    assert data["failed"] == (status == 1)
    return status, found


async def run(stack: Stack, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "extproc", "doctor", "-c", str(stack.processor.config)),
        *("--timeout", "2", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode is not None
    return process.returncode, output.decode()


def able(*capabilities: str) -> dict[str, Any]:
    """The demo's models, each of which is said to be able to do this."""
    models = yaml.safe_load(DEMO.read_text())["models"]
    return {"models": [{**model, "capabilities": list(capabilities)} for model in models]}


ALL = ("logprobs", "tools", "json_schema", "vision")


async def test_a_sound_stack_is_sound() -> None:
    """What `looper envoy-config` writes and models that do what is said of them have nothing to be mended."""
    async with run_stack(quick_models(), able(*ALL)) as stack:
        status, found = await doctor(stack)
        _, table = await run(stack)

    assert {key: each for key, each in found.items() if each["state"] != "ok"} == {}
    assert status == 0
    for name in ("small", "other", "third", "large"):
        assert {check for about, check in found if about == name} == {
            "answers",
            "ingress route",
            "egress route",
            "ingress retries",
            "egress retries",
            "breaker",
            "roles",
            "stream",
            *ALL,
        }
    assert "stream_idle_timeout" in table


async def test_models_that_misbehave_are_named() -> None:
    """Each with what is wrong, and what to do about it; the others are not affected."""
    models = quick_models()
    put(models, "small", rejects=("logprobs", "tools"), fault=Strange(kind="usage"))
    put(models, "other", fault=Status(status=401))
    put(models, "third", fault=Hang())
    put(models, "large", fault=Blank(kind="no_choices"))
    async with run_stack(models, able("logprobs", "tools")) as stack:
        status, found = await doctor(stack, "--only", "models")

    assert status == 1
    assert found["small", "answers"]["state"] == "ok"
    assert found["small", "logprobs"]["state"] == "fail"
    assert "capabilities" in found["small", "tools"]["advice"]
    assert "usage.prompt_tokens_details.cost" in found["small", "members"]["found"]
    assert found["small", "members"]["state"] == "warn"
    assert ("other", "members") not in found
    assert found["other", "answers"]["found"] == "status 401"
    assert "api_key" in found["other", "answers"]["advice"]
    assert found["other", "tools"]["state"] == "skipped"
    assert found["third", "answers"]["found"] == "slow: no answer within 2 s"
    assert found["large", "answers"]["state"] == "fail"
    assert not any(about.startswith("envoy") for about, _ in found)


async def test_what_only_trying_shows_is_found() -> None:
    """What its chat template refuses, and whether its streams say how an answer ended, with what its dialect needs."""
    models = quick_models()
    put(models, "small", alternates=True, roles=("system", "user", "assistant"))
    put(models, "other", alternates=True, roles=("system", "user", "assistant"))
    put(models, "third", fault=Ending(kind="without_finish"))
    put(models, "large", fault=Ending(kind="without_finish", times=2))
    change = able()
    change["models"][1]["dialect"] = {"roles": {"developer": "system"}, "merge": True}
    async with run_stack(models, change) as stack:
        status, found = await doctor(stack, "--only", "models")

    assert status == 1
    assert found["small", "roles"]["state"] == "warn"
    assert "`roles: {developer: system}` and `merge: true`" in found["small", "roles"]["advice"]
    assert found["other", "roles"]["state"] == "ok"
    assert found["third", "stream"]["state"] == "fail"
    assert "`finish_reason: false`" in found["third", "stream"]["advice"]
    assert found["large", "stream"]["state"] == "ok"
    assert found["small", "stream"]["state"] == "ok"


async def test_no_secret_is_shown(tmp_path: Path) -> None:
    """Neither a key nor a header that goes with a model's calls, whatever is wrong with the model."""
    key = tmp_path / "key"
    key.write_text("sk-of-the-model")
    change = able("tools")
    for model in change["models"]:
        model |= {"api_key": {"file": str(key)}, "headers": {"x-account": "account-of-ours"}}
    models = quick_models()
    put(models, "small", fault=Status(status=401, message="sk-of-the-model is no key"))
    async with run_stack(models, change) as stack:
        shown = [await run(stack), await run(stack, "--json")]
        received = {call.headers.get("authorization") for call in stack.simulator.calls}

    assert received == {"Bearer sk-of-the-model"}
    for status, text in shown:
        assert status == 1
        assert "status 401" in text
        assert "sk-of-the-model" not in text
        assert "account-of-ours" not in text


def put(models: Simulator, name: str, **changes: Any) -> None:
    changed: SimulatedModel = models.models[name].model_copy(update=changes)
    models.put(changed)


def impatient(bootstrap: Bootstrap) -> None:
    manager = manager_of(bootstrap, "ingress")
    manager["stream_idle_timeout"] = "10s"
    manager["common_http_protocol_options"] = {"max_stream_duration": "20s"}
    manager["http_filters"] = [
        each for each in manager["http_filters"] if each["name"] != "envoy.filters.http.buffer"
    ]
    (cluster,) = (
        each
        for each in bootstrap["static_resources"]["clusters"]
        if each["name"] == "looper_ext_proc"
    )
    manager_of(bootstrap, "egress")["stream_idle_timeout"] = "5s"
    cluster["circuit_breakers"] = {"thresholds": [{"max_requests": 10}]}


async def test_clocks_and_limits_are_compared() -> None:
    """An Envoy that ends requests before their deadlines do, or takes on less than the processor would."""
    async with run_stack(quick_models(), edit=edited(impatient)) as stack:
        status, found = await doctor(stack, "--only", "envoy")

    listener, cluster = "envoy listener ingress", "envoy cluster looper_ext_proc"
    assert status == 1
    assert found[listener, "stream_idle_timeout"]["state"] == "fail"
    assert "10 s; the longest deadline is" in found[listener, "stream_idle_timeout"]["found"]
    assert found[listener, "max_stream_duration"]["state"] == "fail"
    assert found[listener, "body limit"]["state"] == "warn"
    assert found["envoy listener egress", "stream_idle_timeout"]["state"] == "fail"
    assert found[cluster, "max_requests"]["state"] == "warn"
    assert found[cluster, "max_retries"]["state"] == "warn"
    assert found["small", "egress route"]["state"] == "ok"


def with_another_model(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    config["models"].append({**config["models"][0], "name": "new"})
    path.write_text(yaml.safe_dump(config))


async def test_an_envoy_that_is_behind_is_noticed() -> None:
    """Another generation is a warning, a model without a route an error."""
    async with run_stack(quick_models()) as stack:
        with_another_model(stack.processor.config)
        status, found = await doctor(stack, "--only", "envoy")

    assert status == 1
    for part in ("clusters", "routes ingress", "routes egress", "bootstrap"):
        assert found[f"envoy {part}", "generation"]["state"] == "warn"
    assert found["new", "ingress route"]["state"] == "fail"
    assert found["new", "egress route"]["found"] == "Envoy has none"
    assert found["small", "egress route"]["state"] == "ok"


async def test_what_cannot_be_reached_is_said() -> None:
    """Neither an Envoy that is not there nor its egress is a stack trace."""
    async with run_stack(quick_models()) as stack:
        nowhere = ("--admin", "http://127.0.0.1:1", "--egress", "http://127.0.0.1:1")
        status, found = await doctor(stack, *nowhere)
        _, other = await doctor(stack, "--only", "envoy", "--admin", stack.ingress)

    assert status == 1
    assert found["envoy", "admin"]["state"] == "fail"
    assert "egress" in found["small", "answers"]["advice"]
    assert other["envoy", "admin"]["state"] == "fail"


async def test_who_is_not_there_or_hides_its_usage_is_told_so() -> None:
    """A dead model is no dead egress, and a stream without usage makes estimates of all that hangs on it."""
    nobody = Address("127.0.0.1", free_port())
    async with run_stack(quick_models(), models_at=nobody) as stack:
        _, found = await doctor(stack, "--only", "models")
    assert found["small", "answers"]["found"] == "Envoy cannot reach it"

    models = quick_models()
    put(models, "small", fault=UsageHabit())
    async with run_stack(models, able()) as stack:
        _, found = await doctor(stack, "--only", "models")
        asked = [call.model for call in stack.simulator.calls]
    assert found["small", "stream"]["found"] == "without its usage"
    assert found["large", "stream"]["state"] == "ok"
    assert asked == sorted(asked, key=asked.index)  # one model after the other
