"""Paused runs in Redis: encrypted, for a time, and claimed in one step."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Disconnected

from looper.errors import StateUnavailable
from looper.patterns.workflows.pauses.sealing import Seal, Unreadable
from looper.patterns.workflows.pauses.state import Claim, RedisState

# A state and its lease have the same hash tag, so that a cluster keeps them in one place.
_CLAIM = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 'gone' end
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] then return 'busy' end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return 'held'
"""
_FINISH = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1], KEYS[2])
"""
_RELEASE = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
if ARGV[2] then redis.call('SET', KEYS[1], ARGV[2], 'XX', 'KEEPTTL') end
return redis.call('DEL', KEYS[2])
"""


def connect(settings: RedisState, password: str | None) -> Redis:
    """A client, which connects when it is first used."""
    seconds = settings.timeout.total_seconds()
    trusted: dict[str, Any] = {} if settings.ca is None else {"ssl_ca_certs": settings.ca}
    return Redis.from_url(
        settings.url,
        username=settings.username,
        password=password,
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        # Each pooled connection is dead once after Redis was away; what took too long is not tried twice.
        retry=Retry(NoBackoff(), 1, supported_errors=(Disconnected,)),
        **trusted,
    )


@contextmanager
def _available() -> Iterator[None]:
    """What Redis says when it cannot do something is not for clients; of what is no Redis, its client says anything."""
    try:
        yield
    except Exception:
        raise _unavailable() from None


def _unavailable() -> StateUnavailable:
    return StateUnavailable("The run cannot be kept or found at the moment.")


class RedisStore:
    """Keeps states where every instance finds them. Redis sees ids, sizes and times, and nothing else."""

    def __init__(self, settings: RedisState, redis: Redis, keys: Sequence[bytes]) -> None:
        self._settings = settings
        self._redis = redis
        self._seal = Seal(keys)

    async def put(self, id: str, state: bytes) -> None:
        milliseconds = int(self._settings.ttl.total_seconds() * 1000)
        sealed = self._seal.close(id, state)
        with _available():
            said = await self._redis.set(self._name(id, "state"), sealed, px=milliseconds)
        if said is not True:
            raise _unavailable()

    async def get(self, id: str) -> bytes | None:
        with _available():
            stored: Any = await self._redis.get(self._name(id, "state"))
        if stored is None:
            return None
        if not isinstance(stored, bytes):
            raise _unavailable()
        try:
            return self._seal.open(id, stored)
        except Unreadable:
            return None  # as good as gone: the key that it was written with is

    async def claim(self, id: str, holder: str) -> Claim:
        lease = int(self._settings.lease.total_seconds() * 1000)
        match await self._run(_CLAIM, id, holder, lease):
            case b"held":
                return "held"
            case b"busy":
                return "busy"
            case b"gone":
                return "gone"
            case _:
                raise _unavailable()

    async def release(self, id: str, holder: str, state: bytes | None = None) -> None:
        changed = () if state is None else (self._seal.close(id, state),)
        await self._run(_RELEASE, id, holder, *changed)

    async def finish(self, id: str, holder: str) -> None:
        await self._run(_FINISH, id, holder)

    async def _run(self, script: str, id: str, holder: str, *arguments: bytes | int) -> Any:
        # What a client may have written goes into Redis at one length.
        name = hashlib.sha256(holder.encode()).hexdigest()
        keys = (self._name(id, "state"), self._name(id, "lease"))
        with _available():
            return await self._redis.eval(script, 2, *keys, name, *arguments)

    async def aclose(self) -> None:
        await self._redis.aclose()

    def _name(self, id: str, what: str) -> str:
        return f"{self._settings.prefix}{{{id}}}:{what}"
