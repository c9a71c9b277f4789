"""One trace from the client to each model: Envoy's spans, ours, and each call's, as a real collector has them."""

import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import yaml

from looper.simulate.server import Simulator
from tests.envoy.conftest import quick_models
from tests.envoy.requests import ROUTED, TEAM, chat
from tests.envoy.test_tools import ASKED, MODELS, answered, calls_of
from tests.envoy.test_tools import ask as ask_team
from tests.envoy.test_tools import change as team
from tests.fakes.collector import Collector, Seen, run_collector
from tests.fakes.redis import run_redis
from tests.fakes.stack import Processor, Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

PARENT = "b7ad6b7169203331"
CALLS = 5
"""Of the demo's team."""

SERVER, CLIENT = 2, 3


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def collector() -> AsyncIterator[Collector]:
    async with run_collector() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["grpc native", "http grpcio"])
async def traced(
    request: pytest.FixtureRequest, collector: Collector
) -> AsyncIterator[tuple[Stack, Collector]]:
    """Envoy and the processor both tell the collector, in one way or the other; so they talk to each other."""
    protocol, transport = request.param.split()
    otlp = collector.otlp(protocol)
    change = {
        "tracing": {"otlp": otlp},
        # Nothing begins a trace but a client that brings one: then it is kept from end to end.
        "envoy": {"tracing": {"otlp": otlp, "sample": 0.0}},
    }
    async with run_stack(quick_models(), change, edit=quick_spans, transport=transport) as stack:
        yield stack, collector


def quick_spans(envoy: Path) -> None:
    """Have Envoy send its spans at once, and not every five seconds."""
    path = envoy / "bootstrap.yaml"
    bootstrap = yaml.safe_load(path.read_text())
    (layer,) = bootstrap["layered_runtime"]["layers"]
    layer["static_layer"]["tracing.opentelemetry.flush_interval_ms"] = 100
    path.write_text(yaml.safe_dump(bootstrap))


def context(flags: str = "01") -> tuple[str, dict[str, str]]:
    """A trace of a client's own."""
    trace = f"{time.time_ns():032x}"
    return trace, {"traceparent": f"00-{trace}-{PARENT}-{flags}", "tracestate": "vendor=1"}


async def ask(stack: Stack, text: str, headers: Mapping[str, str], **members: Any) -> bytes:
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json=chat(text, **members), headers=headers
    ) as response:
        assert response.status == 200
        return await response.read()


def is_in(trace: str) -> Any:
    def of(span: Seen) -> bool:
        return span.trace == trace

    return of


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_one_trace_shows_envoy_us_and_each_call(
    traced: tuple[Stack, Collector], stream: bool
) -> None:
    """Client, ingress, processor, its stages, each call, its way out, each attempt, the model's server."""
    stack, collector = traced
    stack.simulator.reset()
    trace, headers = context()
    await ask(stack, TEAM, headers, stream=stream)
    # Ingress, its call of the processor; exchange, signals, 3 stages; each call, its way out, its one attempt.
    tree = await collector.trace(is_in(trace), spans=2 + 5 + 3 * CALLS)
    ingress = tree["ingress POST"]
    assert (ingress.service, ingress.parent, ingress.kind) == ("envoy", PARENT, SERVER)
    exchange = tree["chat looper/auto"]
    assert (exchange.service, exchange.kind) == ("envoy-looper", SERVER)
    asked = tree.above(exchange)
    assert asked.service == "envoy"
    assert tree.above(asked) is ingress, tree.drawn()
    stages = [span for span in tree.below(exchange) if span.name.startswith("stage ")]
    assert [len(tree.below(stage)) for stage in sorted(stages, key=lambda each: each.start)] == [
        *(3, 1, 1)
    ], tree.drawn()
    attempts = {}
    for stage in stages:
        for call in tree.below(stage):
            (out,) = tree.below(call)
            (attempt,) = tree.below(out)
            assert out.name == f"egress {call['looper.model']}"
            assert (call.kind, out.service, attempt.service) == (CLIENT, "envoy", "envoy")
            attempts[attempt.id] = call["looper.model"]
    told = [call.headers["traceparent"].split("-") for call in stack.simulator.calls]
    assert {(each[1], each[3]) for each in told} == {(trace, "01")}
    assert {each[2] for each in told} == set(attempts)
    assert {call.headers["tracestate"] for call in stack.simulator.calls} == {"vendor=1"}
    assert ("gen_ai.response.time_to_first_chunk" in exchange.attributes) is stream


async def test_a_routed_request_is_envoys_own_call(traced: tuple[Stack, Collector]) -> None:
    """What goes to the model is told Envoy's span, and not the processor's, which is over by then."""
    stack, collector = traced
    stack.simulator.reset()
    trace, headers = context()
    await ask(stack, ROUTED, headers)
    tree = await collector.trace(is_in(trace), spans=5)
    attempt = tree["ingress POST attempt"]
    assert tree.above(attempt) is tree["ingress POST"]
    (call,) = stack.simulator.calls
    assert call.headers["traceparent"] == f"00-{trace}-{attempt.id}-01"
    assert tree["chat looper/auto"]["looper.model"] == "small"


@pytest.mark.parametrize("text", [TEAM, ROUTED], ids=["team", "routed"])
async def test_what_is_not_to_be_kept_is_kept_by_nobody(
    traced: tuple[Stack, Collector], text: str
) -> None:
    """A trace that its client does not keep goes on as such; one that follows shows that nothing is late."""
    stack, collector = traced
    stack.simulator.reset()
    hidden, headers = context("00")
    await ask(stack, text, headers)
    flags = {call.headers["traceparent"].split("-")[3] for call in stack.simulator.calls}
    assert flags == {"00"}
    shown, headers = context()
    await ask(stack, text, headers)
    await collector.trace(is_in(shown), spans=5)
    assert not [span for span in collector.spans if span.trace == hidden]


