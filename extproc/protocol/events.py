"""What Envoy tells us of one HTTP exchange, as values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

Value = None | bool | float | str | Sequence["Value"] | Mapping[str, "Value"]
"""An attribute of Envoy's, or something of its dynamic metadata."""

METADATA = "metadata"
"""Among attributes, what dynamic metadata stands under."""


class BodyMode(Enum):
    """How Envoy hands over request bodies. The first message of a stream announces it."""

    FULL_DUPLEX = "full_duplex"
    BUFFERED = "buffered"


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """The first event of every exchange. Header names are lower-case.

    `metered`: the filter sends the answer as well, and holds each piece of it until we have said what to do with it.
    `attributes` are those of Envoy's that the filter sends, by name; under `metadata` stands its dynamic metadata, by
    namespace.
    """

    headers: Mapping[str, str]
    end_of_stream: bool
    mode: BodyMode
    metered: bool = False
    attributes: Mapping[str, Value] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return self.headers.get(":path", "").partition("?")[0]

    @property
    def method(self) -> str:
        return self.headers.get(":method", "")


@dataclass(frozen=True, slots=True)
class RequestBody:
    """A piece of the body, or all of it. `end_of_stream` stays false when trailers follow."""

    data: bytes
    end_of_stream: bool


@dataclass(frozen=True, slots=True)
class RequestTrailers:
    """The request's trailers, which end it. `growth`: how many times as large Envoy's decompression made its body."""

    growth: float = 0


@dataclass(frozen=True, slots=True)
class ResponseHeaders:
    """The answer begins: a backend's, or Envoy's own in its place. Comes only if the filter sends response headers."""

    headers: Mapping[str, str] = field(default_factory=dict)
    end_of_stream: bool = False

    @property
    def status(self) -> int | None:
        text = self.headers.get(":status", "")
        return int(text) if text.isascii() and text.isdigit() else None


@dataclass(frozen=True, slots=True)
class ResponseBody:
    """A piece of the answer. `end_of_stream` stays false when trailers follow."""

    data: bytes
    end_of_stream: bool


@dataclass(frozen=True, slots=True)
class ResponseTrailers:
    """A backend's trailers. Come only if the filter sends them, which ours does not."""


Event = (
    RequestHeaders
    | RequestBody
    | RequestTrailers
    | ResponseHeaders
    | ResponseBody
    | ResponseTrailers
)
