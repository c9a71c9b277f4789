"""What of a client's headers goes with the calls that are made for it."""

import re
import secrets
from collections.abc import Iterable, Mapping

CONTEXT = ("traceparent", "tracestate")
"""The headers by which W3C's trace context goes on."""

FORWARDED = ("x-request-id", *CONTEXT)
"""The headers that go with every call unless the configuration says otherwise."""

_LONGEST_NAME = 128
"""Characters that are kept of the id of a request, which may be the client's own."""

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-((?!0{32})[0-9a-f]{32})-((?!0{16})[0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)


def forwarded(headers: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """The named ones of `headers`. A trace that is not W3C's is not continued."""
    kept = {name: headers[name] for name in names if name in headers}
    traced = read_traceparent(kept.pop("traceparent", ""))
    if traced is None:
        kept.pop("tracestate", None)
        return kept
    return {**kept, "traceparent": traced}


def trail(headers: Mapping[str, str]) -> dict[str, str]:
    """By what others know a request, as far as it is known: its trace, and the name that it came with."""
    found: dict[str, str] = {}
    if named := headers.get("x-request-id", "")[:_LONGEST_NAME]:
        found["request_id"] = named
    if (traced := read_traceparent(headers.get("traceparent", ""))) is not None:
        found["trace_id"] = traced.split("-")[1]
    return found


def joined(headers: Mapping[str, str], context: Mapping[str, str]) -> dict[str, str]:
    """Headers that belong to another span: the one of `context`, if that names any."""
    if "traceparent" not in context:
        return dict(headers)
    kept = {name: value for name, value in headers.items() if name not in CONTEXT}
    return kept | {name: context[name] for name in CONTEXT if context.get(name)}


def child(headers: Mapping[str, str]) -> tuple[Mapping[str, str], str | None]:
    """The headers of one call: in a trace, with a span of its own, which is returned too."""
    parent = headers.get("traceparent")
    if parent is None:
        return headers, None
    version, trace, _, flags = parent.split("-")
    span = secrets.token_hex(8)
    return {**headers, "traceparent": f"{version}-{trace}-{span}-{flags}"}, span


def read_traceparent(text: str) -> str | None:
    """A traceparent in the version that we know; None if it is none. What later versions add is left out."""
    found = _TRACEPARENT.fullmatch(text)
    if found is None or (text.startswith("00") and found[4] is not None):
        return None
    return f"00-{found[1]}-{found[2]}-{found[3]}"
