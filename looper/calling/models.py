"""The model catalogue: what is known of each model that a team can be made of."""

import re
from decimal import Decimal
from typing import Annotated, Self
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, model_validator

from looper.settings import (
    Duration,
    Name,
    ParamSize,
    Probability,
    SecretReference,
    Setting,
    Tokens,
)
from looper.wire.chat import Capability
from looper.wire.dialects import Dialect, NamedDialect

Usd = Annotated[Decimal, Field(ge=0)]


_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?\.?|[0-9a-fA-F:.]+")
_PATH = re.compile(r"[!-~]*")
_CREDENTIALS = frozenset(
    {"key", "api-key", "api_key", "apikey", "access_token", "token", "subscription-key", "sig"}
)
"""What servers call a credential in a query."""

_FILE = re.compile(r"/[^\x00-\x1f\x7f]{0,4095}")


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a URL is http:// or https://, a host, and usually /v1")
    if parts.username or parts.password:
        raise ValueError("a URL must not carry a credential: use `api_key`")
    if parts.fragment:
        raise ValueError("a URL has no fragment")
    _check_query(parts.query)
    _ = parts.port  # raises ValueError when it is not a port
    if not _HOST.fullmatch(parts.hostname) or not _PATH.fullmatch(parts.path + parts.query):
        raise ValueError("a URL has a host and a path of plain ASCII: write `xn--…` and `%…`")
    before, _, _ = url.partition("?")
    return before.rstrip("/") + (f"?{parts.query}" if parts.query else "")


def _check_query(query: str) -> None:
    """Envoy refuses a name that is none, and writes what is no UTF-8 in another way."""
    names = [unquote(pair.partition("=")[0]).lower() for pair in query.split("&") if pair]
    if _CREDENTIALS & set(names):
        raise ValueError("a URL's query must not carry a credential: use `api_key`")
    if not all(names):
        raise ValueError("a URL's query has names, such as `api-version=2024-10-21`")
    try:
        unquote(query, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("a URL's query is UTF-8 where it is quoted") from None


def _check_file(path: str) -> str:
    if not _FILE.fullmatch(path):
        raise ValueError("a file is an absolute path, without control characters")
    return path


_NOT_OURS_TO_SET = frozenset(
    {"host", "connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade", "expect"}
    | {"transfer-encoding", "content-length"}
)


def _check_header(name: str) -> str:
    """Envoy refuses all routes for one header that is none, or that it writes itself."""
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}", name):
        raise ValueError("is no name of a header")
    if name.lower() in _NOT_OURS_TO_SET:
        raise ValueError(f"{name} is Envoy's to write: it belongs to one connection, or one body")
    return name


def _check_value(value: str) -> str:
    if re.search(r"[^\t -~\x80-\U0010ffff]|[\ud800-\udfff]", value) or len(value) > 8192:
        raise ValueError("a header's value has no control characters, and 8192 characters at most")
    return value


FilePath = Annotated[str, AfterValidator(_check_file)]
HeaderName = Annotated[str, AfterValidator(_check_header)]
HeaderValue = Annotated[str, AfterValidator(_check_value)]

Url = Annotated[str, AfterValidator(_check_url)]

ClusterName = Annotated[str, Field(pattern=r"^[!-~]([ -~]{0,254}[!-~])?$")]
"""A name in Envoy's configuration, which may be one of Istio's, such as `outbound|8000||vllm.default`."""


class ApiKey(SecretReference):
    """An upstream's key: where Envoy finds it, and the header that carries it."""

    header: Annotated[HeaderName, Field(pattern=r"^[a-z0-9-]+$")] = "authorization"
    prefix: HeaderValue | None = Field(
        default=None, description="default: 'Bearer ' in authorization, else nothing"
    )

    @property
    def value_prefix(self) -> str:
        if self.prefix is not None:
            return self.prefix
        return "Bearer " if self.header == "authorization" else ""


class Price(Setting):
    """USD per million tokens, which is the same number as micro-USD per token."""

    input: Usd
    output: Usd


class Tls(Setting):
    """How an https upstream is verified. It always is."""

    ca: FilePath = Field(
        default="/etc/ssl/certs/ca-certificates.crt", description="PEM file of trusted roots"
    )
    server_name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_:]([A-Za-z0-9_.:-]{0,251}[A-Za-z0-9_:])?$",
        description="SNI and certificate name; default: the host",
    )
    certificate: FilePath | None = Field(
        default=None, description="PEM file: what Envoy proves itself with to the upstream"
    )
    key: FilePath | None = Field(default=None, description="PEM file: its key")

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("`certificate` and `key` need each other")
        return self


