"""Envoy's own spans: of clients' requests, of what it asks the processor, and of each call and each of its attempts."""

from collections.abc import Iterator

from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.trace import v3 as trace
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.extensions.tracers.opentelemetry.samplers import v3 as samplers
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstreams
from envoy_data_plane.envoy.type import v3 as types
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from extproc.bootstrap.messages import endpoints, extension, is_ip, pack, seconds, socket
from extproc.bootstrap.processors import PROTOCOL
from extproc.config import Config
from extproc.config.tracing import Collector, EnvoyTracing

CLUSTER = "looper_traces"

_SAMPLERS = "envoy.tracers.opentelemetry.samplers"

_PATIENCE = seconds(5)
"""How long a collector has to take what Envoy sends."""


def of_requests(config: Config) -> hcm.HttpConnectionManagerTracing | None:
    """What the listener of clients does about spans."""
    return _of("ingress %REQ(:METHOD)%", config.envoy.tracing)


def of_calls(config: Config) -> hcm.HttpConnectionManagerTracing | None:
    """The same for the listener of calls, whose trace is that of the run."""
    return _of("egress %ROUTE_NAME%", config.envoy.tracing)


def clusters(config: Config) -> Iterator[cluster.Cluster]:
    """Where Envoy's spans go."""
    if config.envoy.tracing is not None:
        yield _cluster(config.envoy.tracing.otlp)


def _of(operation: str, settings: EnvoyTracing | None) -> hcm.HttpConnectionManagerTracing | None:
    if settings is None:
        return None
    return hcm.HttpConnectionManagerTracing(
        # What is kept is for the sampler to say: by itself Envoy would overrule who began the trace.
        client_sampling=types.Percent(value=0),
        operation=operation,
        upstream_operation=f"{operation} attempt",
        # Attempts are spans of their own, so that one sees who was tried, and each belongs to its request.
        spawn_upstream_span=True,
        provider=trace.TracingHttp(
            name="envoy.tracers.opentelemetry", typed_config=pack(_tracer(settings))
        ),
    )


def _tracer(settings: EnvoyTracing) -> trace.OpenTelemetryConfig:
    name, sampler = settings.service, _sampler(settings.sample)
    if settings.otlp.protocol == "grpc":
        service = core.GrpcService(
            envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=CLUSTER), timeout=_PATIENCE
        )
        return trace.OpenTelemetryConfig(grpc_service=service, service_name=name, sampler=sampler)
    uri = core.HttpUri(uri=settings.otlp.url, cluster=CLUSTER, timeout=_PATIENCE)
    return trace.OpenTelemetryConfig(
        http_service=core.HttpService(http_uri=uri), service_name=name, sampler=sampler
    )


def _sampler(part: float) -> core.TypedExtensionConfig:
    """Whoever began a trace has decided whether it is kept; of those that begin here, so large a part is."""
    share = types.FractionalPercent(
        numerator=round(part * 1_000_000),
        denominator=types.FractionalPercentDenominatorType.MILLION,
    )
    ratio = extension(
        f"{_SAMPLERS}.trace_id_ratio_based",
        samplers.TraceIdRatioBasedSamplerConfig(sampling_percentage=share),
    )
    return extension(
        f"{_SAMPLERS}.parent_based", samplers.ParentBasedSamplerConfig(wrapped_sampler=ratio)
    )


def _cluster(collector: Collector) -> cluster.Cluster:
    kind = cluster.ClusterDiscoveryType
    return cluster.Cluster(
        name=CLUSTER,
        type=kind.STATIC if is_ip(collector.host) else kind.STRICT_DNS,
        dns_lookup_family=cluster.ClusterDnsLookupFamily.V4_PREFERRED,
        connect_timeout=seconds(1),
        load_assignment=endpoints(CLUSTER, [socket(collector.host, collector.port)]),
        typed_extension_protocol_options={PROTOCOL: pack(_protocol(collector))},
        transport_socket=_tls(collector) if collector.tls else None,
    )


def _protocol(collector: Collector) -> upstreams.HttpProtocolOptions:
    explicit = upstreams.HttpProtocolOptionsExplicitHttpConfig
    if collector.protocol == "grpc":
        spoken = explicit(http2_protocol_options=core.Http2ProtocolOptions())
    else:
        spoken = explicit(http_protocol_options=core.Http1ProtocolOptions())
    return upstreams.HttpProtocolOptions(explicit_http_config=spoken)


def _tls(collector: Collector) -> core.TransportSocket:
    """The certificate must be signed by a trusted root and be made out to the host."""
    san = tls.SubjectAltNameMatcherSanType
    expected = tls.SubjectAltNameMatcher(
        san_type=san.IP_ADDRESS if is_ip(collector.host) else san.DNS,
        matcher=matcher.StringMatcher(exact=collector.host),
    )
    context = tls.UpstreamTlsContext(
        sni="" if is_ip(collector.host) else collector.host,
        common_tls_context=tls.CommonTlsContext(
            alpn_protocols=["h2"] if collector.protocol == "grpc" else [],
            validation_context=tls.CertificateValidationContext(
                trusted_ca=core.DataSource(filename=collector.ca),
                match_typed_subject_alt_names=[expected],
            ),
        ),
    )
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))
