"""The tracer that a configuration wants, from the process's start to its end."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.util import find_spec

from extproc.config import Loaded
from extproc.config.secrets import secret
from extproc.config.tracing import TracingSettings
from extproc.config.yaml_source import in_words
from extproc.errors import ConfigError
from extproc.tracing import Tracer

_NEEDED = (
    "opentelemetry.sdk",
    "opentelemetry.exporter.otlp.proto.grpc",
    "opentelemetry.exporter.otlp.proto.http",
)


def missing() -> str | None:
    """What is wrong if the extra is not installed; looks without importing any of it."""
    for module in _NEEDED:
        if not _is_there(module):
            return f"{module} is missing: pip install 'envoy-looper[otel]'"
    return None


def problems(loaded: Loaded) -> list[str]:
    """What keeps a configuration's spans from being made on this machine."""
    problem = None if loaded.config.tracing is None else missing()
    if problem is None:
        return []
    return in_words(loaded.source.placed([(("tracing",), problem)]), loaded.source.name)


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # nor is what it stands in
        return False


@asynccontextmanager
async def opened(
    settings: TracingSettings | None, environment: Mapping[str, str]
) -> AsyncIterator[Tracer | None]:
    """A tracer while the context is open, or none where none is wanted. The end waits for the last spans, but not long.

    Raises ConfigError if the extra is not installed, or a secret is not there.
    """
    if settings is None:
        yield None
        return
    if (problem := missing()) is not None:
        raise ConfigError([f"tracing: {problem}"])
    headers = {
        name: secret(reference, environment, f"tracing.otlp.headers.{name}")
        for name, reference in settings.otlp.headers.items()
    }
    from extproc.tracing.spans import tracer_to

    tracer = await asyncio.to_thread(tracer_to, settings, headers)
    try:
        yield tracer
    finally:
        await asyncio.to_thread(tracer.close)
