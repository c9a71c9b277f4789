"""Facts of the process as Prometheus reads them. What Envoy counts, Envoy shows."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from extproc.serving.lag import Lag
from extproc.serving.reload import Reloads
from extproc.serving.versions import Versions
from extproc.statistics import series
from extproc.statistics.series import Series
from extproc.tracing import NONE_DROPPED, Tracer

if TYPE_CHECKING:
    from prometheus_client import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Values = Mapping[tuple[str, ...], float]
"""By the values of the series' labels."""


class Fact(NamedTuple):
    """A series with all its values."""

    series: Series
    values: Values


def facts(versions: Versions, reloads: Reloads, lag: Lag) -> list[Fact]:
    """All there is to tell, as it stands."""
    return [
        *_config(versions, reloads),
        *_load(versions, lag),
        *_ended(versions),
        *_signals(versions),
        *_spans(versions.process.tracer),
    ]


def render(found: Iterable[Fact]) -> bytes:
    """The page that Prometheus reads, with what the system knows of the process. Not for the event loop: the first
    page loads a library, which no command is to wait for, and each reads files.
    """
    from prometheus_client import ProcessCollector, generate_latest
    from prometheus_client.registry import Collector

    class Page(Collector):
        def collect(self) -> "Iterator[Metric]":
            yield from map(_family, found)
            yield from ProcessCollector(registry=None).collect()

    return generate_latest(Page())


def _family(fact: Fact) -> "Metric":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    kind = CounterMetricFamily if fact.series.kind == "counter" else GaugeMetricFamily
    family = kind(fact.series.name, fact.series.about, labels=fact.series.labels)
    for labels, value in fact.values.items():
        family.add_metric(labels, value)
    return family


def _config(versions: Versions, reloads: Reloads) -> Iterator[Fact]:
    yield _one(series.CONFIG_VALID, reloads.is_valid)
    yield Fact(series.CONFIG_GENERATION, {(versions.newest.generation,): 1})
    yield _one(series.CONFIG_ENVOY_STALE, versions.is_stale)
    results: Values = {("ok",): reloads.succeeded, ("refused",): reloads.failed}
    yield Fact(series.CONFIG_RELOADS, results)


def _load(versions: Versions, lag: Lag) -> Iterator[Fact]:
    process, limits = versions.process, versions.newest.runtime.config.limits
    yield _one(series.OPEN_RUNS, process.admission.open)
    yield _one(series.MAX_RUNS, limits.max_runs)
    yield _one(series.WAITING_RUNS, process.admission.waiting)
    yield _one(series.INFLIGHT_BYTES, process.outflow.total)
    yield _one(series.MAX_INFLIGHT_BYTES, limits.max_inflight_bytes)
    yield _one(series.LAG_SECONDS, lag.seconds)


def _ended(versions: Versions) -> Iterator[Fact]:
    tally = versions.process.tally
    yield Fact(series.RUNS, dict(tally.runs))
    yield Fact(series.SPEND_MICROUSD, dict(tally.microusd))
    yield _one(series.EXCHANGES_ABORTED, tally.aborted)
    yield _one(series.IDENTITY_MISSING, tally.unidentified)


def _signals(versions: Versions) -> Iterator[Fact]:
    failures: Values = {
        (recipe, signal): number
        for recipe, policy in versions.newest.runtime.policies.items()
        for signal, number in policy.signals.failures.items()
    }
    yield Fact(series.SIGNAL_FAILURES, failures)
    tally = versions.process.signals
    yield Fact(series.SIGNAL_CALLS, {(model,): number for model, number in tally.calls.items()})
    yield Fact(
        series.SIGNAL_SPEND_MICROUSD,
        {(model,): number for model, number in tally.microusd.items()},
    )


def _spans(tracer: Tracer | None) -> Iterator[Fact]:
    sent, dropped = (0, NONE_DROPPED) if tracer is None else (tracer.sent, tracer.dropped)
    yield _one(series.SPANS_SENT, sent)
    yield Fact(series.SPANS_DROPPED, {(why,): number for why, number in dropped.items()})


def _one(series: Series, value: float) -> Fact:
    return Fact(series, {(): value})
