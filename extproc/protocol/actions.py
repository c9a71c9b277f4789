"""What we tell Envoy to do with one HTTP exchange, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Headers = tuple[tuple[str, str], ...]
Metadata = Mapping[str, str | int]
"""Dynamic metadata of namespace `looper`. Numbers are non-negative: Envoy's counters take nothing else."""


@dataclass(frozen=True, slots=True)
class PassHeaders:
    """Let the headers go on as they are; the route is chosen again."""


@dataclass(frozen=True, slots=True)
class PassBody:
    """Let a piece of the request's body go on as it is."""

    data: bytes
    end_of_stream: bool


@dataclass(frozen=True, slots=True)
class PassTrailers:
    """Let the request's trailers go on as they are."""


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Let the request go on with these headers and this body, by the route that the headers choose.

    `headers` stand in place of the client's, `appended` beside them, and `removed` ones go. `trailers` says that the
    request ended with trailers, which then end the new body as well.
    """

    headers: Headers
    body: bytes
    metadata: Metadata
    trailers: bool = False
    appended: Headers = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Respond:
    """Answer in Envoy's place, all at once. `details` is what access logs show: one of a few words."""

    status: int
    headers: Headers
    body: bytes
    details: str
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Begin to answer in Envoy's place, bit by bit. A stream that was opened must be closed."""

    headers: Headers
    metadata: Metadata = field(default_factory=dict)
    status: int = 200


@dataclass(frozen=True, slots=True)
class StreamData:
    """The next bit of an answer that was begun."""

    data: bytes


@dataclass(frozen=True, slots=True)
class CloseStream:
    """The last bit of an answer that was begun."""

    data: bytes
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PassResponseHeaders:
    """Let a backend's response headers go on as they are."""


@dataclass(frozen=True, slots=True)
class PassResponseBody:
    """Let a piece of an answer go on: as it is, or with other bytes in its place, or with none."""

    replacement: bytes | None = None
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PassResponseTrailers:
    """Let a backend's trailers go on as they are."""


Action = (
    PassHeaders
    | PassBody
    | PassTrailers
    | Rewrite
    | Respond
    | OpenStream
    | StreamData
    | CloseStream
    | PassResponseHeaders
    | PassResponseBody
    | PassResponseTrailers
)
