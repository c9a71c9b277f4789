"""Envoy's clocks, limits and routes, compared with what the configuration needs of them."""

from collections.abc import Iterator
from typing import Any

from extproc import headers
from extproc.config import Config
from extproc.doctor.dump import Dump, Filter, Route, filters, seconds
from extproc.doctor.findings import Finding
from extproc.generation import generation

_REWRITE = "write Envoy's files again with `looper envoy-config`"
_RESTART = f"{_REWRITE}, and restart Envoy"
_IDLE = 300.0
"""Envoy's own `stream_idle_timeout`, in seconds."""


def examine_envoy(dump: Dump, config: Config) -> Iterator[Finding]:
    """Everything that is to be seen in Envoy's configuration."""
    yield from _generations(dump, config)
    managers = [(manager, _processor(manager)) for manager in dump.managers()]
    found = [(manager, processor) for manager, processor in managers if processor is not None]
    if not found:
        yield Finding("envoy", "processor", "fail", "no listener has an ext_proc filter", _RESTART)
    for manager, processor in found:
        yield from _ingress(manager, processor, dump, config)
    yield from _models(dump, config, [manager for manager, _ in found])


def _processor(manager: dict[str, Any]) -> Filter | None:
    found = (each for each in filters(manager) if each.is_a("ExternalProcessor"))
    return next(found, None)


def _generations(dump: Dump, config: Config) -> Iterator[Finding]:
    ours = generation(config)
    parts: dict[str, set[str]] = {"clusters": dump.cluster_versions}
    parts |= {f"routes {name}": {version} for name, version in dump.route_versions.items()}
    if dump.generation is not None:
        parts["bootstrap"] = {dump.generation}
    for part, versions in parts.items():
        about = f"envoy {part}"
        advice = _RESTART if part == "bootstrap" else _REWRITE
        if versions <= {ours}:
            yield Finding(about, "generation", "ok", ours)
        else:
            others = ", ".join(sorted(versions - {ours}))
            yield Finding(about, "generation", "warn", f"{others}; the file's is {ours}", advice)


# The listener that clients connect to...


def _ingress(
    manager: dict[str, Any], processor: Filter, dump: Dump, config: Config
) -> Iterator[Finding]:
    about = f"envoy listener {manager.get('stat_prefix', '')}".rstrip()
    longest = longest_run(config)
    yield from _mode(about, processor, longest)
    yield from _clocks(about, manager, longest)
    yield _body_limit(about, manager, config)
    yield from _breakers(processor, dump, config)


def longest_run(config: Config) -> float:
    """The longest deadline of a decision, in seconds."""
    decisions = (each for recipe in config.recipes.values() for each in recipe.decisions)
    return max(each.budget.deadline.total_seconds() for each in decisions)


def _mode(about: str, processor: Filter, longest: float) -> Iterator[Finding]:
    settings = processor.typed_config
    mode = settings.get("processing_mode", {}).get("request_body_mode", "NONE")
    if mode not in ("FULL_DUPLEX_STREAMED", "BUFFERED"):
        yield Finding(about, "body mode", "fail", mode, "use FULL_DUPLEX_STREAMED or BUFFERED")
    else:
        yield Finding(about, "body mode", "ok", mode)
    if mode == "BUFFERED":
        patience = seconds(settings.get("message_timeout"), 0.2)
        yield _at_least(about, "message_timeout", patience, longest, disabled=False)
    if settings.get("failure_mode_allow"):
        yield Finding(
            about,
            "failure_mode_allow",
            "warn",
            "true",
            "without the processor no model is chosen: better an error than an answer of nobody",
        )


def _clocks(about: str, manager: dict[str, Any], longest: float) -> Iterator[Finding]:
    idle = seconds(manager.get("stream_idle_timeout"), _IDLE)
    yield _at_least(about, "stream_idle_timeout", idle, longest)
    common = manager.get("common_http_protocol_options", {})
    most = seconds(common.get("max_stream_duration"), 0)
    yield _at_least(about, "max_stream_duration", most, longest)


def _at_least(
    about: str, clock: str, limit: float, longest: float, *, disabled: bool = True
) -> Finding:
    """A clock must not run out before the longest deadline."""
    if disabled and limit == 0:
        return Finding(about, clock, "ok", "none")
    found = f"{limit:g} s; the longest deadline is {longest:g} s"
    if limit > longest:
        return Finding(about, clock, "ok", found)
    advice = f"raise {clock}, or have `budget.deadline` end before it"
    return Finding(about, clock, "fail", found, advice)


