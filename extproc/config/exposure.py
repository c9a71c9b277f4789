"""What a configuration lays open to others, and what it names that is not there: no error, but hardly meant."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from extproc.config.addresses import is_local, parted
from extproc.config.model import Config
from extproc.config.yaml_source import Path as YamlPath
from looper.patterns.workflows.pauses.state import RedisState

_SHORT = timedelta(milliseconds=100)


def exposed(config: Config) -> Iterator[tuple[YamlPath, str]]:
    """What somebody else may reach, read or be taken for, and what only looks as if it worked."""
    yield from _reached(config)
    yield from _back(config)
    yield from _read(config)
    yield from _untold(config)
    identity = config.state.identity
    if identity is not None and identity.header is not None:
        yield (
            ("state", "identity", "header"),
            "a client may send it itself, unless a filter before ours always sets it",
        )
    if config.heartbeat < _SHORT:
        yield ("heartbeat",), "so short that most of what clients get is heartbeats"
    for name in config.forward_headers:
        if "_" in name:
            yield ("forward_headers",), f"{name} never comes: Envoy drops names with underscores"


def _back(config: Config) -> Iterator[tuple[YamlPath, str]]:
    """Models whose address is our own ingress: what is sent there comes back, and is refused (508)."""
    if config.envoy.ingress.startswith("unix:/"):
        return
    host, port = parted(config.envoy.ingress)
    for index, model in enumerate(config.models):
        if model.url is None or model.cluster is not None:
            continue
        url = urlsplit(model.url)
        there = url.port or (443 if url.scheme == "https" else 80)
        if there == int(port) and (url.hostname == host or is_local(url.hostname or "")):
            yield (
                ("models", index, "url"),
                "leads back to `envoy.ingress`: every call of it is refused",
            )


def _reached(config: Config) -> Iterator[tuple[YamlPath, str]]:
    if _is_open(config.egress.removeprefix("http://").removesuffix("/")):
        yield ("egress",), "whoever reaches it may call every model, with your keys: use unix:/path"
    if _is_open(config.envoy.admin):
        yield ("envoy", "admin"), "whoever reaches it may read all, and end Envoy: use unix:/path"
    elif not config.envoy.admin.startswith("unix:"):
        text = "every user of this machine may read all and end Envoy, as may a page in a browser there"
        yield ("envoy", "admin"), f"{text}: use unix:/path"


def _read(config: Config) -> Iterator[tuple[YamlPath, str]]:
    for index, model in enumerate(config.models):
        if model.api_key is not None and model.url and _in_the_clear(model.url, "http"):
            yield ("models", index, "url"), "the key goes to another host in the clear: use https"
    tracing = config.tracing
    if tracing is not None and tracing.otlp.headers and _in_the_clear(tracing.otlp.url, "http"):
        path = ("tracing", "otlp", "endpoint")
        yield path, "`headers` go to another host in the clear: use https"
    if isinstance(config.state, RedisState) and _in_the_clear(config.state.url, "redis"):
        yield ("state", "url"), "states go to another host in the clear: use rediss://"


def _untold(config: Config) -> Iterator[tuple[YamlPath, str]]:
    """Spans without those that they belong to."""
    if config.envoy.tracing is not None and config.tracing is None:
        text = "without `tracing` no collector hears of the spans that calls of teams belong to"
        yield ("envoy", "tracing"), text


def _is_open(address: str) -> bool:
    return not address.startswith("unix:") and not is_local(parted(address)[0])


def _in_the_clear(url: str, scheme: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == scheme and not is_local(parts.hostname or "")


def absent(config: Config) -> Iterator[tuple[YamlPath, str]]:
    """Files, and folders of sockets."""
    for path, file in (*_files(config), *_roots(config)):
        yield from _missing(path, Path(file))
    for path, address in _sockets(config):
        if address.startswith("unix:"):
            yield from _missing(path, Path(address.removeprefix("unix:")).parent)
    for key in ("filters", "access_log", "routes", "clusters"):
        entries = getattr(config.envoy, key)
        if entries is not None and entries.content is None:
            yield ("envoy", key), f"{entries.path} is not there: `looper envoy-config` needs it"


def _files(config: Config) -> Iterator[tuple[YamlPath, str]]:
    """Files that Envoy reads. Where a default leads is no mistake of the configuration's."""
    for index, model in enumerate(config.models):
        if model.api_key is not None and model.api_key.file is not None:
            yield ("models", index, "api_key", "file"), model.api_key.file
        if model.url is not None and model.url.startswith("https:"):
            for key in sorted(model.tls.model_fields_set & {"ca", "certificate", "key"}):
                yield ("models", index, "tls", key), getattr(model.tls, key)
    if (tls := config.envoy.tls) is not None:
        for key in ("certificate", "key", "client_ca"):
            if (file := getattr(tls, key)) is not None:
                yield ("envoy", "tls", key), file


def _roots(config: Config) -> Iterator[tuple[YamlPath, str]]:
    """By which collectors of traces are verified."""
    collectors = {("tracing",): config.tracing, ("envoy", "tracing"): config.envoy.tracing}
    for path, tracing in collectors.items():
        if tracing is not None and tracing.otlp.tls and "ca" in tracing.otlp.model_fields_set:
            yield (*path, "otlp", "ca"), tracing.otlp.ca


def _sockets(config: Config) -> Iterator[tuple[YamlPath, str]]:
    """Addresses that were written: where a default leads is no mistake of the file's."""
    yield ("egress",), config.egress
    for key in ("ingress", "stats", "admin"):
        if key in config.envoy.model_fields_set:
            yield ("envoy", key), getattr(config.envoy, key)


def _missing(path: YamlPath, file: Path) -> Iterator[tuple[YamlPath, str]]:
    if not file.exists():
        yield path, f"{file} is not there on this machine: without it Envoy does not do its work"
