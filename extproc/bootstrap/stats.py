"""What Envoy counts: access loggers that turn the processor's metadata and the egress calls into statistics.

Names, labels and bounds are those of `extproc.statistics`; where the values come from stands here.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.metrics import v3 as metrics
from envoy_data_plane.envoy.extensions.access_loggers.stats import v3 as stats
from envoy_data_plane.envoy.type import v3 as types
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from extproc.bootstrap.messages import pack
from extproc.config import Config
from extproc.decisions.engine import SHADOW, needs, reachable, told_as
from extproc.statistics import series
from extproc.statistics.series import Kind, Series

_PREFIXES = {"ingress": "looper", "egress": "looper_egress"}
_BUCKETS_MS = [
    *(10, 25, 50, 100, 250, 500),
    *(1_000, 2_500, 5_000, 10_000, 20_000, 30_000),
    *(60_000, 120_000, 300_000, 600_000),
]
"""From what hardly counts to the longest that anybody lets a team think."""

_REPORTED = {
    "prompt_tokens": series.PROMPT_TOKENS,
    "completion_tokens": series.COMPLETION_TOKENS,
    "estimated_tokens": series.ESTIMATED_TOKENS,
    "calls": series.CALLS,
    "cost_microusd": series.COST_MICROUSD,
}
"""Numbers that are known of requests, and where they are added up."""

_PLAUSIBLE = 1e12
"""What is above this, or negative, is no usage: a counter never recovers from one such number."""

_TRIES = "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"

Values = dict[str, str]
"""Of labels. They come from the configuration, or from a closed set: never from a client's request."""


def _known(key: str) -> str:
    return f"%DYNAMIC_METADATA(looper:{key})%"


_TOLD = ("decision", "algorithm", "model", "outcome", "recipe", "error", "tenant")
_INGRESS: Values = {
    **{label: _known(label) for label in _TOLD},
    "reason": _known("degraded_by"),
    "end": _known("contract_breach"),
    "code": "%RESPONSE_CODE%",
}
_EGRESS: Values = {
    "model": "%ROUTE_NAME%",
    "role": _known("role"),
    "code": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
}


def config() -> metrics.StatsConfig:
    """Buckets that fit the time a model takes; those of confidence are tenths."""
    confidence = f"{_PREFIXES['ingress']}.{_own_name(series.CONFIDENCE_PERMILLE)}"
    return metrics.StatsConfig(
        histogram_bucket_settings=[
            metrics.HistogramBucketSettings(
                match=matcher.StringMatcher(prefix=confidence),
                buckets=[100.0 * tenth for tenth in range(1, 11)],
            ),
            metrics.HistogramBucketSettings(
                match=matcher.StringMatcher(prefix=_PREFIXES["ingress"]),
                buckets=[float(bucket) for bucket in _BUCKETS_MS],
            ),
        ]
    )


def ingress(config: Config) -> list[accesslog.AccessLog]:
    """Requests, how long they took, what they used, what became of them, and what was found on the way.

    How many are open, Envoy counts by itself. What not every request has is counted only where it is known: without
    a number Envoy would log an error each time.
    """
    reported = dict(_REPORTED)
    if config.envoy.profile == "metered":
        reported["unmetered"] = series.UNMETERED
    return [
        _logger(
            _count(series.REQUESTS, _INGRESS),
            _milliseconds(series.REQUEST_MS, _INGRESS, "%DURATION%"),
        ),
        *_first_token(),
        *(
            _logger(_count(each, _INGRESS, _known(key)), only=_is_number(key))
            for key, each in reported.items()
        ),
        *(_tokens(role) for role in _roles(config)),
        _logger(_count(series.ATTEMPTS, _INGRESS, _TRIES), only=_is_known("model")),
        _logger(_count(series.DEGRADATIONS, _INGRESS), only=_is_known("degraded_by")),
        _logger(_count(series.CONTRACT_VIOLATIONS, _INGRESS), only=_is_known("contract_breach")),
        _logger(_count(series.ERRORS, _INGRESS), only=_is_known("error")),
        _confidence(),
        *(_projection(key, name) for key, name in _projections(config)),
        *(_shadow(name) for name in _shadows(config)),
        *(_by_tenant() if config.tenancies() else ()),
    ]


