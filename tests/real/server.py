"""A real llama.cpp server for tests, of which they may ask how it is."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from looper.simulate.server import Address
from tests.fakes.envoy import free_port

LOADED_SECONDS = 60
FREED_SECONDS = 15
QUIET_SECONDS = 1.5
CONTEXT, SLOTS = 4096, 4
ROOM = CONTEXT // SLOTS
"""Tokens that one conversation may have."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server, perhaps one that is still loading."""

    at: Address
    session: aiohttp.ClientSession

    async def status(self) -> int:
        """What its health is; 0 where nobody listens."""
        try:
            async with self.session.get(f"{self.at.url}/health") as response:
                return response.status
        except aiohttp.ClientConnectionError:
            return 0

    async def until(self, status: int) -> None:
        async with asyncio.timeout(LOADED_SECONDS):
            while await self.status() != status:
                await asyncio.sleep(0.005)

    async def busy(self) -> int:
        """How many of its slots are at work."""
        async with self.session.get(f"{self.at.url}/slots") as response:
            return sum(slot["is_processing"] for slot in await response.json())

    async def until_busy(self, count: int) -> None:
        async with asyncio.timeout(LOADED_SECONDS):
            while await self.busy() != count:
                await asyncio.sleep(0.02)

    async def until_idle(self) -> None:
        """Until no slot is at work.

        The server looks after its clients when it has had nothing to tell any of them for a second, a question about
        slots included, so that who asks too often never sees it.
        """
        async with asyncio.timeout(FREED_SECONDS):
            await asyncio.sleep(QUIET_SECONDS)
            while await self.busy():
                await asyncio.sleep(QUIET_SECONDS)

    async def predicted(self) -> int:
        """How many tokens it has written, over all answers."""
        async with self.session.get(f"{self.at.url}/metrics") as response:
            lines = dict(line.rsplit(" ", 1) for line in (await response.text()).splitlines())
        return int(lines["llamacpp:tokens_predicted_total"])

    async def chat(self, **members: Any) -> Any:
        """What it answers by itself, past Envoy."""
        async with self.session.post(
            f"{self.at.url}/v1/chat/completions", json=members
        ) as response:
            return await response.json()


@asynccontextmanager
async def run_server(log: Path, port: int | None = None) -> AsyncIterator[Server]:
    """Start a server, and do not wait until it has loaded its model."""
    port = port or free_port()
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "extproc.cli.up.llama", "--port", str(port)),
            *("--context", str(CONTEXT), "--slots", str(SLOTS)),
            stdout=output,
            stderr=output,
        )
    try:
        async with aiohttp.ClientSession() as session:
            yield Server(Address("127.0.0.1", port), session)
    finally:
        process.terminate()
        await process.wait()
