"""Files for an Envoy that is older: what it lacks is left out, and said."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from extproc.config.envoy_versions import BOUNDED, GAUGES, Feature

_STATS = "type.googleapis.com/envoy.extensions.access_loggers.stats.v3.Config"


def fit(files: Mapping[str, Any], version: str) -> list[str]:
    """Change files into what this version takes. What was left out, in words."""
    left_out = []
    for feature, leave_out in _CHANGES:
        if feature.is_in(version):
            continue
        changed = [leave_out(loggers) for loggers in _access_logs(files)]
        if any(changed):
            left_out.append(f"{feature.name}, since {feature.since}: {feature.lost}")
    return left_out


def _without_bounds(loggers: list[Any]) -> bool:
    """A scope's prefix had a member of its own before."""
    scopes = [
        (each, each.pop("stats_scope")) for each in _of_stats(loggers) if "stats_scope" in each
    ]
    for config, scope in scopes:
        config["stat_prefix"] = scope.get("prefix", "")
    return bool(scopes)


def _without_gauges(loggers: list[Any]) -> bool:
    found = [each.pop("gauges") for each in _of_stats(loggers) if "gauges" in each]
    # One that counts nothing more is refused.
    loggers[:] = [each for each in loggers if _counts(each.get("typed_config", {}))]
    return bool(found)


def _counts(config: Mapping[str, Any]) -> bool:
    return config.get("@type") != _STATS or "counters" in config or "histograms" in config


def _of_stats(loggers: list[Any]) -> Iterator[dict[str, Any]]:
    for each in loggers:
        if each.get("typed_config", {}).get("@type") == _STATS:
            yield each["typed_config"]


def _access_logs(node: Any) -> Iterator[list[Any]]:
    """The access loggers of every listener, wherever they are."""
    match node:
        case dict():
            for key, value in node.items():
                if key == "access_log":
                    yield value
                else:
                    yield from _access_logs(value)
        case list():
            for value in node:
                yield from _access_logs(value)
        case _:
            pass


_CHANGES: tuple[tuple[Feature, Callable[[list[Any]], bool]], ...] = (
    (BOUNDED, _without_bounds),
    (GAUGES, _without_gauges),
)
