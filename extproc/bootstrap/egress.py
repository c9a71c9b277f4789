"""The listener through which the processor calls models. It has no external processor: a call is never routed twice."""

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import HeaderMutation
from envoy_data_plane.envoy.extensions.filters.http.header_to_metadata import v3 as to_metadata
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm

from extproc import headers
from extproc.bootstrap import local_replies, stats, tracing
from extproc.bootstrap.ingress import idle_timeout
from extproc.bootstrap.messages import (
    address,
    http_filter,
    http_listener,
    seconds,
    watched_file,
)
from extproc.bootstrap.routes import HEADERS
from extproc.config import Config

_LOOPBACK = (("127.0.0.0", 8), ("::1", 128))


def egress(config: Config, directory: str) -> listener.Listener:
    return http_listener(
        "egress",
        # Whoever may connect may spend money: the socket is its owner's alone.
        address(config.egress, mode=0o600),
        _manager(config, directory),
        # Clients that use up the connections must not keep the processor from its calls.
        counts_connections=False,
    )


def _manager(config: Config, directory: str) -> hcm.HttpConnectionManager:
    return hcm.HttpConnectionManager(
        stat_prefix="egress",
        rds=hcm.Rds(
            route_config_name="egress", config_source=watched_file(directory, "rds-egress.yaml")
        ),
        # Both, or Envoy ignores the deadline and the number of retries that the processor gives each call
        # in `x-envoy-upstream-rq-timeout-ms` and `x-envoy-max-retries`.
        use_remote_address=True,
        internal_address_config=_internal(config),
        stream_idle_timeout=idle_timeout(config),
        # When a backend breaks off, the processor sees it once it has what came before, and not a second later.
        delayed_close_timeout=seconds(0),
        access_log=stats.egress(),
        tracing=tracing.of_calls(config),
        local_reply_config=local_replies.egress(),
        http_filters=[
            http_filter("envoy.filters.http.header_to_metadata", _remember_role()),
            # Does only what a model's route tells it to.
            http_filter(HEADERS, HeaderMutation()),
            http_filter("envoy.filters.http.router", Router()),
        ],
    )


def _remember_role() -> to_metadata.Config:
    """The route removes the header before the access log could read it."""
    role = to_metadata.ConfigKeyValuePair(metadata_namespace="looper", key="role")
    return to_metadata.Config(
        request_rules=[to_metadata.ConfigRule(header=headers.ROLE, on_header_present=role)]
    )


def _internal(config: Config) -> hcm.HttpConnectionManagerInternalAddressConfig:
    if config.egress.startswith("unix:"):
        return hcm.HttpConnectionManagerInternalAddressConfig(unix_sockets=True)
    return hcm.HttpConnectionManagerInternalAddressConfig(
        cidr_ranges=[
            core.CidrRange(address_prefix=prefix, prefix_len=length) for prefix, length in _LOOPBACK
        ]
    )
