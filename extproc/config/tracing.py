"""Where traces go: the settings of the processor's own spans, and of Envoy's."""

from datetime import timedelta
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from extproc.config.addresses import check_address
from looper.settings import Name, Probability, SecretReference, Setting, SomeTime

_PORTS = {"http": 80, "https": 443}

_PATH = "/v1/traces"
"""Where a collector takes spans over HTTP, unless its URL says otherwise."""

_TRUSTED = "/etc/ssl/certs/ca-certificates.crt"


def _check_endpoint(endpoint: str) -> str:
    # What stands there is not repeated: it may be a URL with a credential in it.
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a collector is http:// or https://, a host, and usually a port")
    if "@" in parts.netloc:
        raise ValueError("must not carry a credential: use `headers`")
    if parts.query or parts.fragment:
        raise ValueError("a collector's URL has no query and no fragment")
    port = parts.port or _PORTS[parts.scheme]  # raises ValueError when it is not a port
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    try:
        check_address(f"{host}:{port}")
    except ValueError:
        raise ValueError("a collector's URL has no host that could be found") from None
    if not parts.path.isascii() or any(character.isspace() for character in parts.path):
        raise ValueError("a collector's path is plain ASCII: write `%…`")
    return endpoint.rstrip("/")


class Collector(Setting):
    """What takes spans over OTLP: a collector, or a store of traces."""

    endpoint: Annotated[str, AfterValidator(_check_endpoint)] = Field(
        description="such as http://collector:4317; over `http` without a path, /v1/traces"
    )
    protocol: Literal["grpc", "http"] = "grpc"
    ca: str = Field(
        default=_TRUSTED,
        pattern=r"^/[^\x00-\x1f\x7f]{0,4095}$",
        description="PEM file of trusted roots, for https",
    )

    @model_validator(mode="after")
    def _has_its_port(self) -> Self:
        parts = urlsplit(self.endpoint)
        if self.protocol == "grpc" and parts.path:
            raise ValueError("over gRPC an endpoint has no path: is it `protocol: http`?")
        if parts.port is None and parts.scheme == "http":
            usual = 4317 if self.protocol == "grpc" else 4318
            raise ValueError(f"say the endpoint's port, which is {usual} as a rule")
        return self

    @property
    def tls(self) -> bool:
        return urlsplit(self.endpoint).scheme == "https"

    @property
    def host(self) -> str:
        return urlsplit(self.endpoint).hostname or ""

    @property
    def port(self) -> int:
        parts = urlsplit(self.endpoint)
        return parts.port or _PORTS[parts.scheme]

    @property
    def path(self) -> str:
        """Where spans go over HTTP."""
        return urlsplit(self.endpoint).path or _PATH

    @property
    def url(self) -> str:
        """The whole URL, as an exporter wants it."""
        parts = urlsplit(self.endpoint)
        address = f"{parts.scheme}://{parts.netloc}"
        return address if self.protocol == "grpc" else f"{address}{self.path}"


MetadataName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,127}$")]


class ProcessorCollector(Collector):
    """The same, with what the processor has to show there."""

    headers: dict[MetadataName, SecretReference] = Field(
        default_factory=dict,
        description="sent along, such as `authorization`; by `env` or `file`",
    )


class TracingSettings(Setting):
    """The processor's spans. Never a word of what was said."""

    otlp: ProcessorCollector
    sample: Probability = Field(
        default=1.0, description="the part of traces that begin here; others say it themselves"
    )
    service: Name = Field(default="envoy-looper", description="`service.name` of the spans")
    queue: int = Field(
        default=8192, ge=64, le=1_000_000, description="spans that may wait; more are dropped"
    )
    flush: SomeTime = Field(
        default=timedelta(seconds=3), description="how long the end waits for the last of them"
    )


class EnvoyTracing(Setting):
    """Envoy's own spans, of clients' requests and of calls."""

    otlp: Collector
    sample: Probability = Field(
        default=1.0, description="the part of traces that begin at Envoy; others say it themselves"
    )
    service: Name = Field(default="envoy", description="`service.name` of the spans")
