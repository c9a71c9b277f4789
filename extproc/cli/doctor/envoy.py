"""Envoy's clocks, limits and routes, compared with what the configuration needs of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from extproc import headers
from extproc.cli.doctor.dump import Dump, Filter, Manager, Route, Routes, seconds
from extproc.cli.doctor.findings import Finding
from extproc.config import Config
from extproc.process.generation import generation

_REWRITE = "write Envoy's files again with `looper envoy-config`"
_RESTART = f"{_REWRITE}, and restart Envoy"
_PROCESSOR = "ExternalProcessor"
_IDLE = 300.0
"""Envoy's own `stream_idle_timeout`, in seconds."""


def examine_envoy(dump: Dump, config: Config) -> Iterator[Finding]:
    """Everything that is to be seen in Envoy's configuration."""
    yield from _generations(dump, config)
    managers = list(dump.managers())
    ingress = [(each, found) for each in managers if (found := each.first(_PROCESSOR)) is not None]
    if not ingress:
        yield Finding("envoy", "processor", "fail", "no listener has an ext_proc filter", _RESTART)
    for manager, processor in ingress:
        yield from _ingress(manager, processor, dump, config)
    sides = _Sides.of(dump, managers)
    for manager in sides.egress:
        yield from _clocks(f"envoy listener {manager.name}", manager, longest_run(config))
    yield from _models(dump, config, sides)


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


def _ingress(manager: Manager, processor: Filter, dump: Dump, config: Config) -> Iterator[Finding]:
    about = f"envoy listener {manager.name}".rstrip()
    longest = longest_run(config)
    yield from _mode(about, processor, longest)
    yield from _clocks(about, manager, longest)
    yield _body_limit(about, manager, config)
    yield _buffer(about, manager, dump, config)
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


def _clocks(about: str, manager: Manager, longest: float) -> Iterator[Finding]:
    idle = seconds(manager.settings.get("stream_idle_timeout"), _IDLE)
    yield _at_least(about, "stream_idle_timeout", idle, longest)
    common = manager.settings.get("common_http_protocol_options", {})
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


def _body_limit(about: str, manager: Manager, config: Config) -> Finding:
    buffer = manager.first("Buffer")
    ours = config.limits.max_body
    if buffer is None:
        advice = "nothing but the processor bounds a body: put Envoy's buffer filter before it"
        return Finding(about, "body limit", "warn", "none", advice)
    limit = int(buffer.typed_config.get("max_request_bytes", 0))
    found = f"{limit} bytes; `limits.max_body` is {ours}"
    if limit == ours:
        return Finding(about, "body limit", "ok", found)
    return Finding(about, "body limit", "warn", found, _RESTART)


def _buffer(about: str, manager: Manager, dump: Dump, config: Config) -> Finding:
    """What Envoy holds of a body, to try a request again: what listener or host have room for."""
    table = dump.tables().get(manager.table, Routes())
    hosts = (int(each.request_body_buffer_limit) for each in table.virtual_hosts)
    held = max(manager.buffer, min(hosts, default=0))
    found = f"{held} bytes; `limits.max_body` is {config.limits.max_body}"
    if held >= config.limits.max_body:
        return Finding(about, "buffer limit", "ok", found)
    advice = f"requests above it are refused or not tried again: {_RESTART}"
    return Finding(about, "buffer limit", "warn", found, advice)


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


@dataclass(frozen=True, slots=True)
class _Sides:
    """The route tables that lead to models: for clients' requests, and for the processor's own calls."""

    tables: Mapping[str, Sequence[Routes]]
    egress: Sequence[Manager]

    @classmethod
    def of(cls, dump: Dump, managers: Sequence[Manager]) -> "_Sides":
        ours = {name: each for name, each in dump.tables().items() if _leads_to_models(each)}
        clients = {each.table for each in managers if each.first(_PROCESSOR) is not None}
        return cls(
            {
                "ingress": [each for name, each in ours.items() if name in clients],
                "egress": [each for name, each in ours.items() if name not in clients],
            },
            [each for each in managers if each.table in ours.keys() - clients],
        )

    def routes(self, side: str, model: str) -> list[Route]:
        """The routes to a model."""
        hosts = (host for table in self.tables[side] for host in table.virtual_hosts)
        return [
            each for host in hosts for each in host.routes if each.model(headers.MODEL) == model
        ]


def _leads_to_models(table: Routes) -> bool:
    return any(route.model(headers.MODEL) for host in table.virtual_hosts for route in host.routes)


def _models(dump: Dump, config: Config, sides: _Sides) -> Iterator[Finding]:
    most = _calls_at_once(config)
    for model in config.models:
        for side in sides.tables:
            routes = sides.routes(side, model.name)
            yield _route(model.name, side, routes, dump, longest_run(config))
        for route in sides.routes("egress", model.name)[:1]:
            yield from _breaker(model.name, route, dump, most.get(model.name, 0))
    # Verifiers are called by us alone.
    for verifier in config.upstreams()[len(config.models) :] if "egress" in sides.tables else ():
        routes = sides.routes("egress", verifier.name)
        yield _route(verifier.name, "egress", routes, dump, longest_run(config))


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
        for clock, written in (("timeout", target.timeout), ("idle_timeout", target.idle_timeout)):
            limit = seconds(written, 0)
            if 0 < limit <= longest:
                found = f"its {clock} is {limit:g} s; the longest deadline is {longest:g} s"
                return Finding(model, check, "fail", found, f"set the route's {clock} to 0s")
    return Finding(model, check, "ok", f"to {targets[0].cluster}")


def _calls_at_once(config: Config) -> dict[str, int]:
    """How many calls of one run a model may have to take at once, at the most."""
    most: dict[str, int] = {}
    for recipe in config.recipes.values():
        for decision in recipe.decisions:
            names = [name for call in decision.planned() for name in call.models]
            most |= {name: max(most.get(name, 0), names.count(name)) for name in set(names)}
    return most


def _breaker(model: str, route: Route, dump: Dump, calls: int) -> Iterator[Finding]:
    cluster = dump.clusters().get(route.route.cluster) if route.route is not None else None
    if cluster is not None:
        yield _enough(model, cluster.limits.max_requests, calls)


def _enough(model: str, limit: int, calls: int) -> Finding:
    found = f"{limit} requests at once; one run may make {calls} calls"
    if limit >= calls:
        return Finding(model, "breaker", "ok", found)
    return Finding(model, "breaker", "fail", found, "raise `breaker.max_requests`")
