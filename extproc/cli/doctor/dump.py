"""Envoy's own configuration as its admin interface shows it: the parts that matter here."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import re2  # type: ignore[import-untyped]  # google-re2 has no types


class Filter(msgspec.Struct, frozen=True):
    """A filter and its configuration; one that only some requests meet has its own inside."""

    name: str = ""
    typed_config: dict[str, Any] = {}
    disabled: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        inside = self.typed_config.get("extension_config")
        return inside.get("typed_config", {}) if isinstance(inside, dict) else self.typed_config

    @property
    def kind(self) -> str:
        """The name of its message, such as `ExternalProcessor`; packages are left out."""
        return str(self.settings.get("@type", "")).rpartition(".")[2]

    @property
    def package(self) -> str:
        """The one that its message is of, such as `rbac`."""
        return str(self.settings.get("@type", "")).partition(".filters.http.")[2].partition(".")[0]

    def is_a(self, kind: str) -> bool:
        return self.kind == kind


class Chain(msgspec.Struct, frozen=True):
    """A filter chain of a listener."""

    filters: list[Filter] = []
    transport_socket: dict[str, Any] = {}

    @property
    def wants_certificates(self) -> bool:
        """Whether only clients with a certificate come through."""
        typed = self.transport_socket.get("typed_config", {})
        return bool(typed.get("require_client_certificate"))


class Socket(msgspec.Struct, frozen=True):
    """An address of the network."""

    address: str = ""
    port_value: int = 0


class Pipe(msgspec.Struct, frozen=True):
    """A socket of the file system; without a `mode`, that is up to Envoy's umask."""

    path: str = ""
    mode: int = 0


class Address(msgspec.Struct, frozen=True):
    """Where a listener listens. One that only Envoy itself reaches is neither."""

    socket_address: Socket | None = None
    pipe: Pipe | None = None


class Additional(msgspec.Struct, frozen=True):
    """One more of them."""

    address: Address = Address()


class Listener(msgspec.Struct, frozen=True):
    """A listener."""

    name: str = ""
    address: Address = Address()
    additional_addresses: list[Additional] = []
    per_connection_buffer_limit_bytes: int = 1 << 20
    filter_chains: list[Chain] = []
    default_filter_chain: Chain | None = None

    @property
    def addresses(self) -> list[Address]:
        return [self.address, *(each.address for each in self.additional_addresses)]


class Threshold(msgspec.Struct, frozen=True):
    """Limits of a cluster; what is left out is Envoy's default."""

    priority: str = "DEFAULT"
    max_requests: int = 1024
    max_pending_requests: int = 1024
    max_connections: int = 1024
    max_retries: int = 3


class Breakers(msgspec.Struct, frozen=True):
    """Limits of a cluster by priority."""

    thresholds: list[Threshold] = []


class Cluster(msgspec.Struct, frozen=True):
    """A cluster."""

    name: str
    circuit_breakers: Breakers = Breakers()
    load_assignment: dict[str, Any] = {}
    typed_extension_protocol_options: dict[str, dict[str, Any]] = {}

    @property
    def filters(self) -> list[Filter]:
        """HTTP filters that each request passes on its way out."""
        found = (
            each.get("http_filters", []) for each in self.typed_extension_protocol_options.values()
        )
        return [msgspec.convert(each, Filter) for filters in found for each in filters]

    @property
    def limits(self) -> Threshold:
        found = (each for each in self.circuit_breakers.thresholds if each.priority == "DEFAULT")
        return next(found, Threshold())


class Matched(msgspec.Struct, frozen=True):
    """How a header has to be, as it is written today, or was before."""

    name: str = ""
    string_match: dict[str, Any] = {}
    exact_match: str | None = None
    prefix_match: str | None = None
    present_match: bool | None = None
    safe_regex_match: dict[str, Any] | None = None
    invert_match: bool = False

    def holds(self, value: str) -> bool:
        """Whether a header of this value is such a one."""
        return self._holds(value) is not self.invert_match

    def _holds(self, value: str) -> bool:
        if self.exact_match is not None:
            return value == self.exact_match
        if self.prefix_match is not None:
            return value.startswith(self.prefix_match)
        if self.safe_regex_match is not None:
            return matches({"safe_regex": self.safe_regex_match}, value)
        if self.present_match is not None:
            return self.present_match
        return matches(self.string_match, value)


def matches(matcher: Mapping[str, Any], value: str) -> bool:
    """Whether a text is as one of Envoy's matchers wants it."""
    if matcher.get("ignore_case"):
        value = value.lower()
        matcher = {key: str(text).lower() for key, text in matcher.items()}
    match matcher:
        case {"exact": str(text)}:
            return value == text
        case {"prefix": str(text)}:
            return value.startswith(text)
        case {"suffix": str(text)}:
            return value.endswith(text)
        case {"contains": str(text)}:
            return text in value
        case {"safe_regex": {"regex": str(text)}}:
            return re2.fullmatch(text, value) is not None
        case _:
            return False


class Match(msgspec.Struct, frozen=True):
    """Which requests a route is for."""

    headers: list[Matched] = []


class Weighted(msgspec.Struct, frozen=True):
    """One of several clusters."""

    name: str = ""


class Split(msgspec.Struct, frozen=True):
    """Clusters among which requests are divided."""

    clusters: list[Weighted] = []


