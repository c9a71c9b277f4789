"""What of a client's headers reaches models, whoever was to take it away."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from extproc import headers
from extproc.cli.doctor.dump import Dump, Filter, Host, Route, Scope, matches
from extproc.cli.doctor.findings import Finding
from extproc.cli.doctor.ways import Sides, Way
from extproc.config import Config

_NEVER = (*headers.CREDENTIALS, "x-forwarded-for")
"""What a model's provider must not get: what clients prove themselves with, and where they are."""

_EARLY = "early_header_mutation_extensions"


def examine_headers(way: Way, sides: Sides, dump: Dump, config: Config) -> Iterator[Finding]:
    """Each header that some model gets, though it should not; and those by which a client could choose a model."""
    lost = {name: list(_to_whom(name, way, sides, dump, config)) for name in _NEVER}
    for name, models in lost.items():
        if models:
            advice = f"`request_headers_to_remove: [{name}]` in the virtual host of these routes"
            found = f"reaches {_listed(models)}"
            yield Finding(way.about, f"header {name}", "fail", found, advice)
    if not any(lost.values()):
        yield Finding(way.about, "headers", "ok", f"none of {', '.join(_NEVER)} reaches a model")
    more = [name for name in headers.NOT_FOR_BACKENDS if name not in _NEVER]
    left = [name for name in more if any(_to_whom(name, way, sides, dump, config))]
    if left:
        advice = f"`request_headers_to_remove: [{', '.join(left)}]` in the virtual host"
        yield Finding(way.about, "other headers", "warn", f"{', '.join(left)} reach models", advice)
    yield _chosen_by_clients(way)


def _listed(models: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(models))


def _to_whom(name: str, way: Way, sides: Sides, dump: Dump, config: Config) -> Iterator[str]:
    """The models that get this header of a client's."""
    clusters = dump.clusters()
    for model in config.models:
        if name in config.envoy.keep_headers.get(model.name, ()):
            continue
        theirs = {
            cluster
            for side in ("ingress", "egress")
            for _, route in sides.routes(side, model.name)
            if route.route is not None
            for cluster in route.route.clusters(model.name, headers.MODEL)
        }
        behind = [
            each for cluster in theirs if cluster in clusters for each in clusters[cluster].filters
        ]
        if any(
            _passes(name, way, host, route, behind)
            for host, route in _leading(way, model.name, theirs)
        ):
            yield model.name


def _leading(way: Way, model: str, clusters: set[str]) -> Iterator[tuple[Host, Route]]:
    """Routes to a model, whether or not it is the processor that chooses them."""
    for host in way.routes.virtual_hosts:
        for route in host.routes:
            if route.route is not None and clusters & set(
                route.route.clusters(model, headers.MODEL)
            ):
                yield host, route


def _passes(name: str, way: Way, host: Host, route: Route, behind: Sequence[Filter]) -> bool:
    """Whether nothing on this way takes a header away, or puts another in its place."""
    scopes: tuple[Scope, ...] = (route, host, way.routes)
    if any(name in map(str.lower, scope.request_headers_to_remove) for scope in scopes):
        return False
    if any(_sets(each, name) for scope in scopes for each in scope.request_headers_to_add):
        return False
    early = [each.get("typed_config", {}) for each in way.manager.settings.get(_EARLY, [])]
    filters = [each for each in way.manager.filters if not each.disabled]
    told = [
        *early,
        *(each.settings.get("mutations", {}) for each in (*filters, *behind)),
        *(_told(scope, each.name) for scope in scopes for each in filters),
    ]
    return not any(_takes(each, name) for each in told) and not any(
        _injects(each, name) for each in (*filters, *behind)
    )


def _told(scope: Scope, name: str) -> Mapping[str, Any]:
    """What a scope tells a filter that changes headers."""
    settings = scope.typed_per_filter_config.get(name, {})
    mutations: Mapping[str, Any] = settings.get("config", settings).get("mutations", {})
    return mutations if isinstance(mutations, dict) else {}


def _takes(mutations: Any, name: str) -> bool:
    """Whether these changes of headers leave none of this name that is the client's."""
    found = mutations.get("request_mutations", mutations.get("mutations", []))
    return any(_removes(each, name) or _sets(each.get("append", {}), name) for each in found)


def _removes(mutation: Mapping[str, Any], name: str) -> bool:
    by_match = mutation.get("remove_on_match", {}).get("key_matcher", {})
    return str(mutation.get("remove", "")).lower() == name or matches(by_match, name)


def _sets(added: Mapping[str, Any], name: str) -> bool:
    if str(added.get("header", {}).get("key", "")).lower() != name:
        return False
    return (
        str(added.get("append_action", "")).startswith("OVERWRITE") or added.get("append") is False
    )


def _injects(each: Filter, name: str) -> bool:
    """Whether a filter puts a credential of ours in its place."""
    if not each.is_a("CredentialInjector") or not each.settings.get("overwrite"):
        return False
    credential = each.settings.get("credential", {}).get("typed_config", {})
    return str(credential.get("header", "authorization")).lower() == name


def _chosen_by_clients(way: Way) -> Finding:
    """A route that a header chooses is chosen before any filter could take a client's own header away."""
    early = [each.get("typed_config", {}) for each in way.manager.settings.get(_EARLY, [])]
    internal = [each.lower() for each in way.routes.internal_only_headers]
    if any(_takes(each, headers.MODEL) for each in early) or headers.MODEL in internal:
        return Finding(way.about, "own headers", "ok", "clients' own are removed")
    advice = "remove `x-looper-` by prefix in `early_header_mutation_extensions` of the connection manager"
    found = f"a client's own {headers.MODEL} chooses a model"
    return Finding(way.about, "own headers", "fail", found, advice)
