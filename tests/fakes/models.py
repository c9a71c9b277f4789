"""Models that answer by script, in place of the egress client."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from looper.calling.calls import Answer, Call, CallFailed, Failure
from looper.calling.models import Model
from looper.calling.refusals import READ, refusal
from looper.run import Client
from looper.wire.chat import ABSENT, Choice, Completion, Reply, WireUsage

USAGE = WireUsage(prompt_tokens=10, completion_tokens=5)


@dataclass(frozen=True)
class Hang:
    """Nothing comes until the call's deadline."""


@dataclass(frozen=True)
class Crash:
    """The client has a bug: it raises what no client may raise."""


@dataclass(frozen=True)
class After:
    """The step follows after some seconds."""

    seconds: float
    then: "Step"


@dataclass(frozen=True)
class Attempts:
    """The complete answer took Envoy several attempts."""

    count: int
    text: str


@dataclass(frozen=True)
class Stream:
    """Chunks, some seconds apart, and then an end: a good one, a failure, or silence."""

    chunks: Sequence[Completion]
    end: CallFailed | Hang | None = None
    apart: float = 0


@dataclass(frozen=True)
class InTurn:
    """One step for each call of the model, in the order of the calls; the last one stays."""

    steps: tuple["Step", ...]


@dataclass(frozen=True)
class Answers:
    """What the model does follows from what it is asked."""

    to: Callable[["Asked"], "Step"]


Step = str | Completion | CallFailed | Hang | Crash | After | Attempts | Stream | InTurn | Answers
"""What a model does when it is called. Text comes complete or as a stream, however it is asked for."""


def in_turn(*steps: Step) -> InTurn:
    return InTurn(steps)


def completion(
    text: str | None = None,
    *,
    finish: str = "stop",
    usage: WireUsage | None = USAGE,
    logprobs: object = None,
    tool_calls: Sequence[dict[str, Any]] | None = None,
    **reply: Any,
) -> Completion:
    """A complete answer."""
    message = Reply(role="assistant", content=text, tool_calls=_list(tool_calls), **reply)
    choice = Choice(message=message, finish_reason=finish, logprobs=_raw(logprobs))
    return Completion(choices=[choice], usage=usage)


def chunk(
    text: str | None = None,
    *,
    finish: str | None = None,
    usage: WireUsage | None = None,
    logprobs: object = None,
    tool_calls: Sequence[dict[str, Any]] | None = None,
    **reply: Any,
) -> Completion:
    """A bit of a streamed answer."""
    delta = Reply(content=text, tool_calls=_list(tool_calls), **reply)
    choice = Choice(delta=delta, finish_reason=finish, logprobs=_raw(logprobs))
    return Completion(choices=[choice], usage=usage)


def last_chunk(usage: WireUsage | None = USAGE) -> Completion:
    """What backends send behind the last choice when they are asked for the usage."""
    return Completion(choices=[], usage=usage)


def chunks(text: str, *, finish: str = "stop", usage: WireUsage | None = USAGE) -> list[Completion]:
    """A text as a backend streams it, three characters at a time."""
    bits = [chunk(text[at : at + 3]) for at in range(0, len(text), 3)]
    return [chunk("", role="assistant"), *bits, chunk(finish=finish), last_chunk(usage)]


def refused(status: int, retry_after: int | None = None, body: bytes = b"") -> CallFailed:
    """An upstream's answer with another status than 200."""
    why = refusal(status, body) if status in READ else None
    return CallFailed(Failure.STATUS, status=status, retry_after=retry_after, refusal=why)


def model(name: str, **settings: Any) -> Model:
    """An entry of the catalogue."""
    return Model.model_validate({"name": name, "url": f"http://{name}.test/v1", **settings})


def _raw(value: object) -> msgspec.Raw:
    return ABSENT if value is None else msgspec.Raw(msgspec.json.encode(value))