def egress() -> list[accesslog.AccessLog]:
    """Calls by model and role, which are both the processor's word, how often Envoy tried, and how long they took."""
    return [
        _logger(
            _count(series.EGRESS_CALLS, _EGRESS),
            _count(series.EGRESS_ATTEMPTS, _EGRESS, _TRIES),
            _milliseconds(series.EGRESS_CALL_MS, _EGRESS, "%DURATION%"),
        )
    ]


# What is known of some requests only...


def _first_token() -> Iterator[accesslog.AccessLog]:
    """Of a team's answer the processor tells when it began; of a routed one Envoy sees its first byte."""
    key, first_byte = "first_token_ms", "%COMMON_DURATION(DS_RX_BEG:US_RX_BODY_BEG:ms)%"
    answered = accesslog.AccessLogFilter(
        status_code_filter=accesslog.StatusCodeFilter(
            comparison=accesslog.ComparisonFilter(
                op=accesslog.ComparisonFilterOp.EQ,
                value=core.RuntimeUInt32(default_value=200, runtime_key="looper.answered"),
            )
        )
    )
    streamed = accesslog.AndFilter(filters=[_is_number("streamed"), answered])
    for value, only in (
        (_known(key), _is_number(key)),
        (first_byte, accesslog.AccessLogFilter(and_filter=streamed)),
    ):
        yield _logger(_milliseconds(series.FIRST_TOKEN_MS, _INGRESS, value), only=only)


def _tokens(role: str) -> accesslog.AccessLog:
    """A team's calls are of several roles, and a logger has one value for each label of a request."""
    counters = [
        _count(
            series.ROLE_TOKENS,
            {**_INGRESS, "role": role, "kind": kind},
            _known(f"{kind}_tokens.{role}"),
        )
        for kind in ("prompt", "completion")
    ]
    return _logger(*counters, only=_is_number(f"prompt_tokens.{role}"))


def _roles(config: Config) -> list[str]:
    """What teams' calls can be for. A client may bring a contract of its own, and that a repair."""
    decisions = [each for recipe in config.recipes.values() for each in recipe.decisions]
    planned = {call.role for each in decisions if each.loop for call in each.planned()}
    return sorted({*planned, "repair"} if planned else ())


def _by_tenant() -> Iterator[accesslog.AccessLog]:
    """A request of which it is not known whose it was has come to no entrypoint that tells them apart."""
    yield _logger(_count(series.TENANT_REQUESTS, _INGRESS), only=_is_known("tenant"))
    amounts = {f"{kind}_tokens": {"kind": kind} for kind in ("prompt", "completion")}
    for key, labels in amounts.items():
        count = _count(series.TENANT_TOKENS, {**_INGRESS, **labels}, _known(key))
        yield _logger(count, only=_both(_is_known("tenant"), _is_number(key)))
    key = "cost_microusd"
    count = _count(series.TENANT_COST_MICROUSD, _INGRESS, _known(key))
    yield _logger(count, only=_both(_is_known("tenant"), _is_number(key)))


def _both(*filters: accesslog.AccessLogFilter) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(and_filter=accesslog.AndFilter(filters=[*filters]))


def _confidence() -> accesslog.AccessLog:
    """How sure teams are of their answers, where they can say."""
    each, key = series.CONFIDENCE_PERMILLE, "confidence_permille"
    histogram = stats.ConfigHistogram(stat=_stat(each, _INGRESS), value_format=_known(key))
    return _logger(Measure(each, histogram), only=_is_number(key))