class Retry(Setting):
    """Envoy's own retries, made only where no answer was begun (connection failures, 429, 503)."""

    attempts: int = Field(default=1, ge=0, le=10, description="how often a call is tried again")


class Breaker(Setting):
    """How much may be under way to one model at once; what is above is refused at once with 503."""

    max_requests: int = Field(default=1024, ge=1, le=1_000_000)
    max_pending: int = Field(default=1024, ge=1, le=1_000_000)
    max_connections: int = Field(default=1024, ge=1, le=1_000_000)


class Model(Setting):
    """One entry of the catalogue. Only `looper envoy-config` reads `url`, `api_key`, `tls`, `retry`, `breaker`."""

    name: Name
    upstream_model: str = Field(
        default="", description="the name the upstream knows it by; default: `name`"
    )
    url: Url | None = Field(
        default=None, description="where it is; beside `cluster`, its host and path only"
    )
    cluster: ClusterName | None = Field(
        default=None, description="in place of `url`: a cluster of yours in Envoy's configuration"
    )
    api_key: ApiKey | None = None
    headers: dict[HeaderName, HeaderValue] = Field(
        default_factory=dict, description="sent with every call"
    )
    tls: Tls = Tls()
    retry: Retry = Retry()
    breaker: Breaker = Breaker()
    param_size: ParamSize | None = Field(
        default=None, description="how many parameters it has, such as 8B; unset is unknown"
    )
    context_window: Tokens | None = None
    max_output: Tokens | None = None
    price: Price | None = None
    rating: Probability | dict[str, Probability] | None = Field(
        default=None,
        description="how often it is right, over all or by category (`default` for the rest)",
    )
    capabilities: frozenset[Capability] | None = Field(
        default=None, description="what it can do; unset: nobody knows, and it is asked"
    )
    dialect: NamedDialect = Field(
        default=Dialect(open=True),
        description="how it wants to be spoken to: a name, or written out",
    )
    timeout: Duration | None = Field(default=None, description="how long one call may take at most")
    public: bool | Name = Field(
        default=False,
        description="may a client ask for it by name; a recipe's name says whose guards it meets first",
    )
    tags: frozenset[Name] = Field(
        default=frozenset(), description="what recipes allow it by, such as who runs it and where"
    )

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if self.url is None and self.cluster is None:
            raise ValueError("give `url`, or `cluster` for one of your own Envoy's")
        if self.cluster is not None:
            theirs = {"api_key", "tls", "breaker"} & self.model_fields_set
            for key in sorted(theirs):
                raise ValueError(f"`{key}` is the business of the cluster {self.cluster!r} itself")
        return self

    @property
    def place(self) -> str:
        """What tells it from the same name at another place."""
        cluster = "" if self.cluster is None else f"cluster {self.cluster}"
        return " ".join(filter(None, (cluster, self.url)))

    @property
    def upstream(self) -> str:
        return self.upstream_model or self.name

    @property
    def known_rating(self) -> float | None:
        """The rating over all categories; None where it is unknown."""
        return self.rating.get("default") if isinstance(self.rating, dict) else self.rating

    @property
    def declared_dialect(self) -> Dialect | None:
        """Its dialect, if the configuration says which one that is."""
        return self.dialect if "dialect" in self.model_fields_set else None

    def lacks(self, needs: frozenset[Capability], input_tokens: int) -> str | None:
        """Why it cannot take a request that needs this and is that long; None if it can, as far as is known."""
        if self.capabilities is not None and (missing := needs - self.capabilities):
            return sorted(missing)[0]
        window = self.context_window
        if window is not None and input_tokens + min(256, window // 4) > window:
            return "context_window"
        return None

    @property
    def general_rating(self) -> float:
        """The rating over all categories; 0 where it is unknown."""
        return self.known_rating or 0.0

    def rating_for(self, category: str | None) -> float | None:
        """The rating in a category, else the one over all; None where it is unknown."""
        in_category = self.rating.get(category or "") if isinstance(self.rating, dict) else None
        return self.known_rating if in_category is None else in_category