def _body_limit(about: str, manager: dict[str, Any], config: Config) -> Finding:
    buffers = [each for each in filters(manager) if each.is_a("Buffer")]
    ours = config.limits.max_body
    if not buffers:
        advice = "nothing but the processor bounds a body: put Envoy's buffer filter before it"
        return Finding(about, "body limit", "warn", "none", advice)
    limit = int(buffers[0].typed_config.get("max_request_bytes", 0))
    found = f"{limit} bytes; `limits.max_body` is {ours}"
    if limit == ours:
        return Finding(about, "body limit", "ok", found)
    return Finding(about, "body limit", "warn", found, _RESTART)


def _breakers(processor: Filter, dump: Dump, config: Config) -> Iterator[Finding]:
    service = processor.typed_config.get("grpc_service", {})
    name = str(service.get("envoy_grpc", {}).get("cluster_name", ""))
    cluster = dump.clusters().get(name)
    about = f"envoy cluster {name}"
    if cluster is None:
        yield Finding(about, "processor", "fail", "there is no such cluster", _RESTART)
        return
    # Each request is a stream: those of teams, and all that are routed beside them.
    yield _room(about, "max_requests", cluster.limits.max_requests, config.limits.max_runs)
    yield _room(about, "max_pending", cluster.limits.max_pending_requests, config.limits.max_runs)
    retries = cluster.limits.max_retries
    if retries >= config.limits.max_runs:
        yield Finding(about, "max_retries", "ok", str(retries))
    else:
        advice = "when a processor restarts, so many requests are tried again, and the rest fail"
        yield Finding(about, "max_retries", "warn", str(retries), advice)


def _room(about: str, limit: str, has: int, runs: int) -> Finding:
    found = f"{has}; `limits.max_runs` is {runs}"
    if has >= runs:
        return Finding(about, limit, "ok", found)
    return Finding(about, limit, "warn", found, f"raise {limit}, or have fewer runs at once")


# ... and the way to each model.


def _models(dump: Dump, config: Config, ingress: list[dict[str, Any]]) -> Iterator[Finding]:
    tables = dump.tables()
    from_clients = {_table(manager) for manager in ingress}
    inside = {name for name, table in tables.items() if _leads_to_models(dump, name)}
    sides = {"ingress": inside & from_clients, "egress": inside - from_clients}
    most = _calls_at_once(config)
    for model in config.models:
        for side, names in sides.items():
            routes = [
                route
                for name in names
                for host in tables[name].virtual_hosts
                for route in host.routes
                if route.model(headers.MODEL) == model.name
            ]
            yield _route(model.name, side, routes, dump, longest_run(config))
        yield from _model_breaker(model.name, sides["egress"], dump, most.get(model.name, 0))


def _table(manager: dict[str, Any]) -> str:
    inline = manager.get("route_config", {})
    return str(manager.get("rds", {}).get("route_config_name") or inline.get("name", ""))


def _leads_to_models(dump: Dump, name: str) -> bool:
    hosts = dump.tables()[name].virtual_hosts
    return any(route.model(headers.MODEL) for host in hosts for route in host.routes)


def _route(model: str, side: str, routes: list[Route], dump: Dump, longest: float) -> Finding:
    check = f"{side} route"
    targets = [route.route for route in routes if route.route is not None]
    if not targets:
        return Finding(model, check, "fail", "Envoy has none", _REWRITE)
    clusters = dump.clusters()
    for target in targets:
        if target.cluster not in clusters:
            advice = "is its key there, and its `url` right? see Envoy's log"
            return Finding(model, check, "fail", "it leads to no cluster", advice)
        timeout = seconds(target.timeout, 15.0)
        if 0 < timeout <= longest:
            found = f"ends after {timeout:g} s; the longest deadline is {longest:g} s"
            return Finding(model, check, "fail", found, "set the route's timeout to 0s")
    return Finding(model, check, "ok", f"to {targets[0].cluster}")


def _calls_at_once(config: Config) -> dict[str, int]:
    """How many calls of one run a model may have to take at once, at the most."""
    most: dict[str, int] = {}
    for recipe in config.recipes.values():
        for decision in recipe.decisions:
            names = [name for call in decision.planned() for name in call.models]
            most |= {name: max(most.get(name, 0), names.count(name)) for name in set(names)}
    return most


def _model_breaker(model: str, egress: set[str], dump: Dump, calls: int) -> Iterator[Finding]:
    clusters = dump.clusters()
    tables = dump.tables()
    for name in sorted(egress):
        for host in tables[name].virtual_hosts:
            for route in host.routes:
                if route.model(headers.MODEL) == model and route.route is not None:
                    cluster = clusters.get(route.route.cluster)
                    if cluster is not None:
                        yield _enough(model, cluster.limits.max_requests, calls)


def _enough(model: str, limit: int, calls: int) -> Finding:
    found = f"{limit} requests at once; one run may make {calls} calls"
    if limit >= calls:
        return Finding(model, "breaker", "ok", found)
    return Finding(model, "breaker", "fail", found, "raise `breaker.max_requests`")
