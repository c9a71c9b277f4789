"""The cluster of processors: every socket on which a `looper serve` listens."""

from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstreams
from envoy_data_plane.envoy.type.v3 import Percent

from extproc.bootstrap.messages import address, endpoints, is_fixed, pack, seconds
from extproc.config import Config

CLUSTER = "looper_ext_proc"
FILTER = "looper.ext_proc"
"""The filter's name, by which routes refer to it."""

PROTOCOL = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def processors(config: Config) -> cluster.Cluster:
    addresses = config.envoy.processors
    kind = cluster.ClusterDiscoveryType
    http2 = upstreams.HttpProtocolOptions(
        explicit_http_config=upstreams.HttpProtocolOptionsExplicitHttpConfig(
            http2_protocol_options=core.Http2ProtocolOptions()
        )
    )
    return cluster.Cluster(
        name=CLUSTER,
        type=kind.STATIC if all(is_fixed(text) for text in addresses) else kind.STRICT_DNS,
        dns_lookup_family=cluster.ClusterDnsLookupFamily.V4_PREFERRED,
        connect_timeout=seconds(1),
        # Loops last, so the number of open streams says how busy a processor is.
        lb_policy=cluster.ClusterLbPolicy.LEAST_REQUEST,
        load_assignment=endpoints(CLUSTER, [address(text) for text in addresses]),
        circuit_breakers=cluster.CircuitBreakers(thresholds=[_thresholds()]),
        health_checks=[_health_check()],
        # As long as one processor is healthy, only healthy ones get requests. If none is, as at the start before
        # the first check, all are tried: a retry costs less than an error.
        common_lb_config=cluster.ClusterCommonLbConfig(healthy_panic_threshold=Percent(value=1)),
        typed_extension_protocol_options={PROTOCOL: pack(http2)},
    )


def _thresholds() -> cluster.CircuitBreakersThresholds:
    """Every open request is one stream, and all of them may want a retry when a processor restarts."""
    return cluster.CircuitBreakersThresholds(
        max_connections=1024,
        max_pending_requests=10000,
        max_requests=10000,
        max_retries=1000,
        track_remaining=True,
    )


def _health_check() -> core.HealthCheck:
    """Sees a processor that drains before it closes its connections; patient with one that is merely busy."""
    interval = seconds(0.75)
    return core.HealthCheck(
        interval=interval,
        # By default 60 s until the first request, and that is when a start is noticed.
        no_traffic_interval=interval,
        unhealthy_interval=seconds(0.25),
        timeout=seconds(2),
        unhealthy_threshold=2,
        healthy_threshold=1,
        grpc_health_check=core.HealthCheckGrpcHealthCheck(),
    )
