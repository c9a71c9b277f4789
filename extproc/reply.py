"""How a team's answer reaches the client: live, as Envoy's streamed local reply, or whole."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from extproc import headers as names
from extproc.protocol.actions import (
    Action,
    CloseStream,
    Headers,
    Metadata,
    OpenStream,
    Respond,
    StreamData,
)
from looper.answer import Chunks, Whole
from looper.chat import ChatRequest
from looper.errors import LooperError
from looper.events import Done, Event, Progress
from looper.run import Heartbeat, Run

Send = Callable[[Action], Awaitable[None]]

_JSON: Headers = (("content-type", "application/json"),)
_SSE: Headers = (
    ("content-type", "text/event-stream"),
    ("cache-control", "no-cache"),
    ("x-accel-buffering", "no"),
)


class Reply(Protocol):
    """Takes a run's events and makes an answer of them."""

    async def add(self, event: Event | Heartbeat) -> None: ...

    async def fail(self, error: LooperError) -> None:
        """End the answer with an error."""
        ...


class _Run:
    """What both kinds of reply say of the run in headers and metadata."""

    def __init__(self, run: Run, facts: Metadata) -> None:
        self._run = run
        self._facts = facts

    def headers(self, outcome: str | None = None) -> Headers:
        said = (
            (names.DECISION, str(self._facts["decision"])),
            (names.ALGORITHM, str(self._facts["algorithm"])),
            (names.RUN, self._run.id),
        )
        return said if outcome is None else (*said, (names.OUTCOME, outcome))

    def opening(self) -> Metadata:
        # A run that is cut short never says more than this: "started" is what statistics then count.
        return {**self._facts, "outcome": "started"}

    def closing(self, outcome: str) -> Metadata:
        ledger = self._run.ledger
        return {
            **self._facts,
            "outcome": outcome,
            "calls": ledger.calls,
            "prompt_tokens": ledger.usage.prompt_tokens,
            "completion_tokens": ledger.usage.completion_tokens,
            "cost_microusd": ledger.cost,
        }

    def error(self, error: LooperError) -> Respond:
        # What was paid for once would be paid for again, whatever the error is.
        paid = self._run.ledger.calls > 0
        retry = False if paid else error.retry
        return error_reply(error, retry, self.headers(), self.closing("failed"))


class LiveReply:
    """A stream of chunks. It is opened by the first bit of the answer, or the first silence, whichever comes first."""

    def __init__(
        self, request: ChatRequest, run: Run, facts: Metadata, send: Send, log: dict[str, str | int]
    ) -> None:
        self._chunks = Chunks(request)
        self._about = _Run(run, facts)
        self._send = send
        self._log = log
        self._open = False
        self._closed = False

    async def add(self, event: Event | Heartbeat) -> None:
        match event:
            case Progress():
                return
            case Heartbeat():
                await self._write(self._chunks.comment())
            case Done():
                await self._close(self._chunks.frames(event), event.outcome)
            case _:
                await self._write(self._chunks.frames(event))

    async def _write(self, frames: bytes) -> None:
        if not self._open:
            self._open = True
            await self._send(OpenStream((*_SSE, *self._about.headers()), self._about.opening()))
            frames = self._chunks.opening() + frames
        await self._send(StreamData(frames))

    async def _close(self, frames: bytes, outcome: str) -> None:
        if not self._open:
            await self._write(b"")
        metadata = self._about.closing(outcome)
        self._log |= metadata
        self._closed = True
        await self._send(CloseStream(frames, metadata))

    async def fail(self, error: LooperError) -> None:
        if self._closed:
            return
        if self._open:
            await self._close(self._chunks.failed(error), "failed")
        else:
            await self._send(self._about.error(error))


class WholeReply:
    """One message at the end. In body mode BUFFERED a stream, too, is sent as one message."""

    def __init__(
        self, request: ChatRequest, run: Run, facts: Metadata, send: Send, log: dict[str, str | int]
    ) -> None:
        self._answer = Whole(request)
        self._chunks = Chunks(request) if request.stream else None
        self._frames: list[bytes] = []
        self._about = _Run(run, facts)
        self._send = send
        self._log = log
        self._sent = False

    async def add(self, event: Event | Heartbeat) -> None:
        if isinstance(event, Heartbeat):
            return
        if self._chunks is None:
            self._answer.add(event)
        else:
            self._frames.append(self._chunks.frames(event))
        if isinstance(event, Done):
            await self._finish(event)

    async def _finish(self, done: Done) -> None:
        if self._chunks is None:
            kind, body = _JSON, self._answer.to_json()
        else:
            kind, body = _SSE, self._chunks.opening() + b"".join(self._frames)
        metadata = self._about.closing(done.outcome)
        self._log |= metadata
        headers = (*kind, *self._about.headers(done.outcome))
        self._sent = True
        await self._send(Respond(200, headers, body, "looper.answer", metadata))

    async def fail(self, error: LooperError) -> None:
        if not self._sent:
            await self._send(self._about.error(error))


def error_reply(
    error: LooperError, retry: bool | None, headers: Headers, metadata: Metadata
) -> Respond:
    """An error in OpenAI's shape, with what SDKs read of it. `retry`: what they are told to do, or None."""
    said: list[tuple[str, str]] = [*_JSON, *headers]
    if retry is not None:
        said.append(("x-should-retry", str(retry).lower()))
    if error.retry_after is not None:
        said.append(("retry-after", str(error.retry_after)))
    return Respond(error.status, tuple(said), error.to_json(), f"looper.{error.code}", metadata)
