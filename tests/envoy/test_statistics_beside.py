"""What is counted of requests that come to no decision or no end: in flight, refused, overloaded, left and lost."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any

import pytest
import pytest_asyncio

from extproc.bootstrap.routes import hop_mark
from extproc.config import load_config
from looper import errors
from looper.errors import LooperError
from looper.simulate.server import Hang, SimulatedModel, Simulator
from tests.envoy.series import count
from tests.envoy.test_reload import edit, facts
from tests.envoy.test_statistics import CASES
from tests.envoy.test_tools import ASKED, answered
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

REQUESTS, ERRORS = "envoy_looper_requests_total", "envoy_looper_errors_total"
RELOADS = "looper_config_reloads_total"
BACKUP = {"type": "single", "model": "a", "fallbacks": ["b"]}
CREW = {
    "type": "workflows",
    "steps": [{"id": "one", "models": ["a"], "prompt": "Find out."}],
    "final": {"model": "b"},
}
RECIPES: dict[str, dict[str, Any]] = {
    "full": {"algorithm": BACKUP},
    "spare": {"algorithm": BACKUP, "overload": "b"},
    "left": {"algorithm": BACKUP},
    "team": {"algorithm": CREW},
}
CALLS = {
    "content": None,
    "tool_calls": [{"type": "function", "function": {"name": "lookup", "arguments": "{}"}}],
}
UNDECIDED = {"decision": "", "algorithm": "", "model": "", "outcome": ""}


@asynccontextmanager
async def running() -> AsyncIterator[Stack]:
    """With room for one team at once."""
    models = [SimulatedModel(name=name, latency=0, token_latency=0) for name in ("a", "b")]
    config = {
        "models": [{"name": model.name, "url": ""} for model in models],
        "limits": {"max_runs": 1, "max_waiting": 0, "max_body": 1 << 20},
        "state": {"type": "memory", "identity": {"header": "x-user"}},
        "recipes": {
            name: {"decisions": [{"name": name, **decision}]} for name, decision in RECIPES.items()
        },
        "entrypoints": {name: name for name in RECIPES},
    }
    async with run_stack(Simulator(models), config) as stack:
        yield stack


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared() -> AsyncIterator[Stack]:
    async with running() as stack:
        yield stack


@pytest.fixture
def stack(shared: Stack) -> Stack:
    shared.simulator.reset()
    return shared


async def send(
    stack: Stack,
    body: bytes | dict[str, Any],
    path: str = "/v1/chat/completions",
    **headers: str,
) -> tuple[int, Any]:
    """Status and JSON of an answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    async with stack.session.post(
        f"{stack.ingress}{path}", data=BytesIO(data), headers=headers
    ) as response:
        return response.status, json.loads(await response.read())


