"""Envoy's own configuration as its admin interface shows it: the parts that matter here."""

from collections.abc import Iterator
from typing import Any

import msgspec


class Filter(msgspec.Struct, frozen=True):
    """A filter and its configuration."""

    name: str = ""
    typed_config: dict[str, Any] = {}

    def is_a(self, kind: str) -> bool:
        return str(self.typed_config.get("@type", "")).endswith(f".{kind}")


class Chain(msgspec.Struct, frozen=True):
    """A filter chain of a listener."""

    filters: list[Filter] = []


class Listener(msgspec.Struct, frozen=True):
    """A listener."""

    name: str = ""
    per_connection_buffer_limit_bytes: int = 1 << 20
    filter_chains: list[Chain] = []
    default_filter_chain: Chain | None = None


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

    @property
    def limits(self) -> Threshold:
        found = (each for each in self.circuit_breakers.thresholds if each.priority == "DEFAULT")
        return next(found, Threshold())


class Matched(msgspec.Struct, frozen=True):
    """How a header has to be."""

    name: str = ""
    string_match: dict[str, Any] = {}


class Match(msgspec.Struct, frozen=True):
    """Which requests a route is for."""

    headers: list[Matched] = []


class Target(msgspec.Struct, frozen=True):
    """Where a route leads. Without a `timeout` Envoy waits 15 s."""

    cluster: str = ""
    timeout: str = "15s"
    idle_timeout: str | None = None


class Route(msgspec.Struct, frozen=True):
    """A route."""

    match: Match = Match()
    route: Target | None = None

    def model(self, header: str) -> str | None:
        """The model that it is for."""
        names = (each for each in self.match.headers if each.name == header)
        return next((each.string_match.get("exact") for each in names), None)


class Host(msgspec.Struct, frozen=True):
    """A virtual host. Of a body it has so many bytes kept, whatever the listener's buffers hold."""

    routes: list[Route] = []
    request_body_buffer_limit: int | str = 0
    """JSON has it as a text: it is a number of 64 bits."""


class Routes(msgspec.Struct, frozen=True):
    """A route table."""

    name: str = ""
    virtual_hosts: list[Host] = []


class _Node(msgspec.Struct, frozen=True):
    metadata: dict[str, Any] = {}


class _Bootstrap(msgspec.Struct, frozen=True):
    node: _Node = _Node()


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


class Manager(msgspec.Struct, frozen=True):
    """An HTTP connection manager, and the buffer limit of its listener."""

    settings: dict[str, Any]
    buffer: int

    @property
    def name(self) -> str:
        return str(self.settings.get("stat_prefix", ""))

    @property
    def table(self) -> str:
        """The name of its routes."""
        inline = self.settings.get("route_config", {})
        watched = self.settings.get("rds", {}).get("route_config_name")
        return str(watched or inline.get("name", ""))

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
                yield Manager(each.typed_config, listener.per_connection_buffer_limit_bytes)


def seconds(duration: object, default: float) -> float:
    """A duration as JSON has it; 0 is none."""
    return float(duration.removesuffix("s")) if isinstance(duration, str) else default
