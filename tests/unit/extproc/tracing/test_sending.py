"""Spans are sent beside everything else: who makes them never waits, and what is lost is counted and said once."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from structlog.testing import capture_logs

from extproc.config.tracing import ProcessorCollector, TracingSettings
from extproc.errors import ConfigError
from extproc.tracing import Told
from extproc.tracing.opening import opened
from extproc.tracing.sending import Sending
from extproc.tracing.spans import SpanTracer
from tests.fakes.certificates import certify
from tests.fakes.collector import Collector, run_collector

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Exporter(SpanExporter):
    """Takes spans when it may, or fails; `given` are the sizes of what it was given."""

    def __init__(self, *results: SpanExportResult | Exception) -> None:
        self.may = threading.Event()
        self.given: list[int] = []
        self._results = list(results)
        self.is_shut = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.given.append(len(spans))
        self.may.wait(20)
        result = self._results.pop(0) if self._results else SpanExportResult.SUCCESS
        if isinstance(result, Exception):
            raise result
        return result

    def shutdown(self) -> None:
        self.is_shut = True
        self.may.set()


def settings(**members: Any) -> TracingSettings:
    return TracingSettings.model_validate(
        {"otlp": {"endpoint": "http://127.0.0.1:4317"}, **members}
    )


def end_exchanges(tracer: SpanTracer, count: int) -> None:

    for _ in range(count):
        tracer.begin({}).end(Told(method="GET", path="other", end="answered", facts={}))


def until(holds: Any) -> None:
    ends = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.005)


def test_a_collector_that_hangs_holds_nobody_up_and_what_has_no_room_is_counted() -> None:
    """The queue is bounded; the first that is lost is told of, and the next ones are not."""
    exporter = Exporter()
    sending = Sending(exporter, 100, delay=0.01)
    tracer = SpanTracer(settings(), sending)
    with capture_logs() as logs:
        end_exchanges(tracer, 1)
        until(lambda: exporter.given == [1])  # which hangs from now on
        end_exchanges(tracer, 150)
        assert tracer.dropped == {"queue": 50, "export": 0, "end": 0}
        end_exchanges(tracer, 10)
        assert tracer.dropped["queue"] == 60
    assert [(each["event"], each["why"]) for each in logs] == [("spans.dropped", "queue")]
    exporter.may.set()
    tracer.close()
    assert tracer.sent == 101
    assert exporter.is_shut


@pytest.mark.parametrize(
    "failure", [SpanExportResult.FAILURE, ZeroDivisionError()], ids=["refused", "crashed"]
)
def test_what_a_collector_does_not_take_is_counted_and_the_next_goes_on(failure: Any) -> None:
    exporter = Exporter(failure)
    exporter.may.set()
    tracer = SpanTracer(settings(), Sending(exporter, 100, delay=0.01))
    with capture_logs() as logs:
        end_exchanges(tracer, 3)
        until(lambda: tracer.dropped["export"] == sum(exporter.given) > 0)
    assert len(logs) == 1
    lost = tracer.dropped["export"]
    end_exchanges(tracer, 4)
    tracer.close()
    assert (lost, tracer.sent) == (3, 4) or lost + tracer.sent == 7


def test_the_end_sends_what_waits() -> None:
    exporter = Exporter()
    exporter.may.set()
    tracer = SpanTracer(settings(), Sending(exporter, 5000, delay=100))
    end_exchanges(tracer, 1300)
    tracer.close()
    assert (tracer.sent, sum(tracer.dropped.values())) == (1300, 0)
    assert max(exporter.given) <= 512


def test_the_end_does_not_wait_for_ever() -> None:
    """Nor does the process: what could not be sent by then is lost, and counted."""
    exporter = Exporter()
    tracer = SpanTracer(settings(flush="50ms"), Sending(exporter, 5000, delay=0.01))
    end_exchanges(tracer, 600)
    until(lambda: bool(exporter.given))
    began = time.monotonic()
    tracer.close()
    assert time.monotonic() - began < 5
    assert tracer.dropped["end"] == 600 - exporter.given[0]
    end_exchanges(tracer, 1)
    assert tracer.dropped["end"] == 601 - exporter.given[0]


@pytest_asyncio.fixture
async def collector() -> AsyncIterator[Collector]:
    async with run_collector() as running:
        yield running


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_a_real_receiver_gets_them_with_our_headers(
    collector: Collector, protocol: str, tmp_path: Any
) -> None:
    (tmp_path / "tenant").write_text("acme\n")
    headers = {"authorization": {"env": "TOKEN"}, "x-tenant": {"file": f"{tmp_path}/tenant"}}
    given = settings(otlp={**collector.otlp(protocol), "headers": headers}, service="here")
    async with opened(given, {"TOKEN": "Bearer t"}) as tracer:
        assert isinstance(tracer, SpanTracer)
        span = tracer.begin({"traceparent": TRACEPARENT})

        span.end(Told(method="GET", path="/v1/models", end="answered", facts={"run": "r"}))
    (seen,) = collector.spans
    assert (seen.service, seen.name, seen["looper.run"]) == ("here", "GET /v1/models", "r")
    assert (seen.trace, seen.parent) == tuple(TRACEPARENT.split("-")[1:3])
    (sent,) = collector.metadata
    assert (sent["authorization"], sent["x-tenant"]) == ("Bearer t", "acme")
    assert tracer.sent == 1


@pytest.mark.parametrize("name", ["IP:127.0.0.1", "DNS:other.example"], ids=["ours", "other"])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_over_tls_spans_go_to_whom_they_are_meant_for(
    protocol: str, name: str, tmp_path: Path
) -> None:
    """A certificate by the roots that are set, made out to the host; to anybody else nothing goes."""
    certify(tmp_path, "server", name)
    async with run_collector(tmp_path) as collector:
        otlp = {**collector.otlp(protocol), "ca": f"{tmp_path}/ca.pem"}
        async with opened(settings(otlp=otlp, flush="2s"), {}) as tracer:
            assert isinstance(tracer, SpanTracer)
            end_exchanges(tracer, 1)
        assert len(collector.spans) == tracer.sent == (name == "IP:127.0.0.1")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_a_receiver_that_does_not_answer_costs_a_bounded_end(
    collector: Collector, protocol: str
) -> None:
    collector.silent = True
    given = settings(otlp=collector.otlp(protocol), flush="100ms")
    began = asyncio.get_running_loop().time()
    async with opened(given, {}) as tracer:
        assert isinstance(tracer, SpanTracer)
        end_exchanges(tracer, 10)
    assert asyncio.get_running_loop().time() - began < 5
    assert tracer.sent == 0


async def test_a_secret_that_is_not_there_is_a_problem() -> None:
    given = settings(
        otlp={"endpoint": "http://c:4317", "headers": {"authorization": {"env": "TOKEN"}}}
    )
    with pytest.raises(ConfigError, match=r"tracing\.otlp\.headers\.authorization: TOKEN is not"):
        async with opened(given, {}):
            pass


async def test_without_settings_there_is_no_tracer() -> None:
    async with opened(None, {}) as tracer:
        assert tracer is None


def test_an_address_that_nobody_listens_at_is_no_problem_of_the_start() -> None:
    """A collector may come later."""
    collector = ProcessorCollector(endpoint="http://127.0.0.1:1")
    assert collector.url == "http://127.0.0.1:1"
