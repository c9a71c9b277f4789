"""Single parts of Envoy's configuration, with what is essential in them and what is not: for who writes the rest.

A fragment is YAML whose top-level keys say where it belongs. It refers to no file of ours: routes stand in it, and
secrets are named as Envoy's own.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from extproc.bootstrap import (
    certificates,
    credentials,
    ingress,
    older,
    overlay,
    routes,
    stats,
    tracing,
)
from extproc.bootstrap.annotated import annotated, remark
from extproc.bootstrap.clusters import model_cluster
from extproc.bootstrap.egress import egress
from extproc.bootstrap.files import DAY, data, runtime
from extproc.bootstrap.messages import seconds
from extproc.bootstrap.notes import ABOUT, NOTES
from extproc.bootstrap.processors import processors
from extproc.config import Config
from extproc.process.generation import announcement, generation, reach

Made = dict[str, Any]


def fragment(name: str, config: Config) -> str:
    """The fragment of this name. Raises ConfigError for a file of the operator's that is not there."""
    config = config.model_copy(update={"models": config.upstreams()})
    made = FRAGMENTS[name](config)
    lacking = older.fit(made, config.envoy.version)
    head = [
        f"From `looper envoy-config --fragment {name}`, generation {generation(config)}.",
        ABOUT[name],
        *(f"Left out for Envoy {config.envoy.version}: {each}" for each in lacking),
    ]
    return "".join(f"{line}\n" for each in head for line in remark(each)) + annotated(
        made, NOTES[name]
    )


def _filter(config: Config) -> Made:
    return {"layered_runtime": data(runtime()), "http_filters": [data(ingress.processor(config))]}


def _http_filters(config: Config) -> Made:
    manager = _manager(config)
    overlay.put_filters(manager["http_filters"], config)
    settings = {key: value for key, value in manager.items() if key not in _ELSEWHERE}
    return {"layered_runtime": data(runtime()), "http_connection_manager": settings}


_ELSEWHERE = ("rds", "access_log", "access_log_options", "stat_prefix")
"""What other fragments have, or what is the operator's to say."""


def _routes(config: Config) -> Made:
    table = data(routes.ingress(config, announcement(generation(config), reach(config))))
    chain = [each["name"] for each in _manager(config)["http_filters"]]
    overlay.put_routes(table, config, chain)
    return {"route_config": table}


def _clusters(config: Config) -> Made:
    ours = [model for model in config.models if model.cluster is None]
    made = (
        processors(config),
        *tracing.clusters(config),
        *(model_cluster(each, None) for each in ours),
    )
    resources: Made = {"clusters": [data(each) for each in made]}
    if secrets := list(_secrets(config)):
        resources["secrets"] = secrets
    return {"static_resources": resources}


def _secrets(config: Config) -> Iterator[Any]:
    yield from (data(each) for each in credentials.from_environment(config))
    yield from (data(credentials.from_file(path)) for path in credentials.files(config))
    yield from (data(pair.secret()) for pair in certificates.pairs(config))


def _egress(config: Config) -> Made:
    listener = data(egress(config, "/"))
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager.pop("rds")
    manager["route_config"] = data(routes.egress(config))
    return {"static_resources": {"listeners": [listener]}}


def _stats(config: Config) -> Made:
    manager = _manager(config)
    wanted = {key: manager[key] for key in ("access_log_options", "access_log") if key in manager}
    return {
        "stats_config": data(stats.config()),
        "stats_eviction_interval": f"{seconds(DAY).total_seconds():.0f}s",
        "http_connection_manager": wanted,
    }


def _manager(config: Config) -> Made:
    manager: Made = data(ingress.manager(config, "/"))
    return manager


FRAGMENTS: Mapping[str, Callable[[Config], Made]] = {
    "filter": _filter,
    "http-filters": _http_filters,
    "routes": _routes,
    "clusters": _clusters,
    "egress": _egress,
    "stats": _stats,
}
