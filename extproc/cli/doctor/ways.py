"""The ways of requests through Envoy: from clients to models, and from the processor to models."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from extproc import headers
from extproc.cli.doctor.dump import Dump, Filter, Host, Manager, Route, Routes, seconds
from extproc.cli.doctor.findings import Finding
from extproc.config import Config

_REWRITE = "write Envoy's files again with `looper envoy-config`, or give it a route of your own"
_PROCESSOR = "ExternalProcessor"
_PAID_TWICE = frozenset({"5xx", "gateway-error", "reset"})
"""Conditions of a retry that hold when a model has worked already."""


@dataclass(frozen=True, slots=True)
class Way:
    """A listener's connection manager with its routes; `processor` is our filter, if it has that."""

    manager: Manager
    routes: Routes
    processor: Filter | None

    @property
    def about(self) -> str:
        return f"envoy listener {self.manager.name}".rstrip()

    def to(self, model: str) -> list[tuple[Host, Route]]:
        """The routes to a model, each with its host."""
        return [
            (host, route)
            for host in self.routes.virtual_hosts
            for route in host.routes
            if route.route is not None and route.is_for(model, headers.MODEL)
        ]


@dataclass(frozen=True, slots=True)
class Sides:
    """Who asks for models: clients by way of the processor, and the processor itself."""

    clients: Sequence[Way]
    calls: Sequence[Way]

    @classmethod
    def of(cls, dump: Dump, config: Config) -> "Sides":
        ways = [Way(each, dump.routes(each), _ours(each, dump, config)) for each in dump.managers()]
        names = [each.name for each in config.upstreams()]
        return cls(
            [way for way in ways if way.processor is not None],
            [way for way in ways if way.processor is None and any(map(way.to, names))],
        )

    def of_side(self, side: str) -> Sequence[Way]:
        return self.clients if side == "ingress" else self.calls

    def routes(self, side: str, model: str) -> list[tuple[Host, Route]]:
        """The routes to a model on one side."""
        return [each for way in self.of_side(side) for each in way.to(model)]


def _ours(manager: Manager, dump: Dump, config: Config) -> Filter | None:
    """The processor's filter. Where there are several, the one that leads to our address, or is named for us."""
    found = [each for each in manager.filters if each.is_a(_PROCESSOR)]
    places = {
        each.removeprefix("unix:").removeprefix("http://") for each in config.envoy.processors
    }
    for each in found:
        if places & set(_endpoints(each, dump)):
            return each
    named = (each for each in found if "looper" in f"{each.name} {cluster_of(each)}")
    return next(named, found[0] if found else None)


def cluster_of(processor: Filter) -> str:
    """Where a filter finds its processor."""
    return str(processor.settings.get("grpc_service", {}).get("envoy_grpc", {}).get("cluster_name"))


def _endpoints(processor: Filter, dump: Dump) -> Iterator[str]:
    cluster = dump.clusters().get(cluster_of(processor))
    for locality in cluster.load_assignment.get("endpoints", []) if cluster is not None else ():
        for each in locality.get("lb_endpoints", []):
            match each.get("endpoint", {}).get("address", {}):
                case {"pipe": {"path": str(path)}}:
                    yield path
                case {"socket_address": {"address": host, "port_value": port}}:
                    yield f"{host}:{port}"
                case _:
                    pass


def longest_run(config: Config) -> float:
    """The longest deadline of a decision, in seconds."""
    decisions = (each for recipe in config.recipes.values() for each in recipe.decisions)
    return max(each.budget.deadline.total_seconds() for each in decisions)


def examine_ways(dump: Dump, config: Config, sides: Sides) -> Iterator[Finding]:
    """Whether every model can be reached, and for as long as a run may take."""
    most = _calls_at_once(config)
    for model in config.models:
        for side in ("ingress", "egress"):
            routes = sides.routes(side, model.name)
            yield _route(model.name, side, routes, dump, longest_run(config))
            if routes and model.retry.attempts:
                yield from _retries(model.name, side, routes)
        for _, route in sides.routes("egress", model.name)[:1]:
            yield from _breaker(model.name, route, dump, most.get(model.name, 0))
    # Verifiers are called by us alone.
    for verifier in config.upstreams()[len(config.models) :]:
        routes = sides.routes("egress", verifier.name)
        yield _route(verifier.name, "egress", routes, dump, longest_run(config))


def _retries(model: str, side: str, routes: Sequence[tuple[Host, Route]]) -> Iterator[Finding]:
    """Whether Envoy tries again, and only what has cost nothing yet."""
    found = [
        policy
        for host, route in routes
        if route.route is not None and (policy := route.route.retry_policy or host.retry_policy)
    ]
    check = f"{side} retries"
    if not found:
        advice = (
            "give its route a `retry_policy` with `retry_on: connect-failure,refused-stream,"
            "reset-before-request`, or say `retry: {attempts: 0}`"
        )
        yield Finding(model, check, "warn", "none; `retry.attempts` wants some", advice)
        return
    on = {each for policy in found for each in str(policy.get("retry_on", "")).split(",")}
    if twice := sorted(on & _PAID_TWICE):
        advice = "take it out of `retry_on`: what has begun an answer, or worked on one, is paid for twice"
        yield Finding(model, check, "warn", ", ".join(twice), advice)
    elif side == "egress" and any("per_try_timeout" in policy for policy in found):
        advice = "leave it out: an answer that is not streamed says nothing until it is complete"
        yield Finding(model, check, "warn", "a `per_try_timeout` cuts slow answers", advice)
    else:
        yield Finding(model, check, "ok", ", ".join(sorted(on)))


def _route(
    model: str, side: str, routes: Sequence[tuple[Host, Route]], dump: Dump, longest: float
) -> Finding:
    check = f"{side} route"
    targets = [route.route for _, route in routes if route.route is not None]
    if not targets:
        return Finding(model, check, "fail", "Envoy has none", _REWRITE)
    clusters = dump.clusters()
    for target in targets:
        if not any(each in clusters for each in target.clusters(model, headers.MODEL)):
            advice = "is its key there, and its `url` right? see Envoy's log"
            return Finding(model, check, "fail", "it leads to no cluster", advice)
        for clock, written in (("timeout", target.timeout), ("idle_timeout", target.idle_timeout)):
            limit = seconds(written, 0)
            if 0 < limit <= longest:
                found = f"its {clock} is {limit:g} s; the longest deadline is {longest:g} s"
                return Finding(model, check, "fail", found, f"set the route's {clock} to 0s")
    return Finding(model, check, "ok", f"to {', '.join(targets[0].clusters(model, headers.MODEL))}")


def _calls_at_once(config: Config) -> dict[str, int]:
    """How many calls of one run a model may have to take at once, at the most."""
    most: dict[str, int] = {}
    for recipe in config.recipes.values():
        for decision in recipe.decisions:
            names = [name for call in decision.planned() for name in call.models]
            most |= {name: max(most.get(name, 0), names.count(name)) for name in set(names)}
    return most


def _breaker(model: str, route: Route, dump: Dump, calls: int) -> Iterator[Finding]:
    assert route.route is not None
    for name in route.route.clusters(model, headers.MODEL):
        if (cluster := dump.clusters().get(name)) is not None:
            yield _enough(model, cluster.limits.max_requests, calls)
            return


def _enough(model: str, limit: int, calls: int) -> Finding:
    found = f"{limit} requests at once; one run may make {calls} calls"
    if limit >= calls:
        return Finding(model, "breaker", "ok", found)
    return Finding(model, "breaker", "fail", found, "raise `breaker.max_requests`")