class Target(msgspec.Struct, frozen=True):
    """Where a route leads. Without a `timeout` Envoy waits 15 s."""

    cluster: str = ""
    cluster_header: str = ""
    weighted_clusters: Split = Split()
    timeout: str = "15s"
    idle_timeout: str | None = None
    retry_policy: dict[str, Any] | None = None

    def clusters(self, model: str, header: str) -> list[str]:
        """Those that it leads to for a model."""
        if self.cluster_header:
            return [model] if self.cluster_header == header else []
        split = [each.name for each in self.weighted_clusters.clusters]
        return split or [self.cluster]


class Scope(msgspec.Struct, frozen=True):
    """What route, host and table alike may say of a request's headers, and to filters."""

    name: str = ""
    request_headers_to_add: list[dict[str, Any]] = []
    request_headers_to_remove: list[str] = []
    typed_per_filter_config: dict[str, dict[str, Any]] = {}


class Route(Scope, frozen=True):
    """A route."""

    match: Match = Match()
    route: Target | None = None

    def is_for(self, model: str, header: str) -> bool:
        """Whether it takes what this header names."""
        named = [each for each in self.match.headers if each.name == header]
        by_cluster = self.route is not None and self.route.cluster_header == header
        return all(each.holds(model) for each in named) and (bool(named) or by_cluster)


class Host(Scope, frozen=True):
    """A virtual host. Of a body it has so many bytes kept, whatever the listener's buffers hold."""

    routes: list[Route] = []
    retry_policy: dict[str, Any] | None = None
    request_body_buffer_limit: int | str = 0
    """JSON has it as a text: it is a number of 64 bits."""


class Routes(Scope, frozen=True):
    """A route table."""

    virtual_hosts: list[Host] = []
    internal_only_headers: list[str] = []


class _Node(msgspec.Struct, frozen=True):
    metadata: dict[str, Any] = {}


class _Admin(msgspec.Struct, frozen=True):
    address: Address = Address()


class _Bootstrap(msgspec.Struct, frozen=True):
    node: _Node = _Node()
    admin: _Admin = _Admin()


class _Entry(msgspec.Struct, frozen=True):
    version_info: str = ""
    listener: Listener | None = None
    cluster: Cluster | None = None
    route_config: Routes | None = None
    active_state: "_Entry | None" = None


class _Config(msgspec.Struct, frozen=True):
    bootstrap: _Bootstrap | None = None
    static_listeners: list[_Entry] = []
    dynamic_listeners: list[_Entry] = []
    static_clusters: list[_Entry] = []
    dynamic_active_clusters: list[_Entry] = []
    static_route_configs: list[_Entry] = []
    dynamic_route_configs: list[_Entry] = []


class Dump(msgspec.Struct, frozen=True):
    """`/config_dump`."""

    configs: list[_Config] = []

    @property
    def generation(self) -> str | None:
        """That of the bootstrap file, if it is one of ours."""
        nodes = (each.bootstrap.node.metadata for each in self.configs if each.bootstrap)
        return next(
            (str(node["looper_generation"]) for node in nodes if "looper_generation" in node), None
        )

    @property
    def admin(self) -> Address:
        """Where its admin interface is."""
        found = (each.bootstrap.admin.address for each in self.configs if each.bootstrap)
        return next(found, Address())

    @property
    def cluster_versions(self) -> set[str]:
        return {
            entry.version_info for each in self.configs for entry in each.dynamic_active_clusters
        }

    @property
    def route_versions(self) -> dict[str, str]:
        return {
            entry.route_config.name: entry.version_info
            for each in self.configs
            for entry in each.dynamic_route_configs
            if entry.route_config is not None
        }

    def managers(self) -> Iterator["Manager"]:
        """The HTTP connection managers of all listeners."""
        for each in self.configs:
            for entry in (*each.static_listeners, *each.dynamic_listeners):
                yield from _managers((entry.active_state or entry).listener)

    def clusters(self) -> dict[str, Cluster]:
        return {
            entry.cluster.name: entry.cluster
            for each in self.configs
            for entry in (*each.static_clusters, *each.dynamic_active_clusters)
            if entry.cluster is not None
        }

    def tables(self) -> dict[str, Routes]:
        return {
            entry.route_config.name: entry.route_config
            for each in self.configs
            for entry in (*each.static_route_configs, *each.dynamic_route_configs)
            if entry.route_config is not None
        }

    def routes(self, manager: "Manager") -> Routes:
        """The routes of a listener: its own, or those that it watches."""
        if "route_config" in manager.settings:
            return msgspec.convert(manager.settings["route_config"], Routes)
        watched = manager.settings.get("rds", {}).get("route_config_name")
        return self.tables().get(str(watched), Routes())


class Manager(msgspec.Struct, frozen=True):
    """An HTTP connection manager, the chain that it ends, and the listener of that."""

    settings: dict[str, Any]
    chain: Chain
    listener: Listener

    @property
    def name(self) -> str:
        return str(self.settings.get("stat_prefix", ""))

    @property
    def buffer(self) -> int:
        return self.listener.per_connection_buffer_limit_bytes

    @property
    def filters(self) -> list[Filter]:
        return msgspec.convert(self.settings.get("http_filters", []), list[Filter])

    def first(self, kind: str) -> Filter | None:
        """Its first filter of a kind."""
        return next((each for each in self.filters if each.is_a(kind)), None)


def _managers(listener: Listener | None) -> Iterator[Manager]:
    if listener is None:
        return
    chains = [*listener.filter_chains, *filter(None, [listener.default_filter_chain])]
    for chain in chains:
        for each in chain.filters:
            if each.is_a("HttpConnectionManager"):
                yield Manager(each.typed_config, chain, listener)


def seconds(duration: object, default: float) -> float:
    """A duration as JSON has it; 0 is none."""
    return float(duration.removesuffix("s")) if isinstance(duration, str) else default
