"""An AutoMix verifier: a small real server that grades answers as it is told to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass(slots=True)
class Verifier:
    """Gives each answer the verdict that stands for its text, after `delay` seconds; what it was asked is kept.

    A verdict that is bytes is sent as it is.
    """

    verdicts: dict[str, Any] = field(default_factory=dict)
    delay: float = 0.0
    status: int = 200
    url: str = ""
    asked: list[tuple[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    left: int = 0

    def reset(self, **verdicts: Any) -> None:
        """As it was in the beginning, with other verdicts."""
        self.verdicts, self.delay, self.status, self.left = verdicts, 0.0, 200, 0
        self.asked.clear()
        self.headers.clear()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append((request.path, body))
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        try:
            await asyncio.sleep(self.delay)
        except asyncio.CancelledError:
            self.left += 1
            raise
        verdict = self.verdicts.get(body["answer"], {})
        if isinstance(verdict, bytes):
            return web.Response(body=verdict, status=self.status)
        return web.json_response(verdict, status=self.status)


@asynccontextmanager
async def run_verifier() -> AsyncIterator[Verifier]:
    """A verifier that listens while the block lasts."""
    verifier = Verifier()
    app = web.Application()
    app.router.add_post("/{path:.*}", verifier.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        verifier.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield verifier
    finally:
        await runner.cleanup()
