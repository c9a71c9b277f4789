"""A process asked by its admin interface: for the commands that show what it does."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import click

from looper.wire.sse import EventReader

ADMIN = click.option(
    "--admin",
    "address",
    default="unix:/run/looper/admin.sock",
    show_default=True,
    help="Where `looper serve --admin` is: unix:/path or host:port.",
)
TOKEN = click.option(
    "--admin-token-file",
    "token_file",
    default=None,
    type=click.Path(path_type=Path),
    help="The bearer token, if it wants one.",
)
T = TypeVar("T")


class Operator:
    """Asks one process."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, path: str) -> Any:
        """Raises ClickException if there is no answer."""
        async with self._session.get(path) as response:
            await _check(response)
            return await response.json()

    async def events(self, path: str) -> AsyncIterator[tuple[str, Any]]:
        """What happens, from now on: the kind of each event, and what it tells."""
        async with self._session.get(path) as response:
            await _check(response)
            reader = EventReader()
            async for data in response.content.iter_any():
                for event in reader.feed(data):
                    yield event.event or "message", json.loads(event.data)


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.status == 401:
        raise click.ClickException("It wants a token: --admin-token-file FILE.")
    if response.status != 200:
        body = await response.json()
        raise click.ClickException(str(body.get("error", response.status)))


@asynccontextmanager
async def _operator(address: str, token: str | None) -> AsyncIterator[Operator]:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    base, connector = f"http://{address}", None
    if address.startswith("unix:"):
        base, connector = "http://localhost", aiohttp.UnixConnector(address.removeprefix("unix:"))
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
    async with aiohttp.ClientSession(
        base, connector=connector, headers=headers, timeout=timeout
    ) as session:
        yield Operator(session)


def asked(
    address: str, token_file: Path | None, work: Callable[[Operator], Coroutine[Any, Any, T]]
) -> T | None:
    """What comes of `work` with a process. None if it is interrupted."""
    from extproc.serving.admin import token_in

    async def run() -> T:
        async with _operator(address, token) as operator:
            return await work(operator)

    try:
        token = None if token_file is None else token_in(token_file)
        return asyncio.run(run())
    except KeyboardInterrupt:
        return None
    except (aiohttp.ClientConnectionError, TimeoutError):
        raise click.ClickException(
            f"Nobody answers at {address}: see `looper serve --admin`."
        ) from None
    except ValueError as error:
        raise click.ClickException(str(error)) from None