def _list(values: Sequence[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    return None if values is None else list(values)


@dataclass
class Asked:
    """A call that was made, and what became of it."""

    call: Call
    headers: Mapping[str, str]
    deadline: float
    streamed: bool
    end: Literal["running", "done", "failed", "cancelled"] = "running"

    @property
    def name(self) -> str:
        return self.call.model.name

    @property
    def role(self) -> str:
        return self.call.role

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = msgspec.json.decode(self.call.body)
        return body

    @property
    def prompt(self) -> str:
        """The last message, which is ours wherever there is an instruction."""
        return str(self.body["messages"][-1]["content"])


@dataclass
class ScriptedClient(Client):
    """Answers each model's calls as the script says, and remembers them.

    `journal`, if given, is told of each call, so that its place among other things that happen can be seen.
    """

    script: Mapping[str, Step]
    journal: list[object] | None = None
    asked: list[Asked] = field(default_factory=list)
    most_at_once: int = 0

    async def complete(self, call: Call, headers: Mapping[str, str], *, deadline: float) -> Answer:
        async with self._asked(call, headers, deadline, streamed=False) as step:
            match step:
                case str():
                    return Answer(completion(step), 1)
                case Attempts(count, text):
                    return Answer(completion(text), count)
                case Completion():
                    return Answer(step, 1)
                case _:
                    raise AssertionError(f"{call.model.name} was not to be asked for a whole")

    async def stream(
        self, call: Call, headers: Mapping[str, str], *, deadline: float
    ) -> AsyncGenerator[Answer]:
        async with self._asked(call, headers, deadline, streamed=True) as step:
            if isinstance(step, str):
                step = Stream(chunks(step))
            if not isinstance(step, Stream):
                raise AssertionError(f"{call.model.name} was not to be asked for a stream")
            for piece in step.chunks:
                await _sleep(step.apart, deadline)
                yield Answer(piece, 1)
            if isinstance(step.end, CallFailed):
                raise step.end
            if isinstance(step.end, Hang):
                await _sleep(None, deadline)

    async def post(
        self, call: Call, path: str, headers: Mapping[str, str], *, deadline: float
    ) -> bytes:
        async with self._asked(call, headers, deadline, streamed=False) as step:
            assert isinstance(step, str)
            return step.encode()

    @asynccontextmanager
    async def _asked(
        self, call: Call, headers: Mapping[str, str], deadline: float, *, streamed: bool
    ) -> AsyncIterator[Step]:
        step = self._next_step(call.model.name)
        asked = Asked(call, dict(headers), deadline, streamed)
        if isinstance(step, Answers):
            step = step.to(asked)
        self.asked.append(asked)
        if self.journal is not None:
            self.journal.append(asked)
        self.most_at_once = max(self.most_at_once, len(self.running))
        try:
            yield await _arrived(step, deadline)
            asked.end = "done"
        except (asyncio.CancelledError, GeneratorExit):
            asked.end = "cancelled"
            raise
        except BaseException:
            asked.end = "failed"
            raise

    def _next_step(self, name: str) -> Step:
        step = self.script[name]
        if isinstance(step, InTurn):
            return step.steps[min(len(self.calls_of(name)), len(step.steps) - 1)]
        return step

    # What a test wants to know...

    @property
    def names(self) -> list[str]:
        """The models that were asked, in the order in which they were."""
        return [asked.name for asked in self.asked]

    @property
    def running(self) -> list[str]:
        """The models whose calls are under way."""
        return [asked.name for asked in self.asked if asked.end == "running"]

    @property
    def cancelled(self) -> list[str]:
        """The models whose calls were broken off."""
        return [asked.name for asked in self.asked if asked.end == "cancelled"]

    def calls_of(self, name: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.name == name]

    def role(self, role: str) -> Asked:
        """The one call with this role."""
        (asked,) = (asked for asked in self.asked if asked.role == role)
        return asked


async def _arrived(step: Step, deadline: float) -> Step:
    """What the step comes to, once it is there."""
    while isinstance(step, After):
        await _sleep(step.seconds, deadline)
        step = step.then
    if isinstance(step, Hang):
        await _sleep(None, deadline)
    if isinstance(step, CallFailed):
        raise CallFailed(
            step.failure,
            status=step.status,
            retry_after=step.retry_after,
            refusal=step.refusal,
            attempts=step.attempts,
            seen=step.seen,
        )
    if isinstance(step, Crash):
        raise ZeroDivisionError("a mistake")
    return step


async def _sleep(seconds: float | None, deadline: float) -> None:
    """Sleep, for ever if `seconds` is None; when the call's deadline comes first, fail as the real client does."""
    try:
        async with asyncio.timeout_at(deadline):
            if seconds is None:
                await asyncio.get_running_loop().create_future()
            elif seconds:
                await asyncio.sleep(seconds)
    except TimeoutError:
        raise CallFailed(Failure.TIMEOUT) from None
