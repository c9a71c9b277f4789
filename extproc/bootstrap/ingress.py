"""The listener that clients connect to, with the external processor in its way."""

import re
from collections.abc import Iterator
from datetime import timedelta

from envoy_data_plane.envoy.config.common.mutation_rules import v3 as mutation
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.extensions.compression.brotli.decompressor.v3 import Brotli
from envoy_data_plane.envoy.extensions.compression.gzip.decompressor.v3 import Gzip
from envoy_data_plane.envoy.extensions.compression.zstd.decompressor.v3 import Zstd
from envoy_data_plane.envoy.extensions.filters.http.buffer.v3 import Buffer
from envoy_data_plane.envoy.extensions.filters.http.cors.v3 import Cors
from envoy_data_plane.envoy.extensions.filters.http.custom_response.v3 import CustomResponse
from envoy_data_plane.envoy.extensions.filters.http.decompressor import v3 as decompressor
from envoy_data_plane.envoy.extensions.filters.http.ext_proc import v3 as ext_proc
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import HeaderMutation
from envoy_data_plane.envoy.extensions.filters.http.json_to_metadata import v3 as json_to_metadata
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation import v3 as early
from envoy_data_plane.envoy.type import v3 as types
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from extproc import headers
from extproc.bootstrap import certificates, forwarding, local_replies, stats, tracing
from extproc.bootstrap.messages import (
    address,
    extension,
    http_filter,
    http_listener,
    pack,
    seconds,
    watched_file,
)
from extproc.bootstrap.processors import CLUSTER, FILTER
from extproc.bootstrap.routes import BUFFER, CORS, DECOMPRESSORS, HEADERS, REFUSALS, USAGE
from extproc.config import Config
from looper.calling.propagation import CONTEXT

PREFIX = "x-looper-"
"""Of headers that only the processor may set."""

WRITABLE = (
    headers.PATIENCE,
    "content-type",
    "content-length",
    "retry-after",
    "cache-control",
    "x-should-retry",
    "x-accel-buffering",
)
"""Headers beside its own, and those that decisions change, that the processor may write, to requests and to answers."""

_READ_AT_ONCE = 64 << 10
"""Bytes that are read from a connection before they go on. Decompressed, they may be a thousand times as many."""

_LARGEST_RATIO = 1032
"""By which gzip can shrink anything. The limit is `buffer`'s; those of `zstd` and `br` are Envoy's own, 100."""

_GRACE = seconds(5)
"""By how much a clock of Envoy's outlasts the deadline that it must not overtake."""


def ingress(config: Config, directory: str) -> listener.Listener:
    tls = config.envoy.tls
    return http_listener(
        "ingress",
        address(config.envoy.ingress),
        manager(config, directory),
        buffer_bytes=_READ_AT_ONCE,
        transport_socket=None if tls is None else certificates.downstream(tls, directory),
    )


def longest_deadline(config: Config) -> timedelta:
    """How long a loop may keep its client waiting, plus some grace."""
    deadlines = [
        decision.budget.deadline
        for recipe in config.recipes.values()
        for decision in recipe.decisions
    ]
    return max(deadlines) + _GRACE


def is_metered(config: Config) -> bool:
    """Do the answers of single models pass through the processor."""
    return config.envoy.profile == "metered"


def idle_timeout(config: Config) -> timedelta:
    """An unstreamed loop is silent until it ends, so silence must be allowed for as long as any deadline."""
    return max(config.envoy.stream_idle_timeout, longest_deadline(config))


