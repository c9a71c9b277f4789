"""What operators and probes may reach: statistics and readiness, and nothing else of the admin interface."""

from envoy_data_plane.envoy.config.bootstrap.v3 import Admin
from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from extproc.bootstrap.messages import (
    address,
    endpoints,
    http_filter,
    http_listener,
    is_fixed,
    seconds,
)
from extproc.config import Config

_ADMIN, _PROCESSOR = "admin", "looper_metrics"


def stats_listener(config: Config) -> listener.Listener:
    shown = {"/ready": _ADMIN, "/stats/prometheus": _ADMIN}
    if config.envoy.metrics is not None:
        shown["/metrics"] = _PROCESSOR
    nothing = route.Route(
        match=route.RouteMatch(prefix="/"),
        direct_response=route.DirectResponseAction(
            status=404, body=core.DataSource(inline_string="not found\n")
        ),
    )
    host = route.VirtualHost(
        name="stats",
        domains=["*"],
        routes=[*(_read(path, of) for path, of in shown.items()), nothing],
    )
    manager = hcm.HttpConnectionManager(
        stat_prefix="stats",
        route_config=route.RouteConfiguration(name="stats", virtual_hosts=[host]),
        request_headers_timeout=seconds(10),
        stream_idle_timeout=seconds(30),
        http_filters=[http_filter("envoy.filters.http.router", Router())],
    )
    # A scrape must not fail because clients use up the connections: that is when it is needed.
    return http_listener("stats", address(config.envoy.stats), manager, counts_connections=False)


def admin(config: Config) -> Admin:
    """Whoever reaches it may end Envoy, and at a port that is any page in a browser: a socket is its owner's alone."""
    return Admin(address=address(config.envoy.admin, mode=0o600), ignore_global_conn_limit=True)


def pages(config: Config) -> list[cluster.Cluster]:
    """Where the pages are that this listener shows: at Envoy's own admin interface, and at the processor."""
    envoy = config.envoy
    own = [] if envoy.metrics is None else [_page(_PROCESSOR, envoy.metrics)]
    return [_page(_ADMIN, envoy.admin), *own]


def _page(name: str, at: str) -> cluster.Cluster:
    kind = cluster.ClusterDiscoveryType
    return cluster.Cluster(
        name=name,
        type=kind.STATIC if is_fixed(at) else kind.STRICT_DNS,
        connect_timeout=seconds(1),
        load_assignment=endpoints(name, [address(at)]),
    )


def _read(path: str, of: str) -> route.Route:
    get = route.HeaderMatcher(name=":method", string_match=matcher.StringMatcher(exact="GET"))
    return route.Route(
        match=route.RouteMatch(path=path, headers=[get]),
        route=route.RouteAction(cluster=of, timeout=seconds(10)),
    )
