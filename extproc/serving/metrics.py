"""Facts of the process in Prometheus's text format. What Envoy counts, Envoy shows."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from extproc.process.tally import Labels
from extproc.serving.lag import Lag
from extproc.serving.reload import Reloads
from extproc.serving.versions import Versions

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Series(NamedTuple):
    """One metric with all its values."""

    name: str
    kind: str
    about: str
    values: Iterable[tuple[Labels, float]]


def render(versions: Versions, reloads: Reloads, lag: Lag) -> str:
    """The page that Prometheus reads."""
    return "".join(line for series in _series(versions, reloads, lag) for line in _lines(series))


def _series(versions: Versions, reloads: Reloads, lag: Lag) -> Iterator[Series]:
    yield from _config(versions, reloads)
    process = versions.process
    yield _gauge("looper_open_runs", "Teams at work", process.admission.open)
    yield _gauge("looper_waiting_runs", "Requests that wait for a team", process.admission.waiting)
    yield _gauge(
        "looper_inflight_bytes", "Of answers that clients have yet to read", process.outflow.total
    )
    yield _gauge(
        "looper_event_loop_lag_seconds",
        "The longest wait for a turn, of the last 10 s",
        lag.seconds,
    )
    yield Series("looper_runs_total", "counter", "Runs that ended", process.tally.runs())
    yield Series(
        "looper_spend_microusd_total",
        "counter",
        "What runs cost, by their ledgers",
        process.tally.microusd(),
    )
    yield Series(
        "looper_exchanges_aborted_total",
        "counter",
        "Exchanges broken off without an end",
        [((), process.tally.aborted)],
    )
    yield Series(
        "looper_identity_missing_total",
        "counter",
        "Requests refused since nobody said who asks",
        [((), process.tally.unidentified)],
    )
    yield from _signals(versions)


def _signals(versions: Versions) -> Iterator[Series]:
    tally = versions.process.signals
    yield Series(
        "looper_signal_failures_total",
        "counter",
        "Signals that had no answer, since their configuration is at work",
        [
            ((("recipe", recipe), ("signal", signal)), failures)
            for recipe, policy in versions.newest.runtime.policies.items()
            for signal, failures in policy.signals.failures.items()
        ],
    )
    calls, cost = sorted(tally.calls.items()), sorted(tally.microusd.items())
    yield Series(
        "looper_signal_calls_total",
        "counter",
        "Calls that signals made",
        [((("model", model),), number) for model, number in calls],
    )
    yield Series(
        "looper_signal_spend_microusd_total",
        "counter",
        "What they cost",
        [((("model", model),), number) for model, number in cost],
    )


def _config(versions: Versions, reloads: Reloads) -> Iterator[Series]:
    newest = versions.newest.generation
    yield _gauge("looper_config_valid", "Whether the file on disk can be used", reloads.is_valid)
    yield Series(
        "looper_config_generation",
        "gauge",
        "The configuration at work",
        [((("generation", newest),), 1)],
    )
    yield _gauge(
        "looper_config_envoy_stale",
        "Whether Envoy was last seen with another generation",
        versions.is_stale,
    )
    yield Series(
        "looper_config_reloads_total",
        "counter",
        "New versions of the file",
        [((("result", "ok"),), reloads.succeeded), ((("result", "refused"),), reloads.failed)],
    )


def _gauge(name: str, about: str, value: float) -> Series:
    return Series(name, "gauge", about, [((), value)])


def _lines(series: Series) -> Iterator[str]:
    yield f"# HELP {series.name} {series.about}.\n# TYPE {series.name} {series.kind}\n"
    for labels, value in series.values:
        inside = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels)
        yield f"{series.name}{f'{{{inside}}}' if inside else ''} {float(value):.12g}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
