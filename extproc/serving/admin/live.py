"""What happens, as it happens, as server-sent events: runs that begin, come forward and end, and new configurations.

The process is looked at a few times a second as long as somebody listens, so that runs never wait for a listener, and
one that reads slowly is told less often and misses nothing that memory still has.
"""

import asyncio
from collections.abc import Iterator

import msgspec
from aiohttp import web

from extproc.process.records import Opened
from extproc.process.runs import Runs
from extproc.serving.admin.facts import FACTS, Facts, configuration

INTERVAL = 0.25
_SILENCE = 15.0
_LISTENERS = 32
SHOWN = 200
"""Open runs that are told of, the newest."""

Frame = bytes


class Listening:
    """One listener, and what it has heard."""

    def __init__(self, facts: Facts, after: int | None) -> None:
        self._facts = facts
        self._after = facts.process.runs.count if after is None else after
        self._open: object = None
        self._configuration: object = None

    def news(self) -> Iterator[Frame]:
        """What it has not heard."""
        runs = self._facts.process.runs
        yield from self._ended(runs)
        signs = [_sign(each) for each in runs.open()]
        if signs != self._open:
            self._open = signs
            yield _frame("open", [each.line() for each in runs.open()[:SHOWN]])
        told = configuration(self._facts)
        if told != self._configuration:
            self._configuration = told
            yield _frame("configuration", told)

    def _ended(self, runs: Runs) -> Iterator[Frame]:
        kept = runs.kept(after=self._after)
        if runs.forgotten > self._after:
            yield _frame("missed", {"runs": runs.forgotten - self._after})
        for each in reversed(kept):
            yield _frame("run", {"number": each.number, **each.summary}, each.number)
        self._after = runs.count


def _sign(opened: Opened) -> tuple[object, ...]:
    """Differs once a run has come forward."""
    trace = opened.run.trace
    states = tuple(call.ended is None for call in trace.calls)
    return opened.run.id, len(trace.stages), states, trace.first_word is None


def _frame(event: str, data: object, id: int | None = None) -> Frame:
    numbered = b"" if id is None else b"id: %d\n" % id
    return b"%bevent: %b\ndata: %b\n\n" % (numbered, event.encode(), msgspec.json.encode(data))


_LISTENING: web.AppKey[list[Listening]] = web.AppKey("listening", list)
_OVER: web.AppKey[asyncio.Event] = web.AppKey("over", asyncio.Event)


def add_live(app: web.Application) -> None:
    """Serve the events. Who listens is sent away when the application ends."""
    app[_LISTENING], app[_OVER] = [], asyncio.Event()
    app.router.add_get("/api/events", _events)
    app.on_shutdown.append(_end)


async def _end(app: web.Application) -> None:
    app[_OVER].set()


async def _events(request: web.Request) -> web.StreamResponse:
    """`?after=N` or Last-Event-ID: the runs behind that number too; without either, those to come."""
    listeners = request.app[_LISTENING]
    if len(listeners) >= _LISTENERS:
        return web.json_response({"error": "too many listeners"}, status=503)
    listening = Listening(request.app[FACTS], _number(request))
    listeners.append(listening)
    try:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await _tell(response, listening, request.app[_OVER])
        return response
    finally:
        listeners.remove(listening)


def _number(request: web.Request) -> int | None:
    said = request.headers.get("last-event-id") or request.query.get("after", "")
    return int(said) if said.isdecimal() and len(said) < 16 else None


async def _tell(response: web.StreamResponse, listening: Listening, over: asyncio.Event) -> None:
    silence = 0.0
    await response.write(b"retry: 1000\n\n")
    while not over.is_set():
        frames = b"".join(listening.news())
        silence = 0.0 if frames else silence + INTERVAL
        if silence >= _SILENCE:
            frames, silence = b": still here\n\n", 0.0
        if frames:
            await response.write(frames)
        try:
            async with asyncio.timeout(INTERVAL):
                await over.wait()
        except TimeoutError:
            continue
