"""gRPC's calls as those have them who serve them, whatever transport carries them."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Protocol, TypeAlias


class Status(IntEnum):
    """How a call ends: those of gRPC's status codes that a processor has a use for."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


CRASHED = "A mistake of the server's."
"""Said with INTERNAL of a handler's exception, whose own text is for our log alone."""


class Call(Protocol):
    """Messages both ways. Its handler is cancelled when the client, or the server, breaks it off."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the client said at the beginning."""
        ...

    async def read(self) -> bytes | None:
        """The client's next message; None when it has no more to say. Raises Abandoned if the call is over."""
        ...

    async def write(self, message: bytes) -> None:
        """Hand a message to the transport. Raises Abandoned if the call is over."""
        ...

    async def begin(self) -> None:
        """Tell the client that the call is being answered. The first message does so, too."""
        ...

    async def abort(self, status: Status, why: str) -> None:
        """End the call at once. `why` is for people."""
        ...


Handler: TypeAlias = Callable[[Call], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: what the server shows, and the CAs of those clients that get in; without these, all do."""

    certificate: Path
    key: Path
    clients: Path | None = None


class Server(Protocol):
    """Serves calls at addresses, by path."""

    async def listen(self, address: str, tls: Tls | None = None) -> None:
        """Take connections at `unix:/path` or `host:port`. Raises OSError if that cannot be."""
        ...

    async def stop(self, grace: float) -> None:
        """Take no more connections, give open calls `grace` seconds, and break off what is left then."""
        ...


Transport: TypeAlias = Callable[[Mapping[str, Handler]], AbstractAsyncContextManager[Server]]
"""Makes a server of handlers by path."""