async def test_without_envoys_spans_ours_go_on_from_the_client_to_the_models(
    collector: Collector,
) -> None:
    """The exchange is the client's child, and a routed request the exchange's."""
    change = {"tracing": {"otlp": collector.otlp("grpc"), "service": "looper-alone"}}
    async with run_stack(quick_models(), change) as stack:
        stack.simulator.reset()
        trace, headers = context()
        await ask(stack, ROUTED, headers)
        tree = await collector.trace(is_in(trace), spans=2)
        exchange = tree["chat looper/auto"]
        assert (exchange.service, exchange.parent) == ("looper-alone", PARENT)
        (call,) = stack.simulator.calls
        assert call.headers["traceparent"] == f"00-{trace}-{exchange.id}-01"
        assert (await stack.series())[
            'envoy_http_ext_proc_looper_rejected_header_mutations{envoy_http_conn_manager_prefix="ingress"}'
        ] == 0


async def test_spans_of_envoy_alone_are_one_trace_too(collector: Collector) -> None:
    """A processor that makes none hands on whose the request is."""
    tracing = {"otlp": collector.otlp("grpc"), "service": "envoy-alone"}
    change = {"envoy": {"tracing": tracing}}
    async with run_stack(quick_models(), change, edit=quick_spans) as stack:
        async with stack.session.post(
            f"{stack.base_url}/chat/completions", json=chat(TEAM)
        ) as response:
            assert response.status == 200

        def is_call(span: Seen) -> bool:
            return span.service == "envoy-alone" and span.name == "egress large"

        tree = await collector.trace(is_call, spans=2 + 2 * CALLS)
        assert {span.service for span in tree.spans} == {"envoy-alone"}
        assert tree["ingress POST"].parent == ""


async def facts(processor: Processor) -> dict[str, float]:
    """What the process tells of itself."""
    connector = aiohttp.UnixConnector(str(processor.admin))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get("http://admin/metrics") as response,
    ):
        lines = (await response.text()).splitlines()
    pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_a_collector_that_is_away_breaks_nothing_and_is_counted(protocol: str) -> None:
    """Requests are answered as ever; spans that found no room are counted, and said once as one of our lines."""
    change = {
        "tracing": {
            "otlp": {"endpoint": "http://127.0.0.1:1", "protocol": protocol},
            "queue": 64,
            "flush": "100ms",
        }
    }
    async with run_stack(quick_models(), change) as stack:
        for _ in range(20):  # ten spans each
            await ask(stack, TEAM, {})
        async with asyncio.timeout(20):
            while not (await facts(stack.processor))['looper_spans_dropped_total{why="queue"}']:
                await asyncio.sleep(0.05)
                await ask(stack, TEAM, {})
        assert (await facts(stack.processor))["looper_spans_sent_total"] == 0
        began = time.monotonic()
        await stack.processor.stop()
        assert time.monotonic() - began < 10
        lines = [json.loads(line) for line in stack.processor.log.read_text().splitlines()]
    told = [line for line in lines if line["event"] == "spans.dropped"]
    assert len(told) == 1
    assert lines[-1]["event"] == "stopped"


async def test_the_end_of_the_process_sends_what_waits(collector: Collector) -> None:
    change = {"tracing": {"otlp": collector.otlp("grpc"), "service": "looper-ending"}}
    async with run_stack(quick_models(), change) as stack:
        trace, headers = context()
        await ask(stack, TEAM, headers)
        await stack.processor.stop()
        assert {span.name for span in collector.spans if span.trace == trace} >= {
            "chat looper/auto",
            "stage final",
        }


async def test_a_run_that_goes_on_in_another_process_has_a_link_to_where_it_began(
    collector: Collector, tmp_path: Path
) -> None:
    """Two processors share a store: the second turn's trace leads back to the first one's, whose process is gone."""
    with tempfile.TemporaryDirectory(prefix="lo-", dir="/tmp") as folder:
        async with run_redis(Path(folder)) as server:
            key = tmp_path / "key"
            key.write_text("k" * 32)
            state = {"type": "redis", "url": server.url, "keys": [{"file": str(key)}]}
            tracing = {"otlp": collector.otlp("http"), "service": "looper-shared"}
            change = team(state=state, tracing=tracing)
            async with run_stack(Simulator(MODELS), change, processors=2) as stack:
                status, _, one = await ask_team(stack, ASKED)
                assert (status, len(calls_of(one))) == (200, 2)
                began = await collector.until(lambda spans: len(turns(spans)) == 1)
                await stop_whoever_answered(stack, turns(began)[0]["looper.run"])
                status, headers, _ = await ask_team(stack, answered(ASKED, one))
                assert status == 200
                spans = await collector.until(lambda spans: len(turns(spans)) == 2)
    start, after = turns(spans)
    assert after["looper.run"] == headers["x-looper-run"]
    assert after["looper.resumes"] == start["looper.run"]
    assert after.links == [(start.trace, start.id)]
    assert after.trace != start.trace
    assert after.resource["service.instance.id"] != start.resource["service.instance.id"]


def turns(spans: list[Seen]) -> list[Seen]:
    return [span for span in spans if (span.service, span.name) == ("looper-shared", "chat team")]


async def stop_whoever_answered(stack: Stack, run: str) -> None:
    """End the process that a run was in, so that another one has to go on with it."""
    for processor in stack.processors:
        if f'"run":"{run}"' in processor.log.read_text():
            await processor.stop()
