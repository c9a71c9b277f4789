"""One cluster for each model, used by clients' requests and by the processor's calls alike."""

from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstreams
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.envoy.type.v3 import Percent

from extproc.bootstrap.certificates import Pair
from extproc.bootstrap.credentials import injector
from extproc.bootstrap.messages import endpoints, is_ip, pack, seconds, socket
from extproc.bootstrap.processors import PROTOCOL
from extproc.bootstrap.upstreams import Upstream, cluster_name, stat_name
from looper.calling.models import Breaker, Model

_KEEP_PLAIN = seconds(4)
"""Inference servers close a connection after 5 s without use; a request sent at that moment would be lost."""

_KEEP_TLS = seconds(60)


def model_cluster(model: Model, directory: str | None) -> cluster.Cluster:
    upstream = Upstream.of(model)
    kind = cluster.ClusterDiscoveryType
    name = cluster_name(model)
    return cluster.Cluster(
        name=name,
        alt_stat_name=stat_name(model),
        type=kind.STATIC if upstream.is_ip else kind.STRICT_DNS,
        dns_lookup_family=cluster.ClusterDnsLookupFamily.V4_PREFERRED,
        connect_timeout=seconds(3),
        lb_policy=cluster.ClusterLbPolicy.LEAST_REQUEST,
        load_assignment=endpoints(name, [socket(upstream.host, upstream.port)]),
        circuit_breakers=cluster.CircuitBreakers(thresholds=[_thresholds(model.breaker)]),
        outlier_detection=_outliers(),
        typed_extension_protocol_options={PROTOCOL: pack(_protocol(model, upstream, directory))},
        transport_socket=_tls(model, upstream, directory) if upstream.tls else None,
    )


def _thresholds(breaker: Breaker) -> cluster.CircuitBreakersThresholds:
    return cluster.CircuitBreakersThresholds(
        max_connections=breaker.max_connections,
        max_pending_requests=breaker.max_pending,
        max_requests=breaker.max_requests,
        # Not a storm of retries against a model that is down: a fifth of what is under way, but always a few.
        retry_budget=cluster.CircuitBreakersThresholdsRetryBudget(
            budget_percent=Percent(value=20), min_retry_concurrency=10
        ),
        track_remaining=True,
    )


def _outliers() -> cluster.OutlierDetection:
    """Takes a replica out that cannot be reached or is overloaded, but never half of them or more.

    A model with a single endpoint keeps it. A plain 500 does not count, as a request can be the cause of it.
    """
    return cluster.OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=5,
        enforcing_consecutive_5xx=0,
        enforcing_success_rate=0,
        enforcing_local_origin_success_rate=0,
        consecutive_gateway_failure=5,
        enforcing_consecutive_gateway_failure=100,
        interval=seconds(5),
        base_ejection_time=seconds(10),
        max_ejection_time=seconds(60),
        max_ejection_percent=49,
    )


def _protocol(
    model: Model, upstream: Upstream, directory: str | None
) -> upstreams.HttpProtocolOptions:
    filters = _filters(model, directory)
    if upstream.tls:
        return upstreams.HttpProtocolOptions(
            auto_config=upstreams.HttpProtocolOptionsAutoHttpConfig(),  # HTTP/2 where ALPN offers it
            common_http_protocol_options=core.HttpProtocolOptions(idle_timeout=_KEEP_TLS),
            http_filters=filters,
        )
    return upstreams.HttpProtocolOptions(
        explicit_http_config=upstreams.HttpProtocolOptionsExplicitHttpConfig(
            http_protocol_options=core.Http1ProtocolOptions()
        ),
        common_http_protocol_options=core.HttpProtocolOptions(idle_timeout=_KEEP_PLAIN),
        http_filters=filters,
    )


def _filters(model: Model, directory: str | None) -> list[HttpFilter]:
    return injector(model.api_key, directory) if model.api_key is not None else []


def _tls(model: Model, upstream: Upstream, directory: str | None) -> core.TransportSocket:
    """The certificate must be signed by a trusted root and be made out to the name that we meant to call."""
    name = model.tls.server_name or upstream.host
    san = tls.SubjectAltNameMatcherSanType
    expected = tls.SubjectAltNameMatcher(
        san_type=san.IP_ADDRESS if is_ip(name) else san.DNS,
        matcher=matcher.StringMatcher(exact=name),
    )
    ours = Pair.of(model.tls)
    context = tls.UpstreamTlsContext(
        sni="" if is_ip(name) else name,  # the protocol has no SNI for addresses
        common_tls_context=tls.CommonTlsContext(
            tls_certificate_sds_secret_configs=[] if ours is None else [ours.reference(directory)],
            validation_context=tls.CertificateValidationContext(
                trusted_ca=core.DataSource(filename=model.tls.ca),
                match_typed_subject_alt_names=[expected],
            ),
        ),
    )
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))
