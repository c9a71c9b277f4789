"""A run: one execution of a pattern, with what it works with and what it may spend."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from random import Random
from typing import Literal, Protocol

from looper.budget import Ledger
from looper.calls import Call, CallFailed, Failure, Result, State, usable
from looper.chat import ChatRequest, Completion, Usage
from looper.client import Answer
from looper.errors import DeadlineExceeded
from looper.events import Done, Event
from looper.fanout import fan_out
from looper.models import Model

FORWARDED = ("x-request-id", "traceparent", "tracestate")
"""Of the client's headers, those that go with every call."""


class Client(Protocol):
    """What a run needs of the egress client."""

    async def complete(
        self, call: Call, headers: Mapping[str, str], *, deadline: float
    ) -> Answer: ...

    def stream(
        self, call: Call, headers: Mapping[str, str], *, deadline: float
    ) -> AsyncGenerator[Completion]: ...


@dataclass(frozen=True, slots=True)
class Deadline:
    """When the run must be over, in the loop's time, and how stages share what is left until then."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        return cls(asyncio.get_running_loop().time() + seconds)

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def share(self, part: float) -> float:
        """The moment by which `part` (0..1) of what is left will have passed."""
        now = self.now()
        return now + max(0.0, self.at - now) * part


@dataclass(frozen=True, slots=True)
class Run:
    """What a pattern is handed, beside the request."""

    id: str
    models: Mapping[str, Model]
    client: Client
    ledger: Ledger
    deadline: Deadline
    random: Random
    headers: Mapping[str, str] = field(default_factory=dict)
    fence: str = field(default_factory=lambda: secrets.token_hex(8))

    async def ask(self, call: Call, *, until: float) -> Result:
        """Make a call. Its failure is a result, not an exception."""
        if not self.ledger.reserve():
            return Result(call, "not_started", error=CallFailed(Failure.BUDGET))
        try:
            answer = await self.client.complete(call, self.headers, deadline=until)
        except CallFailed as error:
            return Result(call, _state(error), error=error)
        usage = answer.completion.usage
        self.ledger.settle(call.model, usage.read() if usage else None, attempts=answer.attempts)
        if not usable(answer.completion):
            return Result(call, "unusable", error=CallFailed(Failure.UNUSABLE))
        return Result(call, "ok", answer.completion)

    async def fan_out(
        self,
        calls: Sequence[Call],
        *,
        max_concurrent: int,
        until: float,
        on_error: Literal["skip", "fail"] = "skip",
    ) -> list[Result]:
        """Make several calls at once; one result for each, in their order."""

        async def ask(call: Call) -> Result:
            return await self.ask(call, until=until)

        return await fan_out(
            calls, ask, max_concurrent=max_concurrent, until=until, on_error=on_error
        )

    async def stream(self, call: Call, *, until: float) -> AsyncGenerator[Completion]:
        """Make a call and hand on its chunks as they come. Raises CallFailed."""
        if not self.ledger.reserve():
            raise CallFailed(Failure.BUDGET)
        usage: Usage | None = None
        try:
            async with aclosing(self.client.stream(call, self.headers, deadline=until)) as chunks:
                async for chunk in chunks:
                    # Some backends say with every chunk what they have used so far: the last word counts.
                    usage = chunk.usage.read() if chunk.usage else usage
                    yield chunk
        finally:
            self.ledger.settle(call.model, usage)


def _state(error: CallFailed) -> State:
    if error.failure is Failure.TIMEOUT:
        return "timed_out"
    return "unusable" if error.failure is Failure.UNUSABLE else "failed"


class Pattern(Protocol):
    """A way in which a team of models answers a request."""

    def run(self, request: ChatRequest, run: Run) -> AsyncGenerator[Event]:
        """The answer, as events. Raises a LooperError if there is none."""
        ...


def seeded(request: ChatRequest) -> Random:
    """Random numbers that are the same for the same request: its `seed`, else its bytes, decide."""
    seed = request.members.get("seed")
    source = bytes(seed) if seed is not None else request.body
    return Random(hashlib.sha256(source).digest())


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing has happened for a while; the run goes on."""


Emit = Callable[[Event | Heartbeat], Awaitable[None]]


async def drive(
    pattern: Pattern, request: ChatRequest, run: Run, emit: Emit, *, heartbeat: float
) -> None:
    """Run a pattern until it is done: hand over each event as it comes, and a Heartbeat after each such silence.

    While `emit` waits, nothing more is read from a backend. Raises what the pattern raises, and DeadlineExceeded
    when the run's deadline passes.
    """
    voice = _Voice(emit)
    try:
        async with asyncio.timeout_at(run.deadline.at), asyncio.TaskGroup() as group:
            beating = group.create_task(voice.beat(heartbeat))
            async with aclosing(pattern.run(request, run)) as events:
                async for event in events:
                    await voice.say(event)
                    if isinstance(event, Done):
                        break
            beating.cancel()
    except TimeoutError:
        raise DeadlineExceeded("The answer was not ready before the deadline.") from None
    except BaseExceptionGroup as failed:
        # The pattern's own error, without the group that the heartbeat's task put around it.
        raise failed.exceptions[0] from None


class _Voice:
    """Says one thing at a time, and something at least every so often."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._turn = asyncio.Lock()
        self._last = asyncio.get_running_loop().time()

    async def say(self, what: Event | Heartbeat) -> None:
        async with self._turn:
            await self._emit(what)
            self._last = asyncio.get_running_loop().time()

    async def beat(self, every: float) -> None:
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(self._last + every - now())
            if now() >= self._last + every:
                await self.say(Heartbeat())