def asking(model: str, **members: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hi"}], **members}


async def until_more(
    stack: Stack, before: dict[str, float], name: str, **labels: str
) -> dict[str, float]:
    """The series when one more is counted."""
    wanted = count(before, name, **labels) + 1
    return await stack.until_series(lambda now: count(now, name, **labels) == wanted)


REFUSED: dict[str, tuple[bytes | dict[str, Any], dict[str, str], int]] = {
    "invalid_json": (b"{", {}, 400),
    "model_not_found": (asking("nobody"), {}, 404),
    "chat_only": ({"model": "team", "input": "x"}, {"path": "/v1/embeddings"}, 400),
    "identity_missing": (asking("team", tools=ASKED["tools"]), {}, 401),
    "state_mismatch": (
        asking("team", messages=[{"role": "tool", "tool_call_id": f"call_{'x' * 32}", "content": "x"}]),
        {"x_user": "me"},
        409,
    ),
}  # fmt: skip


@pytest.mark.parametrize("error", REFUSED)
async def test_what_the_processor_refuses(stack: Stack, error: str) -> None:
    """By its error, and by its decision if there is one by then."""
    body, how, code = REFUSED[error]
    labels = {"decision": "team" if error == "identity_missing" else ""}
    before = await stack.series()
    status, answer = await send(stack, body, **how)
    assert (status, answer["error"]["code"]) == (code, error)
    after = await until_more(stack, before, ERRORS, error=error, **labels)
    assert count(after, ERRORS) == count(before, ERRORS) + 1
    refused = {**UNDECIDED, **labels, "code": str(code)}
    if labels["decision"]:
        refused["algorithm"] = "workflows"
    await until_more(stack, before, REQUESTS, **refused)


@pytest.mark.parametrize("error", ["body_too_large", "loop_detected"])
async def test_what_envoy_refuses(stack: Stack, error: str) -> None:
    """By its status: the processor has not been asked, or has not answered."""
    mark = hop_mark(load_config(stack.processor.config))
    body = asking("full", padding="x" * (2 << 20) if error == "body_too_large" else "")
    hop = mark if error == "loop_detected" else "somebody"
    before = await stack.series()
    status, answer = await send(stack, body, looper_hop=hop)
    assert answer["error"]["code"] == error
    after = await until_more(stack, before, REQUESTS, **UNDECIDED, code=str(status))
    assert count(after, ERRORS) == count(before, ERRORS)


@asynccontextmanager
async def busy(stack: Stack) -> AsyncIterator[None]:
    """All the room there is for teams is taken, by a request whose client leaves in the end."""
    stack.simulator.fault("a", Hang())
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(send(stack, asking("full")))
        await stack.simulator.wait_for(lambda: stack.simulator.running("a") == 1)
        yield
        waiting.cancel()
    await stack.simulator.wait_for(lambda: stack.simulator.running() == 0)


async def test_what_is_in_flight(stack: Stack) -> None:
    """At each listener, at the processor, at the model; nothing once its client has left, which is a run abandoned."""
    gauges = {
        ("envoy_http_downstream_rq_active", "envoy_http_conn_manager_prefix", "ingress"),
        ("envoy_http_downstream_rq_active", "envoy_http_conn_manager_prefix", "egress"),
        ("envoy_cluster_upstream_rq_active", "envoy_cluster_name", "looper_ext_proc"),
        ("envoy_cluster_upstream_rq_active", "envoy_cluster_name", "model_a"),
    }

    async def until_all(number: int) -> None:
        await stack.until_series(
            lambda now: all(count(now, name, **{label: of}) == number for name, label, of in gauges)
        )
        assert (await facts(stack))["looper_open_runs"] == number

    before, runs = await stack.series(), await facts(stack)
    await until_all(0)
    async with busy(stack):
        await until_all(1)
    await until_all(0)
    await until_more(stack, before, REQUESTS, **UNDECIDED, code="0")
    labels = {"decision": "full", "outcome": "abandoned"}
    after = await facts(stack)
    assert (
        count(after, "looper_runs_total", **labels)
        == count(runs, "looper_runs_total", **labels) + 1
    )


async def test_too_much_to_do(stack: Stack) -> None:
    """A stand-in's answer says so in its outcome; without one it is an error of that decision's."""
    before = await stack.series()
    async with busy(stack):
        assert (await send(stack, asking("spare")))[0] == 200
        assert (await send(stack, asking("full")))[0] == 503
        stood_in = {"decision": "spare", "algorithm": "single", "model": "b", "outcome": "overload"}
        await until_more(stack, before, REQUESTS, **stood_in, code="200")
        after = await until_more(
            stack, before, ERRORS, decision="full", algorithm="single", error="overloaded"
        )
    assert count(after, REQUESTS, decision="full", code="503") > 0


async def test_a_stream_that_is_left(stack: Stack) -> None:
    """It has begun, and that is all that is known of it; when it began is not said."""
    stack.simulator.fault("a", Hang(after_chunks=2))
    before, runs = await stack.series(), await facts(stack)
    body = asking("left", stream=True)
    async with stack.session.post(f"{stack.base_url}/chat/completions", json=body) as response:
        await response.content.readany()
        response.close()
    await stack.simulator.wait_for(lambda: stack.simulator.running() == 0)
    labels = {"decision": "left", "algorithm": "single", "outcome": "started", "code": "200"}
    await until_more(stack, before, REQUESTS, **labels)
    after = await facts(stack)
    labels = {"decision": "left", "outcome": "abandoned"}
    assert (
        count(after, "looper_runs_total", **labels)
        == count(runs, "looper_runs_total", **labels) + 1
    )


async def test_runs_that_wait_for_tools() -> None:
    """Each turn is a request of its decision's. What goes on with no run is an error without a decision; and a new
    version of the configuration is counted.
    """
    body = asking("team", tools=ASKED["tools"])
    async with running() as stack:

        async def until_refused(turn: dict[str, Any], error: str) -> None:
            """A run is given up a moment after its client has the answer, or has left."""
            while (answer := await send(stack, turn, x_user="me"))[1]["error"]["code"] != error:
                assert answer[1]["error"]["code"] == "state_busy"
            await stack.until_series(lambda now: count(now, ERRORS, error=error, decision="") == 1)

        stack.simulator.script("a", CALLS, "done", CALLS)
        began = await facts(stack)
        _, first = await send(stack, body, x_user="me")
        turn = answered(body, first)
        assert (await send(stack, turn, x_user="me"))[0] == 200
        ok = {"decision": "team", "algorithm": "workflows", "outcome": "ok"}
        await stack.until_series(lambda now: count(now, REQUESTS, code="200", **ok) == 2)
        assert count(await facts(stack), "looper_runs_total", recipe="team", **ok) == 2
        await until_refused(turn, "state_expired")

        _, first = await send(stack, body, x_user="me")
        turn = answered(body, first)
        stack.simulator.fault("a", Hang())
        busy = count(await stack.series(), ERRORS, error="state_busy")
        async with asyncio.TaskGroup() as group:
            going_on = group.create_task(send(stack, turn, x_user="me"))
            await stack.simulator.wait_for(lambda: stack.simulator.running("a") == 1)
            assert (await send(stack, turn, x_user="me"))[0] == 409
            going_on.cancel()
        await stack.until_series(lambda now: count(now, ERRORS, error="state_busy") == busy + 1)

        edit(stack.processor.config, rename)
        async with asyncio.timeout(15):
            while not count(await facts(stack), RELOADS, result="ok"):
                await asyncio.sleep(0.05)
            await until_refused(turn, "state_outdated")
        assert len(generations(began) | generations(await facts(stack))) == 2


def rename(config: dict[str, Any]) -> None:
    config["recipes"]["team"]["decisions"][0]["name"] = "crew"


def generations(series: dict[str, float]) -> set[str]:
    (generation,) = (key for key in series if key.startswith("looper_config_generation"))
    return {generation}


async def test_a_processor_that_is_lost() -> None:
    """503 by Envoy, and the filter's own word for it."""
    async with run_stack(Simulator([SimulatedModel(name="small")])) as stack:
        before = await stack.series()
        await stack.processor.stop(signal.SIGKILL)
        status, answer = await send(stack, asking("looper/auto"))
        assert (status, answer["error"]["code"]) == (503, "router_unavailable")
        after = await until_more(stack, before, REQUESTS, **UNDECIDED, code="503")
        failed = "envoy_http_ext_proc_looper_streams_failed"
        assert count(after, failed) > count(before, failed)


async def test_no_failure_is_left_out() -> None:
    """Each that the processor tells is counted by these tests, but for a mistake of ours, of which none is known.

    What tenants have left is counted in `test_tenants`.
    """
    told = {
        each.code
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, LooperError)
    }
    here = {"body_too_large", "loop_detected", "overloaded"}
    waiting = {"state_expired", "state_busy", "state_outdated", "state_unavailable"}
    assert told - {case.error for case in CASES} - REFUSED.keys() - here - waiting == {
        "internal_error",
        "tenant_limit_reached",
    }


