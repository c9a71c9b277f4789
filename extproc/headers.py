"""The headers that are ours. Clients' copies never reach a route; backends never see them."""

from collections.abc import Iterable

MODEL = "x-looper-model"
ROLE = "x-looper-role"
RUN = "x-looper-run"
DECISION = "x-looper-decision"
ALGORITHM = "x-looper-algorithm"
OUTCOME = "x-looper-outcome"
RECIPE = "x-looper-recipe"
GENERATION = "x-looper-generation"
"""Of the configuration from which Envoy's routes were made, and where they lead: metadata of its streams to us."""

TRAILERS = "x-looper-trailers"
"""Set on a routed request that ends with trailers, which must not be retried."""

HOP = "looper-hop"
"""Through whose routes a request has come, each with a mark of its own: what comes back to the same is refused. It has
no name that the ingress removes, as it has to come back; a client that forges one keeps itself out.
"""

JSON_IN_BITS = "application/json;"
"""The content type of JSON that is sent bit by bit. To clients it is `application/json`, but Envoy's filter that reads
the usage of answers, and holds each to its end for that, is told to leave alone what ends in a semicolon.
"""

CREDENTIALS = ("authorization", "proxy-authorization", "cookie", "x-api-key", "api-key")
"""Request headers that a client proves itself with: neither the processor nor a backend sees them."""

NOT_FOR_BACKENDS = (
    *CREDENTIALS,
    # An account that belongs to the credential just removed: beside ours it makes providers refuse the call.
    "openai-organization",
    "openai-project",
    # The client's address is no business of a provider.
    "x-forwarded-for",
    "x-envoy-external-address",
    "x-envoy-internal",
    # Envoy reads the usage of an answer in passing, which it cannot if the answer is compressed.
    "accept-encoding",
    "looper-debug",
)
"""Request headers that every route takes away, beside our own."""

DROPPED = (
    # More of where a client is...
    "forwarded",
    "x-real-ip",
    "true-client-ip",
    "cf-connecting-ip",
    # ... and of what it proves itself with, to a provider or to a proxy before us.
    "x-goog-api-key",
    "anthropic-api-key",
    "x-auth-token",
    "x-amz-security-token",
    "x-forwarded-access-token",
    "cf-access-token",
    "x-auth-request-*",
)
"""What clients' own requests lose on their way to a model unless the configuration keeps it, `*` for any ending."""

PATIENCE = "x-envoy-upstream-rq-per-try-timeout-ms"
"""How long Envoy waits for the beginning of a routed answer."""

_OF_THE_CONNECTION = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"}
    | {"upgrade", "host", "expect", "content-length", "content-type", "content-encoding"}
)
_RESERVED = ("x-looper-", "x-envoy-", "x-forwarded-", ":")


def check_forwardable(name: str) -> str:
    """Raise ValueError for a header that must not go from a client to a backend."""
    name = name.lower()
    if name in NOT_FOR_BACKENDS or name.startswith(_RESERVED):
        raise ValueError(f"{name} is never forwarded: Envoy's routes take it away")
    if name in _OF_THE_CONNECTION:
        raise ValueError(f"{name} is never forwarded: it belongs to one connection, or one body")
    return name


def stands_among(names: Iterable[str], name: str) -> bool:
    """Whether a header is one of these, where a name that ends in `*` stands for all that begin so."""
    return any(name.startswith(each[:-1]) if each.endswith("*") else name == each for each in names)


def check_droppable(name: str) -> str:
    """Raise ValueError for a header that is not the operator's to drop or to keep."""
    bare = name.removesuffix("*")
    if bare.startswith(("x-looper-", "x-envoy-")) or bare in _OF_THE_CONNECTION | {"looper-debug"}:
        raise ValueError(f"{name} is Envoy's business or ours: it can be neither dropped nor kept")
    return name


OWN = (MODEL, ROLE, RUN, DECISION, ALGORITHM, OUTCOME, RECIPE, TRAILERS, GENERATION)
