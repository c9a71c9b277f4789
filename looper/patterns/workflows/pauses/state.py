"""Where paused runs wait for the client's tools: in this process, or in Redis, where any instance finds them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Literal, Protocol, Self

from pydantic import AfterValidator, Field, model_validator

from looper.errors import StateUnavailable
from looper.settings import ByteCount, SecretReference, Setting, SomeTime, ValuePath

Claim = Literal["held", "busy", "gone"]
"""What comes of claiming a state: it is ours, another one has it, or there is none."""


class Store(Protocol):
    """Keeps states by id, each for one consumer at a time. Raises StateUnavailable where it cannot."""

    async def put(self, id: str, state: bytes) -> None:
        """Keep a state for as long as states are kept."""
        ...

    async def get(self, id: str) -> bytes | None: ...

    async def claim(self, id: str, holder: str) -> Claim:
        """Have a state for oneself until the lease ends. Whoever has it may claim it again, and has it for longer."""
        ...

    async def release(self, id: str, holder: str, state: bytes | None = None) -> None:
        """Let others have a state that is held, as it is now; None: as it was. It is kept no longer than before."""
        ...

    async def finish(self, id: str, holder: str) -> None:
        """Forget a state that is held: nobody can have it again."""
        ...


class Identity(Setting):
    """What tells one client from another: said before our filter, by one that has checked it. Exactly one of three."""

    header: str | None = Field(default=None, pattern=r"^[a-z0-9-]+$")
    attribute: str | None = Field(default=None, pattern=r"^[a-z0-9_.]+$")
    metadata: str | None = Field(
        default=None,
        min_length=1,
        description="a namespace of Envoy's dynamic metadata, such as envoy.filters.http.jwt_authn",
    )
    path: ValuePath = Field(
        default=(), description="where in that namespace, such as claims.sub; goes with `metadata`"
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(each is not None for each in (self.header, self.attribute, self.metadata)) != 1:
            raise ValueError("give exactly one of `header`, `attribute` and `metadata`")
        if self.metadata is not None and not self.path:
            namespace, _, key = self.metadata.partition(":")
            raise ValueError(
                f"`metadata` goes with `path`: write `metadata: {namespace}`"
                f" and `path: {key or '…'}`, the way to one value"
            )
        if self.path and self.metadata is None:
            raise ValueError("`path` goes with `metadata`")
        return self


Keys = Annotated[tuple[SecretReference, ...], Field(max_length=8)]
"""Ids get their tags from the first, and are known by any of them."""


class StateSettings(Setting):
    """What every store has: how long it keeps what, and whose it is."""

    ttl: SomeTime = Field(default=timedelta(minutes=15), description="how long a client may take")
    lease: SomeTime = Field(
        default=timedelta(seconds=15),
        description="how long a state stays claimed after the process that claimed it has died",
    )
    identity: Identity | None = Field(
        default=None, description="default: whoever has the ids may go on with the run"
    )
    keys: Keys = Field(
        default=(),
        description="secrets of at least 32 characters; default: one that is made up at each start",
    )


class MemoryState(StateSettings):
    """`state: {type: memory}`"""

    type: Literal["memory"] = "memory"
    max_bytes: ByteCount = Field(
        default=256 << 20, description="of all states; the oldest give way to new ones"
    )


def _check_url(url: str) -> str:
    # What stands there is not repeated: it may have a credential in it.
    if not url.startswith(("redis://", "rediss://", "unix:///")):
        raise ValueError("neither redis://host:port/0 nor rediss://host:port/0 nor unix:///path")
    if "@" in url:
        raise ValueError("must not carry a credential: use `username` and `password`")
    return url


class RedisState(StateSettings):
    """`state: {type: redis, url: …, keys: […]}`"""

    type: Literal["redis"]
    url: Annotated[str, AfterValidator(_check_url)] = Field(
        description="redis://host:port/0, rediss:// for TLS, or unix:///path"
    )
    username: str | None = None
    password: SecretReference | None = None
    ca: str | None = Field(
        default=None, pattern=r"^/", description="PEM file of trusted roots; default: the system's"
    )
    keys: Keys = Field(
        min_length=1,
        description="secrets of at least 32 characters, shared by all instances: the first writes, all of them read",
    )
    timeout: SomeTime = Field(default=timedelta(seconds=2), description="of one command")
    prefix: str = Field(default="looper:", pattern=r"^[A-Za-z0-9:_-]{0,64}$")


AnyState = Annotated[MemoryState | RedisState, Field(discriminator="type")]


@dataclass(slots=True)
class _Kept:
    state: bytes
    until: float
    holder: str | None = None
    lease: float = 0.0


class MemoryStore:
    """Keeps states in this process, which has them alone and takes them with it."""

    def __init__(self, settings: MemoryState, now: Callable[[], float] | None = None) -> None:
        self._settings = settings
        self._now = now or (lambda: asyncio.get_running_loop().time())
        self._kept: dict[str, _Kept] = {}
        self._bytes = 0

    async def put(self, id: str, state: bytes) -> None:
        if len(state) > self._settings.max_bytes:
            raise StateUnavailable("The run is too large to be kept.")
        self._drop(id)
        self._kept[id] = _Kept(state, self._now() + self._settings.ttl.total_seconds())
        self._bytes += len(state)
        self._make_room()

    async def get(self, id: str) -> bytes | None:
        kept = self._find(id)
        return None if kept is None else kept.state

    async def claim(self, id: str, holder: str) -> Claim:
        kept = self._find(id)
        if kept is None:
            return "gone"
        if kept.holder not in (None, holder) and kept.lease > self._now():
            return "busy"
        kept.holder, kept.lease = holder, self._now() + self._settings.lease.total_seconds()
        return "held"

    async def release(self, id: str, holder: str, state: bytes | None = None) -> None:
        kept = self._find(id)
        if kept is not None and kept.holder == holder:
            now = kept.state if state is None else state
            self._bytes += len(now) - len(kept.state)
            kept.state, kept.holder = now, None

    async def finish(self, id: str, holder: str) -> None:
        kept = self._find(id)
        if kept is not None and kept.holder == holder:
            self._drop(id)

    def _find(self, id: str) -> _Kept | None:
        kept = self._kept.get(id)
        if kept is not None and kept.until <= self._now():
            self._drop(id)
            return None
        return kept

    def _drop(self, id: str) -> None:
        kept = self._kept.pop(id, None)
        if kept is not None:
            self._bytes -= len(kept.state)

    def _make_room(self) -> None:
        """Let go of what has expired, and of the oldest if there is too much. All are kept for the same time."""
        while self._kept:
            oldest = next(iter(self._kept))
            fits = self._bytes <= self._settings.max_bytes
            if fits and self._kept[oldest].until > self._now():
                return
            self._drop(oldest)