async def test_one_listener_has_both_pages(stack: Stack) -> None:
    """Envoy's, and the processor's own as it is at the admin port; nobody can write to it."""
    async with stack.session.get(f"{stack.stats}/metrics") as response:
        page = await response.text()
        assert response.status == 200
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    names = {line.partition("{")[0].partition(" ")[0] for line in page.splitlines()}
    own = {key.partition("{")[0] for key in await facts(stack)}
    assert names - {"#"} == own
    for method, path in (("POST", "/metrics"), ("GET", "/metrics/x"), ("GET", "/runs")):
        async with stack.session.request(method, f"{stack.stats}{path}") as response:
            assert response.status == 404


async def test_no_client_makes_series(stack: Stack) -> None:
    """Whatever it calls models, paths, methods and headers, after the first there are as many series as before."""

    async def odd(number: int) -> None:
        name = f"odd-{number}"
        ours = {
            f"x_looper_{label}": name
            for label in ("model", "role", "decision", "recipe", "outcome")
        }
        await send(stack, asking(name), **ours)
        await send(stack, asking("full", user=name, metadata={"decision": name}), **ours)
        await send(stack, asking(name), path=f"/v1/{name}", **ours)

    async def counted(number: int) -> dict[str, float]:
        await odd(number)
        return await stack.until_series(
            lambda now: count(now, REQUESTS, decision="full", code="200") == before + 1 + number
        )

    before = count(await stack.series(), REQUESTS, decision="full", code="200")
    first = await counted(0)
    for number in range(1, 20):
        last = await counted(number)
    assert counters(last) == counters(first)
    assert "odd-" not in "".join(last)


def counters(series: dict[str, float]) -> set[str]:
    """Ours. Histograms are seen with the next flush only."""
    return {key for key in series if re.match(r"envoy_looper_\w+_total", key)}