def manager(config: Config, directory: str) -> hcm.HttpConnectionManager:
    return hcm.HttpConnectionManager(
        stat_prefix="ingress",
        rds=hcm.Rds(
            route_config_name="ingress", config_source=watched_file(directory, "rds-ingress.yaml")
        ),
        # Takes `x-envoy-*` from clients, which would set timeouts and retries, and their `x-request-id`: as long as
        # there is no `internal_address_config`, for even an empty one makes Envoy trust private addresses.
        use_remote_address=True,
        generate_request_id=True,
        always_set_request_id_in_response=config.envoy.request_id_in_response,
        preserve_external_request_id=config.envoy.preserve_external_request_id,
        # What nginx speaks to those behind it unless told otherwise.
        http_protocol_options=core.Http1ProtocolOptions(
            accept_http_10=True, default_host_for_http_10="looper"
        ),
        early_header_mutation_extensions=[_without_own_headers()],
        # A path that climbs out of /v1/ must not reach an upstream's other paths.
        normalize_path=True,
        merge_slashes=True,
        # Below /v1/models/ one may be part of a name; everywhere else one of the first routes refuses it.
        path_with_escaped_slashes_action=(
            hcm.HttpConnectionManagerPathWithEscapedSlashesAction.KEEP_UNCHANGED
        ),
        request_headers_timeout=seconds(10),
        stream_idle_timeout=idle_timeout(config),
        common_http_protocol_options=core.HttpProtocolOptions(
            max_stream_duration=config.envoy.max_stream_duration,
            # Many a server takes `x_looper_model` for `x-looper-model`, which only we may set.
            headers_with_underscores_action=(
                core.HttpProtocolOptionsHeadersWithUnderscoresAction.DROP_HEADER
            ),
        ),
        access_log=stats.ingress(config),
        tracing=tracing.of_requests(config),
        local_reply_config=local_replies.ingress(),
        http_filters=_filters(config),
    )


def _without_own_headers() -> core.TypedExtensionConfig:
    """Runs before the route is chosen; a filter would run after."""
    prefix = mutation.HeaderMutationRemoveOnMatch(key_matcher=matcher.StringMatcher(prefix=PREFIX))
    return extension(
        "envoy.http.early_header_mutation.header_mutation",
        early.HeaderMutation(mutations=[mutation.HeaderMutation(remove_on_match=prefix)]),
    )


def _filters(config: Config) -> list[hcm.HttpFilter]:
    # Where the processor sees the answers, it is the one to say what they used.
    usage = [http_filter(USAGE, _usage())]
    # First of all, so that what other filters refuse can be read by pages, too. Routes have the policy.
    cors = () if config.envoy.cors is None else (http_filter(CORS, Cors()),)
    return [
        *cors,
        *_decompressors(),
        # Nothing else bounds a body in full duplex mode, where Envoy holds nothing back.
        http_filter(BUFFER, Buffer(max_request_bytes=config.limits.max_body)),
        processor(config),
        # Both do only what a model's route tells them to.
        http_filter(REFUSALS, CustomResponse()),
        http_filter(HEADERS, HeaderMutation()),
        *(() if is_metered(config) else usage),
        http_filter("envoy.filters.http.router", Router(suppress_envoy_headers=True)),
    ]


def _decompressors() -> Iterator[hcm.HttpFilter]:
    """Asleep unless a route wakes them: what is not ours to read arrives as it was sent."""
    off = core.RuntimeFeatureFlag(default_value=False, runtime_key="looper.decompress.answers")
    libraries = (
        Gzip(chunk_size=_READ_AT_ONCE, max_inflate_ratio=_LARGEST_RATIO),
        Zstd(chunk_size=_READ_AT_ONCE),
        Brotli(chunk_size=_READ_AT_ONCE),
    )
    for name, library in zip(DECOMPRESSORS, libraries, strict=True):
        message = decompressor.Decompressor(
            decompressor_library=extension(name.removeprefix("looper."), library),
            request_direction_config=decompressor.DecompressorRequestDirectionConfig(
                common_config=decompressor.DecompressorCommonDirectionConfig(
                    ignore_no_transform_header=True
                ),
                advertise_accept_encoding=False,
            ),
            response_direction_config=decompressor.DecompressorResponseDirectionConfig(
                common_config=decompressor.DecompressorCommonDirectionConfig(enabled=off)
            ),
        )
        yield hcm.HttpFilter(name=name, typed_config=pack(message), disabled=True)


def processor(config: Config) -> hcm.HttpFilter:
    return http_filter(FILTER, _processor(config))


