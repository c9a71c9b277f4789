"""An operator's own filters, access loggers, routes and clusters, laid into the files as they were written.

They are not read as Envoy's messages, so that whatever an Envoy takes can stand in them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from extproc.bootstrap.processors import FILTER
from extproc.bootstrap.routes import BUFFER, CORS, FIRST_READ, USAGE
from extproc.config import Config
from extproc.config.overlay import Entries, Entry
from extproc.errors import ConfigError

_ROUTE = "type.googleapis.com/envoy.config.route.v3"
_PROCESSOR = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"
_ASLEEP: Mapping[str, Entry] = {
    FILTER: {"@type": _PROCESSOR, "disabled": True},
    # What these hold back, they hold for the processor's sake, or for the usage of a model's answer.
    BUFFER: {"@type": f"{_ROUTE}.FilterConfig", "disabled": True},
    USAGE: {"@type": f"{_ROUTE}.FilterConfig", "disabled": True},
}
"""Filters of ours, which requests of an operator's own routes do not pass."""


def lay(files: Mapping[str, Any], config: Config) -> None:
    """Put everything in its place. Raises ConfigError for a file that is not there."""
    theirs = config.envoy
    resources = files["bootstrap.yaml"]["static_resources"]
    manager = ingress_manager(files["bootstrap.yaml"])
    resources["clusters"] += _content(theirs.clusters)
    put_filters(manager["http_filters"], config)
    _put_loggers(manager, _content(theirs.access_log))
    (table,) = files["rds-ingress.yaml"]["resources"]
    chain = [each["name"] for each in manager["http_filters"]]
    put_routes(table, config, chain)


def ingress_manager(bootstrap: Entry) -> Entry:
    """The HTTP connection manager of the listener that clients connect to."""
    (listener,) = (
        each for each in bootstrap["static_resources"]["listeners"] if each["name"] == "ingress"
    )
    manager: Entry = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


def _content(entries: Entries | None) -> list[Entry]:
    if entries is None:
        return []
    if entries.content is None:
        raise ConfigError([f"{entries.path}: cannot be read: it is not there"])
    return list(entries.content)


def put_filters(chain: list[Entry], config: Config) -> None:
    """Before ours, so that nobody is let through to a model whom they refuse; behind CORS, whose pages read why."""
    behind = 1 if chain[0]["name"] == CORS else 0
    chain[behind:behind] = _content(config.envoy.filters)


def _put_loggers(manager: Entry, theirs: Sequence[Entry]) -> None:
    """Where a request is logged at its beginning, too, for our statistics, they still hear of its end alone."""
    options = manager.get("access_log_options", {})
    if options.get("flush_access_log_on_new_request"):
        theirs = [_at_the_end(each) for each in theirs]
    manager.setdefault("access_log", []).extend(theirs)


def _at_the_end(logger: Entry) -> Entry:
    end = {"log_type_filter": {"types": ["DownstreamEnd"]}}
    if "filter" not in logger:
        return {**logger, "filter": end}
    return {**logger, "filter": {"and_filter": {"filters": [end, logger["filter"]]}}}


def put_routes(table: Entry, config: Config, chain: Sequence[str]) -> None:
    """Routes behind those of models, which ask for a header that only the processor sets; hosts beside ours."""
    theirs = _content(config.envoy.routes)
    (host,) = table["virtual_hosts"]
    names = [each["name"] for each in host["routes"]]
    at = names.index(FIRST_READ)
    host["routes"][at:at] = [_passing_by(each, chain) for each in theirs if "domains" not in each]
    table["virtual_hosts"] += [_passing_by(each, chain) for each in theirs if "domains" in each]


def _passing_by(entry: Entry, chain: Sequence[str]) -> Entry:
    """The processor hears of nothing that it does not answer, unless its filter is named here."""
    settings = entry.get("typed_per_filter_config", {})
    if FILTER in settings or any(FILTER in each for each in _below(entry)):
        return entry
    asleep = {name: dict(each) for name, each in _ASLEEP.items() if name in chain}
    return {**entry, "typed_per_filter_config": {**asleep, **settings}}


def _below(entry: Entry) -> Iterator[Entry]:
    for route in entry.get("routes", ()):
        yield route.get("typed_per_filter_config", {})