def _projections(config: Config) -> list[tuple[str, str]]:
    """Of all recipes: the key under which the processor tells what a projection found, and its name."""
    steps = (step for recipe in config.recipes.values() for step in needs(recipe)[0].steps)
    return list(dict.fromkeys((told_as(step), step.name) for step in steps))


def _projection(key: str, name: str) -> accesslog.AccessLog:
    values = {**_INGRESS, "projection": name, "found": _known(key)}
    return _logger(_count(series.PROJECTIONS, values), only=_is_known(key))


def _shadows(config: Config) -> list[str]:
    decisions = (each for recipe in config.recipes.values() for each in reachable(recipe))
    return list(dict.fromkeys(decision.name for decision in decisions if decision.shadow))


def _shadow(name: str) -> accesslog.AccessLog:
    values = {**_INGRESS, "decision": name}
    return _logger(_count(series.SHADOW, values), only=_is_number(f"{SHADOW}.{name}"))


# ... and how all of it is counted.


class Measure(NamedTuple):
    """A series, and how Envoy is told to count it."""

    series: Series
    message: stats.ConfigCounter | stats.ConfigHistogram


def _count(each: Series, values: Values, value: str | None = None) -> Measure:
    """Adds a value, or one."""
    stat = _stat(each, values)
    if value is None:
        return Measure(each, stats.ConfigCounter(stat=stat, value_fixed=1))
    return Measure(each, stats.ConfigCounter(stat=stat, value_format=value))


def _milliseconds(each: Series, values: Values, value: str) -> Measure:
    unit = stats.ConfigHistogramUnit.Milliseconds
    histogram = stats.ConfigHistogram(stat=_stat(each, values), unit=unit, value_format=value)
    return Measure(each, histogram)


def _stat(each: Series, values: Values) -> stats.ConfigStat:
    return stats.ConfigStat(
        name=_own_name(each),
        tags=[stats.ConfigTag(name=label, value_format=values[label]) for label in each.labels],
    )


def _own_name(each: Series) -> str:
    """The name among its listener's."""
    return each.name.removeprefix(f"envoy_{_PREFIXES[each.origin]}_")


def _logger(
    *measures: Measure, only: accesslog.AccessLogFilter | None = None
) -> accesslog.AccessLog:
    """Counts these of each request, or only of some.

    There is a bound on its series, should labels ever multiply; those unused since the last eviction make room.
    """
    first = measures[0].series
    messages = [each.message for each in measures]
    config = stats.Config(
        stats_scope=types.Scope(
            prefix=_PREFIXES[first.origin],
            max_counters=_most(measures, "counter"),
            max_histograms=_most(measures, "histogram"),
            enable_eviction=True,
        ),
        counters=[each for each in messages if isinstance(each, stats.ConfigCounter)],
        histograms=[each for each in messages if isinstance(each, stats.ConfigHistogram)],
    )
    name = f"looper.{_own_name(first).removesuffix('_total')}"
    return accesslog.AccessLog(name=name, filter=only, typed_config=pack(config))


def _most(measures: Sequence[Measure], kind: Kind) -> int | None:
    """How many series of a kind there may come to be."""
    counted = {each.series for each in measures if each.series.kind == kind}
    return sum(each.most or 0 for each in counted) or None


def _is_number(key: str) -> accesslog.AccessLogFilter:
    """Without this, Envoy logs an error for each request that has no such number, and -1 becomes 2^64-1."""
    number = matcher.DoubleMatcher(range=types.DoubleRange(start=0, end=_PLAUSIBLE))
    return _told(key, matcher.ValueMatcher(double_match=number))


def _is_known(key: str) -> accesslog.AccessLogFilter:
    return _told(key, matcher.ValueMatcher(present_match=True))


def _told(key: str, value: matcher.ValueMatcher) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(
        metadata_filter=accesslog.MetadataFilter(
            matcher=matcher.MetadataMatcher(
                filter="looper",
                path=[matcher.MetadataMatcherPathSegment(key=key)],
                value=value,
            ),
            match_if_key_not_found=False,
        )
    )