def _processor(config: Config) -> ext_proc.ExternalProcessor:
    buffered = config.envoy.body_mode == "buffered"
    return ext_proc.ExternalProcessor(
        stat_prefix="looper",
        grpc_service=_grpc_service(),
        # Without a decision there is no model to send a request to.
        failure_mode_allow=False,
        status_on_error=types.HttpStatus(code=types.StatusCode.ServiceUnavailable),
        # Buffered, a loop runs its whole course between two messages. Full duplex has no such clock.
        message_timeout=longest_deadline(config) if buffered else seconds(5),
        processing_mode=_processing_mode(buffered=buffered, metered=is_metered(config)),
        # Whatever the processor answers: a route chosen before it spoke is never used.
        route_cache_action=ext_proc.ExternalProcessorRouteCacheAction.CLEAR,
        metadata_options=ext_proc.MetadataOptions(
            forwarding_namespaces=forwarding.metadata(config),
            receiving_namespaces=ext_proc.MetadataOptionsMetadataNamespaces(
                untyped=["looper", "looper.rewritten"]
            ),
        ),
        request_attributes=forwarding.attributes(config),
        forward_rules=forwarding.header_rules(config),
        mutation_rules=mutation.HeaderMutationRules(
            disallow_all=True, allow_expression=matcher.RegexMatcher(regex=writable_regex(config))
        ),
    )


def writable_regex(config: Config) -> str:
    """Matches a whole name. No header's name holds anything but hyphens that would need quoting."""
    changed = {
        name
        for recipe in config.recipes.values()
        for decision in recipe.decisions
        for name in decision.headers.names
    }
    traced = () if config.tracing is None else CONTEXT
    names = dict.fromkeys((*WRITABLE, *traced, *sorted(changed)))
    return "|".join([f"{PREFIX}.*", *(re.escape(name).replace(r"\-", "-") for name in names)])


def _grpc_service() -> core.GrpcService:
    """Replays what a processor that went away had not begun; enough tries to outlast its restart."""
    return core.GrpcService(
        envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=CLUSTER),
        retry_policy=core.RetryPolicy(
            retry_on="unavailable,cancelled,reset,connect-failure,refused-stream",
            num_retries=12,
            retry_back_off=core.BackoffStrategy(
                base_interval=seconds(0.1), max_interval=seconds(1)
            ),
        ),
    )


def _processing_mode(*, buffered: bool, metered: bool) -> ext_proc.ProcessingMode:
    """Unless metered, requests only: answers flow at Envoy's own speed, and no late error waits for the processor."""
    body, trailers = ext_proc.ProcessingModeBodySendMode, ext_proc.ProcessingModeHeaderSendMode
    return ext_proc.ProcessingMode(
        request_header_mode=trailers.SEND,
        request_body_mode=body.BUFFERED if buffered else body.FULL_DUPLEX_STREAMED,
        # Full duplex insists on trailers.
        request_trailer_mode=trailers.SKIP if buffered else trailers.SEND,
        response_header_mode=trailers.SEND if metered else trailers.SKIP,
        response_body_mode=body.STREAMED if metered else body.NONE,
        response_trailer_mode=trailers.SKIP,
    )


def _usage() -> json_to_metadata.JsonToMetadata:
    """The token counts of unstreamed answers. What the processor has said of a loop already, stays."""
    rules = [
        json_to_metadata.JsonToMetadataRule(
            selectors=[
                json_to_metadata.JsonToMetadataSelector(key="usage"),
                json_to_metadata.JsonToMetadataSelector(key=key),
            ],
            on_present=json_to_metadata.JsonToMetadataKeyValuePair(
                metadata_namespace="looper", key=key, preserve_existing_metadata_value=True
            ),
        )
        for key in ("prompt_tokens", "completion_tokens")
    ]
    # Not what ends in a semicolon: `headers.JSON_IN_BITS` must not be held to its end.
    return json_to_metadata.JsonToMetadata(
        response_rules=json_to_metadata.JsonToMetadataMatchRules(
            rules=rules,
            allow_content_types_regex=matcher.RegexMatcher(regex="application/json( *;.*[^; ])?"),
        )
    )
