"""What Envoy tells the processor of a request: what it needs itself, what goes with calls, what signals ask for."""

from collections.abc import Iterator

from envoy_data_plane.envoy.extensions.filters.http.ext_proc import v3 as ext_proc
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from extproc import headers
from extproc.config import Config
from extproc.signals import AttributeConfig, HeaderConfig, SignalConfig
from looper.patterns.workflows.pauses.state import Identity

_OWN = (":method", ":path", "content-encoding", "looper-debug", "x-request-id", headers.HOP)
GROWTH = "x-envoy-decompressor-"
"""What trailers begin with that say how much a body has grown: the same rules hold for trailers."""

_OF_ANSWERS = (":status", "content-encoding", "content-type")
"""The same rules hold for the headers of answers, where these are metered."""


def header_rules(config: Config) -> ext_proc.HeaderForwardingRules:
    """No header that is not named here leaves Envoy, least of all what clients prove themselves with."""
    asked = {signal.name for signal in _signals(config) if isinstance(signal, HeaderConfig)}
    asked |= {each.header for each in _identities(config) if each.header is not None}
    names = [*dict.fromkeys((*_OWN, *config.forwarded, *_OF_ANSWERS, *sorted(asked)))]
    patterns = [matcher.StringMatcher(exact=name, ignore_case=True) for name in names]
    patterns.append(matcher.StringMatcher(prefix=GROWTH))
    return ext_proc.HeaderForwardingRules(
        allowed_headers=matcher.ListStringMatcher(patterns=patterns)
    )


def attributes(config: Config) -> list[str]:
    """The attributes that are asked for."""
    signals = (signal for signal in _signals(config) if isinstance(signal, AttributeConfig))
    told = (each.attribute for each in _identities(config))
    asked = [*told, *(signal.name for signal in signals)]
    return sorted({name for name in asked if name is not None})


def metadata(config: Config) -> ext_proc.MetadataOptionsMetadataNamespaces | None:
    """The namespaces that are asked for."""
    asked = [signal.metadata for signal in _signals(config) if isinstance(signal, AttributeConfig)]
    asked += [each.metadata for each in _identities(config)]
    namespaces = sorted({namespace for namespace in asked if namespace is not None})
    return ext_proc.MetadataOptionsMetadataNamespaces(untyped=namespaces) if namespaces else None


def _identities(config: Config) -> list[Identity]:
    """What tells clients apart whose runs wait, and tenants."""
    known = [] if config.state.identity is None else [config.state.identity]
    return [*known, *config.tenancies().values()]


def _signals(config: Config) -> Iterator[SignalConfig]:
    for recipe in config.recipes.values():
        yield from recipe.signals.values()
