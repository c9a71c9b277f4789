"""What Envoy counts: access loggers that turn the processor's metadata and the egress calls into statistics."""

from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
from envoy_data_plane.envoy.config.metrics import v3 as metrics
from envoy_data_plane.envoy.extensions.access_loggers.stats import v3 as stats
from envoy_data_plane.envoy.type import v3 as types
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from extproc.bootstrap.messages import pack
from extproc.config import Config
from extproc.decisions.engine import SHADOW, needs, reachable, told_as

_INGRESS = "looper"
_EGRESS = "looper_egress"
_BUCKETS_MS = [
    1,
    5,
    10,
    25,
    50,
    100,
    250,
    500,
    1000,
    2500,
    5000,
    10000,
    30000,
    60000,
    120000,
    300000,
]
_REPORTED = ("prompt_tokens", "completion_tokens", "estimated_tokens", "calls", "cost_microusd")
_CONFIDENCE = "confidence_permille"
_PLAUSIBLE = 1e12
"""What is above this, or negative, is no usage: a counter never recovers from one such number."""

Tags = dict[str, str]


def _known(key: str) -> str:
    return f"%DYNAMIC_METADATA(looper:{key})%"


# Values of labels come from the configuration, or from a closed set: never from a client's request.
_DECIDED: Tags = {key: _known(key) for key in ("decision", "algorithm", "model")}


def config() -> metrics.StatsConfig:
    """Buckets that fit the time a model takes; those of confidence are tenths."""
    return metrics.StatsConfig(
        histogram_bucket_settings=[
            metrics.HistogramBucketSettings(
                match=matcher.StringMatcher(prefix=f"{_INGRESS}.{_CONFIDENCE}"),
                buckets=[100.0 * tenth for tenth in range(1, 11)],
            ),
            metrics.HistogramBucketSettings(
                match=matcher.StringMatcher(prefix=_INGRESS),
                buckets=[float(bucket) for bucket in _BUCKETS_MS],
            ),
        ]
    )


def ingress(config: Config) -> list[accesslog.AccessLog]:
    """Requests, how long they took, and what they used if that is known; metered, also if it could not be.

    Beside that, what each projection found, and which decisions on trial would have answered. How many requests are
    open, Envoy counts by itself: `http.ingress.downstream_rq_active`.
    """
    metered = config.envoy.profile == "metered"
    reported = (*_REPORTED, "unmetered") if metered else _REPORTED
    tags = _DECIDED | {"outcome": _known("outcome"), "code": "%RESPONSE_CODE%"}
    requests = stats.Config(
        stats_scope=_scope(_INGRESS, counters=5000, histograms=500),
        counters=[_count("requests_total", tags)],
        histograms=[_milliseconds("request_ms", {"decision": _known("decision")})],
    )
    return [
        _logger("requests", requests),
        *(_logger(key, _sum(key), _is_reported(key)) for key in reported),
        _confidence(),
        *(_projection(key, name) for key, name in _projections(config)),
        *(_shadow(name) for name in _shadows(config)),
    ]


def _confidence() -> accesslog.AccessLog:
    """How sure teams are of their answers, where they can say."""
    histogram = stats.ConfigHistogram(
        stat=_stat(_CONFIDENCE, {"decision": _known("decision")}), value_format=_known(_CONFIDENCE)
    )
    of_teams = stats.Config(
        stats_scope=_scope(_INGRESS, counters=1, histograms=500), histograms=[histogram]
    )
    return _logger(_CONFIDENCE, of_teams, _is_reported(_CONFIDENCE))


def _projections(config: Config) -> list[tuple[str, str]]:
    """Of all recipes: the key under which the processor tells what a projection found, and its name."""
    steps = (step for recipe in config.recipes.values() for step in needs(recipe)[0].steps)
    return list(dict.fromkeys((told_as(step), step.name) for step in steps))


def _shadows(config: Config) -> list[str]:
    decisions = (each for recipe in config.recipes.values() for each in reachable(recipe))
    return list(dict.fromkeys(decision.name for decision in decisions if decision.shadow))


def _projection(key: str, name: str) -> accesslog.AccessLog:
    tags = {"recipe": _known("recipe"), "projection": name, "found": _known(key)}
    counter = stats.Config(
        stats_scope=_scope(_INGRESS, counters=2000), counters=[_count("projections_total", tags)]
    )
    return _logger(key, counter, _is_known(key, matcher.ValueMatcher(present_match=True)))


def _shadow(name: str) -> accesslog.AccessLog:
    key = f"{SHADOW}.{name}"
    tags = {"recipe": _known("recipe"), "decision": name}
    counter = stats.Config(
        stats_scope=_scope(_INGRESS, counters=2000), counters=[_count("shadow_total", tags)]
    )
    return _logger(key, counter, _is_reported(key))


def egress() -> list[accesslog.AccessLog]:
    """Calls by model and role, which are both the processor's word, and how long they took."""
    model = {"model": "%ROUTE_NAME%"}
    tags = model | {
        "role": _known("role"),
        "code": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
    }
    calls = stats.Config(
        stats_scope=_scope(_EGRESS, counters=5000, histograms=500),
        counters=[_count("calls_total", tags)],
        histograms=[_milliseconds("call_ms", model)],
    )
    return [_logger("calls", calls)]


def _sum(key: str) -> stats.Config:
    counter = stats.ConfigCounter(stat=_stat(f"{key}_total", _DECIDED), value_format=_known(key))
    return stats.Config(stats_scope=_scope(_INGRESS, counters=2000), counters=[counter])


def _scope(prefix: str, *, counters: int, histograms: int = 0) -> types.Scope:
    """A bound on series, should labels ever multiply; those unused since the last eviction make room."""
    return types.Scope(
        prefix=prefix, max_counters=counters, max_histograms=histograms, enable_eviction=True
    )


def _count(name: str, tags: Tags) -> stats.ConfigCounter:
    return stats.ConfigCounter(stat=_stat(name, tags), value_fixed=1)


def _milliseconds(name: str, tags: Tags) -> stats.ConfigHistogram:
    return stats.ConfigHistogram(
        stat=_stat(name, tags),
        unit=stats.ConfigHistogramUnit.Milliseconds,
        value_format="%DURATION%",
    )


def _stat(name: str, tags: Tags) -> stats.ConfigStat:
    return stats.ConfigStat(
        name=name,
        tags=[stats.ConfigTag(name=tag, value_format=value) for tag, value in tags.items()],
    )


def _logger(
    name: str, config: stats.Config, only: accesslog.AccessLogFilter | None = None
) -> accesslog.AccessLog:
    return accesslog.AccessLog(name=f"looper.{name}", filter=only, typed_config=pack(config))


def _is_reported(key: str) -> accesslog.AccessLogFilter:
    """Without this, Envoy logs an error for each request that has no such number, and -1 becomes 2^64-1."""
    number = matcher.DoubleMatcher(range=types.DoubleRange(start=0, end=_PLAUSIBLE))
    return _is_known(key, matcher.ValueMatcher(double_match=number))


def _is_known(key: str, value: matcher.ValueMatcher) -> accesslog.AccessLogFilter:
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
