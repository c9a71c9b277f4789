"""Pieces of Envoy's API that every part of its configuration is made of."""

import ipaddress
from collections.abc import Iterable, Sequence
from datetime import timedelta

from betterproto2 import Message
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.google.protobuf import Any

MIB = 1 << 20


def pack(message: Message) -> Any:
    """The message with its type's name, as Envoy wants an extension's configuration."""
    return Any.pack(message)


def extension(name: str, message: Message) -> core.TypedExtensionConfig:
    return core.TypedExtensionConfig(name=name, typed_config=pack(message))


def http_filter(name: str, message: Message) -> hcm.HttpFilter:
    return hcm.HttpFilter(name=name, typed_config=pack(message))


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def watched_file(directory: str, name: str, *, watch: str | None = None) -> core.ConfigSource:
    """A file that Envoy reads again after a rename in the directory `watch`, by default its own.

    A mounted ConfigMap or Secret changes by the rename of a symbolic link beside the file, which a watch on the file
    itself does not see.
    """
    return core.ConfigSource(
        path_config_source=core.PathConfigSource(
            path=f"{directory}/{name}",
            watched_directory=core.WatchedDirectory(path=watch or directory),
        ),
        resource_api_version=core.ApiVersion.V3,
    )


def socket(host: str, port: int) -> core.Address:
    return core.Address(socket_address=core.SocketAddress(address=host, port_value=port))


def address(text: str, *, mode: int = 0) -> core.Address:
    """`unix:/path`, `host:port` or `http://host:port` as Envoy writes it; `mode` is that of a socket to be made."""
    if text.startswith("unix:"):
        return core.Address(pipe=core.Pipe(path=text.removeprefix("unix:"), mode=mode))
    host, port = host_and_port(text)
    return socket(host, port)


def host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.removeprefix("http://").rstrip("/").rpartition(":")
    return host.strip("[]"), int(port)


def is_fixed(text: str) -> bool:
    """Whether nobody has to be asked where an address is."""
    return text.startswith("unix:") or is_ip(host_and_port(text)[0])


def is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def endpoints(cluster: str, addresses: Iterable[core.Address]) -> endpoint.ClusterLoadAssignment:
    found = [
        endpoint.LbEndpoint(endpoint=endpoint.Endpoint(address=address)) for address in addresses
    ]
    return endpoint.ClusterLoadAssignment(
        cluster_name=cluster, endpoints=[endpoint.LocalityLbEndpoints(lb_endpoints=found)]
    )


def http_listener(
    name: str,
    address: core.Address,
    manager: hcm.HttpConnectionManager,
    *,
    buffer_bytes: int = MIB,
    counts_connections: bool = True,
    transport_socket: core.TransportSocket | None = None,
) -> listener.Listener:
    """A listener that speaks HTTP; those that clients cannot reach are outside the limit on connections."""
    chain = listener.Filter(
        name="envoy.filters.network.http_connection_manager", typed_config=pack(manager)
    )
    return listener.Listener(
        name=name,
        address=address,
        per_connection_buffer_limit_bytes=buffer_bytes,
        ignore_global_conn_limit=not counts_connections,
        filter_chains=[listener.FilterChain(filters=[chain], transport_socket=transport_socket)],
    )


def header(name: str, value: str) -> core.HeaderValueOption:
    """A header that is set, whatever was there; `value` may hold Envoy's command operators."""
    return core.HeaderValueOption(
        header=core.HeaderValue(key=name, value=value),
        append_action=core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def literal(text: str) -> str:
    """Text in which Envoy finds no command operator."""
    return text.replace("%", "%%")


def json_body(inline: str) -> core.SubstitutionFormatString:
    return core.SubstitutionFormatString(
        text_format_source=core.DataSource(inline_string=inline), content_type="application/json"
    )


def names(headers: Sequence[str]) -> list[str]:
    """The names in lower case, each once, in their order."""
    return list(dict.fromkeys(name.lower() for name in headers))
