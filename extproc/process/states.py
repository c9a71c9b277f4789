"""Where the processor keeps runs that wait for the client: opened once, and what tells whose a run is."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from extproc.config.secrets import secret
from extproc.errors import ConfigError
from extproc.protocol.events import METADATA, RequestHeaders
from looper.errors import IdentityMissing
from looper.patterns.workflows.pauses.pausing import States
from looper.patterns.workflows.pauses.state import (
    AnyState,
    Identity,
    MemoryState,
    MemoryStore,
    RedisState,
)
from looper.settings import SecretReference

_SHORTEST = 32


def in_memory(settings: AnyState) -> States:
    """States of this process, which nobody else has the key of."""
    return States(settings, MemoryStore(MemoryState(ttl=settings.ttl, lease=settings.lease)))


@asynccontextmanager
async def opened(settings: AnyState, environment: Mapping[str, str]) -> AsyncIterator[States]:
    """The store that is configured, while the context is open. Raises ConfigError for a secret that is not there."""
    match settings:
        case MemoryState():
            yield States(settings, MemoryStore(settings), _keys(settings, environment))
        case RedisState():
            async with _in_redis(settings, environment) as states:
                yield states


@asynccontextmanager
async def _in_redis(settings: RedisState, environment: Mapping[str, str]) -> AsyncIterator[States]:
    try:
        from looper.patterns.workflows.pauses.redis_state import RedisStore, connect
    except ModuleNotFoundError as error:
        raise ConfigError(
            [f"state: {error.name} is missing: pip install 'envoy-looper[redis]'"]
        ) from None
    keys = _keys(settings, environment)
    password = None
    if settings.password is not None:
        password = secret(settings.password, environment, "state.password")
    store = RedisStore(settings, connect(settings, password), keys)
    try:
        yield States(settings, store, keys)
    finally:
        await store.aclose()


def _keys(settings: AnyState, environment: Mapping[str, str]) -> list[bytes]:
    return [
        _key(reference, environment, f"state.keys[{index}]")
        for index, reference in enumerate(settings.keys)
    ]


def _key(reference: SecretReference, environment: Mapping[str, str], where: str) -> bytes:
    key = secret(reference, environment, where).encode()
    if len(key) < _SHORTEST:
        raise ConfigError([f"{where}: a key has at least {_SHORTEST} characters"])
    return key


def identity(setting: Identity | None, opening: RequestHeaders) -> str | None:
    """Whose a request is, as a filter before ours has found out; None if nobody is to be told from another.

    Raises IdentityMissing if somebody is and nobody says who: no two such requests are from the same client.
    """
    if setting is None:
        return None
    value = said(setting, opening)
    if isinstance(value, bool | int | float | str) and value != "":
        return str(value)
    raise IdentityMissing("Who asks is not known, and has to be for what this request may begin.")


def said(setting: Identity, opening: RequestHeaders) -> object:
    """What stands there; None if nothing does."""
    if setting.header is not None:
        return opening.headers.get(setting.header)
    if setting.attribute is not None:
        return opening.attributes.get(setting.attribute)
    value: object = opening.attributes
    for name in (METADATA, str(setting.metadata), *setting.path):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
