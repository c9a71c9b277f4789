"""Files for an Envoy that is older: what it lacks is left out, and said."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from extproc.config.envoy_versions import BOUNDED, GAUGES, LOCAL, TRIMMED, Feature

_STATS = "type.googleapis.com/envoy.extensions.access_loggers.stats.v3.Config"


def fit(files: Mapping[str, Any], version: str) -> list[str]:
    """Change files into what this version takes. What was left out, or is to be heeded, in words."""
    left_out = []
    for feature, leave_out in _CHANGES:
        if not feature.is_in(version) and leave_out(files):
            left_out.append(f"{feature.name}, since {feature.since}: {feature.lost}")
    return left_out


def _of_loggers(leave_out: Callable[[list[Any]], bool]) -> Callable[[Mapping[str, Any]], bool]:
    """The same for every listener."""

    def from_all(files: Mapping[str, Any]) -> bool:
        changed = [leave_out(loggers) for loggers in _found(files, "access_log")]
        return any(changed)

    return from_all


def _keys_in_files(files: Mapping[str, Any]) -> bool:
    """Nothing can be left out; whoever writes those files has to know."""
    return any("filename" in each.get("secret", {}) for each in _found(files, "generic_secret"))


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


def _without_local(files: Mapping[str, Any]) -> bool:
    """A condition of two, of which the second stays."""
    changed = False
    for matcher in _found(files, "custom_response_matcher"):
        for each in matcher["matcher_list"]["matchers"]:
            if both := each["predicate"].get("and_matcher"):
                _, each["predicate"] = both["predicate"]
                changed = True
    return changed


def _counts(config: Mapping[str, Any]) -> bool:
    return config.get("@type") != _STATS or "counters" in config or "histograms" in config


def _of_stats(loggers: list[Any]) -> Iterator[dict[str, Any]]:
    for each in loggers:
        if each.get("typed_config", {}).get("@type") == _STATS:
            yield each["typed_config"]


def _found(node: Any, key: str) -> Iterator[Any]:
    """Everything under this key, wherever it is."""
    match node:
        case dict():
            for name, value in node.items():
                if name == key:
                    yield value
                else:
                    yield from _found(value, key)
        case list():
            for value in node:
                yield from _found(value, key)
        case _:
            pass


_CHANGES: tuple[tuple[Feature, Callable[[Mapping[str, Any]], bool]], ...] = (
    (TRIMMED, _keys_in_files),
    (LOCAL, _without_local),
    (BOUNDED, _of_loggers(_without_bounds)),
    (GAUGES, _of_loggers(_without_gauges)),
)
