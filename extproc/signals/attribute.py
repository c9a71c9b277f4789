"""Does Envoy say something of the request: in one of its attributes, or in dynamic metadata of a filter's?"""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from extproc.protocol.events import METADATA, Value
from extproc.signals.base import Reading, Subject
from extproc.signals.values import Condition, Path

AttributeName = Literal[
    "connection.dns_san_local_certificate",
    "connection.dns_san_peer_certificate",
    "connection.id",
    "connection.mtls",
    "connection.requested_server_name",
    "connection.sha256_peer_certificate_digest",
    "connection.subject_local_certificate",
    "connection.subject_peer_certificate",
    "connection.tls_version",
    "connection.uri_san_local_certificate",
    "connection.uri_san_peer_certificate",
    "destination.address",
    "destination.port",
    "request.host",
    "request.id",
    "request.method",
    "request.path",
    "request.protocol",
    "request.query",
    "request.referer",
    "request.scheme",
    "request.time",
    "request.url_path",
    "request.useragent",
    "source.address",
    "source.port",
    "xds.cluster_name",
    "xds.filter_chain_name",
    "xds.listener_direction",
    "xds.route_name",
    "xds.virtual_host_name",
]
"""Envoy's, of those that are known when a request begins. It says nothing of one whose name it does not know."""


class AttributeConfig(Condition):
    """`{type: attribute, metadata: envoy.filters.http.jwt_authn, path: claims.tenant, equals: acme}`"""

    type: Literal["attribute"]
    name: AttributeName | None = Field(default=None, description="an attribute of Envoy's")
    metadata: str | None = Field(
        default=None, min_length=1, description="a namespace of dynamic metadata"
    )
    path: Path = Field(default=(), description="where in that namespace; default: all of it")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.name is None) == (self.metadata is None):
            raise ValueError("give exactly one of `name` and `metadata`")
        if self.path and self.metadata is None:
            raise ValueError("`path` goes with `metadata`")
        return self

    def build(self) -> "Attribute":
        return Attribute(self)


class Attribute:
    """Reads an `attribute` signal."""

    def __init__(self, config: AttributeConfig) -> None:
        self._config = config
        self._path = (
            (config.name,)
            if config.name is not None
            else (METADATA, config.metadata or "", *config.path)
        )

    def read(self, subject: Subject) -> Reading:
        value: Value = subject.attributes
        for name in self._path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return self._config.reading(value)
