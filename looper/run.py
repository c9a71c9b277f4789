"""A run: one execution of a pattern, with what it works with and what it may spend."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from random import Random
from typing import Protocol, TypeVar, get_args

from pydantic import BaseModel

from looper.calling.budget import Grant, Ledger, cost
from looper.calling.calls import (
    Answer,
    Call,
    CallFailed,
    Failure,
    Private,
    Result,
    State,
    nothing_said,
    usable,
)
from looper.calling.drafts import Draft
from looper.calling.failures import why_no_answer
from looper.calling.fanout import LATE, Patience, Round, Stop, fan_out, is_failure, is_late, never
from looper.calling.heard import Heard
from looper.calling.models import Model
from looper.calling.propagation import child
from looper.calling.scaffolding import Scaffold, Sieve, scaffold_of, without_scaffold
from looper.calling.trace import CallRecord, Trace
from looper.contract import NO_TERMS, Terms
from looper.errors import DeadlineExceeded, NothingButThoughts
from looper.voting.votes import value_of
from looper.wire.chat import ChatRequest, Completion
from looper.wire.deltas import Gathering
from looper.wire.events import Delta, Done, Event, Finish, Progress
from looper.wire.finish import broke_off
from looper.wire.model_json import LONGEST, NotRead, read_json
from looper.wire.tool_calls import ToolCalls

T = TypeVar("T", bound=BaseModel)
Fault = Callable[[T], str | None]


def _faultless(read: BaseModel) -> str | None:
    return None


class Client(Protocol):
    """What a run needs of the egress client."""

    async def complete(
        self, call: Call, headers: Mapping[str, str], *, deadline: float
    ) -> Answer: ...

    def stream(
        self, call: Call, headers: Mapping[str, str], *, deadline: float
    ) -> AsyncGenerator[Answer]: ...

    async def post(
        self, call: Call, path: str, headers: Mapping[str, str], *, deadline: float
    ) -> bytes: ...


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


class Pauses(Protocol):
    """Where a run may come to wait for the client's tools."""

    def call(self) -> str:
        """An id for a call of a tool, which the client sends back with what came of it."""
        ...

    async def keep(self, work: bytes) -> None:
        """Keep what the run needs to go on. Before that the client must not learn that it may."""
        ...


async def silent(progress: Progress) -> None:
    """Nobody is there to hear it."""


def fresh_mark() -> str:
    """For fences: nobody can guess it, and few texts end with its beginning, at which a stream is held back."""
    return f"9{secrets.token_hex(8)[1:]}"


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
    terms: Terms = NO_TERMS
    bands: Mapping[str, str] = field(default_factory=dict)
    """What the decision's projections made of the request, by their names."""
    fence: str = field(default_factory=fresh_mark)
    trace: Trace = field(default_factory=Trace)
    pauses: Pauses | None = None
    say: Callable[[Progress], Awaitable[None]] = silent
    """Says at once that a stage has begun: for what does not happen in the task that yields the run's events."""

    async def ask(self, draft: Draft, *, until: float) -> Result:
        """Make a call. Its failure is a result, not an exception.

        What is too long for a model is asked once more with less, if the budget has a call more than the plan.
        """
        result = await self._ask(draft, until=until)
        less = None if result.error is None else self._less(draft, result.error)
        return result if less is None else await self._ask(less, until=until)

    async def _ask(self, draft: Draft, *, until: float) -> Result:
        with self.trace.call(draft) as record:
            try:
                grant = self._reserve(draft)
            except CallFailed as error:
                return record.end(Result(draft.model, draft.role, "not_started", error=error))
            heard = Heard(draft.input_tokens, grant, draft.model)
            headers, record.span = child(self.headers)
            try:
                answer, heard.attempts, record.unread = await self.client.complete(
                    draft.call(grant.max_tokens, grant.retries),
                    headers,
                    deadline=self._until(draft, until),
                )
                heard.add(answer)
                _check_end(answer, heard)
                answer = without_scaffold(_called(draft, answer), _scaffold(draft))
            except CallFailed as error:
                error.limit = grant.max_tokens
                heard.failed(error)
                return record.end(Result(draft.model, draft.role, _state(error), error=error))
            except asyncio.CancelledError as left:
                heard.left()
                record.left(late=is_late(until) or LATE in left.args)
                raise
            finally:
                self._settle(draft, heard, record)
            return record.end(_judged(draft, answer))

    async def fan_out(
        self,
        drafts: Sequence[Draft],
        settings: Round,
        *,
        until: float,
        stop: Stop = never,
        patience: Patience | None = None,
    ) -> list[Result]:
        """Make several calls at once; one result for each, in their order. Silence makes nobody a straggler.

        Raises a LooperError if a failure is to end the run.
        """

        async def ask(draft: Draft) -> Result:
            return await self.ask(draft, until=until if patience is None else patience.until)

        results = await fan_out(
            drafts,
            ask,
            settings,
            self.models,
            until=until,
            stop=stop,
            counts=self.speaks,
            patience=patience,
        )
        if settings.on_error == "fail" and (failed := list(filter(is_failure, results))):
            raise why_no_answer(failed, everybody=len(failed) == len(results))
        return results

    def speaks(self, result: Result) -> bool:
        """Whether an answer says something, as the contract reads it; one that is cut has begun to."""
        return result.is_cut or value_of(result, self.terms.contract) is not None

    async def ask_json(
        self, draft: Draft, type: type[T], *, until: float, fault: Fault[T] = _faultless
    ) -> T | None:
        """Make a call whose answer is JSON. If it is not, the model is asked once more and told why.

        None if the call fails, or if both answers are no `type`, or have a `fault`: what is wrong with one, in a
        sentence for its model.
        """
        result = await self.ask(draft, until=until)
        read = await _read(result, type, fault, draft)
        if isinstance(read, NotRead):
            self.trace.note(f"the {draft.role}'s answer was not the JSON asked for: asked again")
            quotable = len(result.text) <= LONGEST and draft.has_room_for(result.text)
            said = result.text if quotable else ""
            cut = result.finish == "length"
            again = draft.again(said, _REASK.format(_cut_off(result, draft) if cut else read.why))
            if cut:
                again = again.roomier()
            result = await self.ask(again, until=until)
            read = await _read(result, type, fault, again)
        return None if isinstance(read, NotRead) else read

    async def consult(
        self, service: Model, path: str, body: bytes, *, until: float
    ) -> bytes | None:
        """Ask a verifier that is no model, by way of the egress as models are. None if it gives no answer.

        It is a call like any other, but for tokens and money.
        """
        with self.trace.record(service.name, "verifier") as record:
            grant = self.ledger.reserve(service, 0, 1)
            if not isinstance(grant, Grant):
                error = CallFailed(Failure.BUDGET, reason=grant, attempts=0)
                record.end(Result(service, "verifier", "not_started", error=error))
                return None
            headers, record.span = child(self.headers)
            try:
                call = Call(service, "verifier", body)
                data = await self.client.post(call, path, headers, deadline=until)
                record.state = "ok"
                return data
            except CallFailed as error:
                record.end(Result(service, "verifier", _state(error), error=error))
                return None
            finally:
                self.ledger.settle(grant, service)

    async def stream(self, draft: Draft, *, until: float) -> AsyncGenerator[Completion]:
        """Make a call and hand on its chunks as they come; one that is too long once more, as with `ask`.

        Raises CallFailed.
        """
        begun = False
        try:
            async with aclosing(self._stream(draft, until=until)) as chunks:
                async for chunk in chunks:
                    begun = True
                    yield chunk
                return
        except CallFailed as error:
            less = None if begun else self._less(draft, error)
            if less is None:
                raise
        async with aclosing(self._stream(less, until=until)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _stream(self, draft: Draft, *, until: float) -> AsyncGenerator[Completion]:
        with self.trace.call(draft) as record:
            grant = self._reserve(draft)
            heard = Heard(draft.input_tokens, grant, draft.model)
            calls, sieve = ToolCalls(allowed=draft.tools), Sieve(_scaffold(draft))
            headers, record.span = child(self.headers)
            try:
                call = draft.call(grant.max_tokens, grant.retries)
                chunks = self.client.stream(call, headers, deadline=self._until(draft, until))
                broken: Completion | None = None
                async with aclosing(chunks) as arriving:
                    async for chunk, heard.attempts, record.unread in arriving:
                        record.spoke(chunk)
                        heard.add(chunk)
                        broken = chunk if _broke_off(chunk) else broken
                        if broken is None:
                            yield sieve.read(calls.read(chunk))
                if broken is not None:  # what it has used was said behind that
                    _check_end(broken, heard)
                if (rest := sieve.rest()) is not None:
                    yield rest
                record.state = "ok"
            except CallFailed as error:
                error.limit = grant.max_tokens
                heard.failed(error)
                record.end(Result(draft.model, draft.role, _state(error), error=error))
                if (rest := sieve.rest()) is not None:
                    yield rest  # it only began like something of ours
                raise
            except (asyncio.CancelledError, GeneratorExit) as left:
                heard.left()
                record.left(late=is_late(until) or LATE in left.args)
                raise
            finally:
                self._settle(draft, heard, record)

    async def watch(
        self, draft: Draft, *, until: float, hopeless: Callable[[Gathering], bool]
    ) -> Result:
        """Make a call whose answer is looked at while it is written, and given up as soon as it is `hopeless`."""
        gathering, number = Gathering(), len(self.trace.calls)
        try:
            async with aclosing(self._stream(replace(draft, stream=True), until=until)) as chunks:
                async for chunk in chunks:
                    gathering.add(chunk)
                    if hopeless(gathering):
                        return Result(draft.model, draft.role, "cancelled", number=number)
        except CallFailed as error:
            return Result(draft.model, draft.role, _state(error), error=error, number=number)
        return replace(_judged(draft, gathering.completion()), number=number)

    def _less(self, draft: Draft, error: CallFailed) -> Draft | None:
        """The same with less in it, where a call was too long and that may help."""
        less = draft.less(error.limit) if error.is_too_long else None
        if less is None or not self.ledger.has_spare_calls:
            return None
        self.trace.note(f"the {draft.role}'s call was too long for its model: asked with less")
        return less

    def _settle(self, draft: Draft, heard: Heard, record: CallRecord) -> None:
        """Book what a call has taken, however it ended."""
        record.usage = usage = heard.usage
        self.trace.used(draft.role, usage)
        if usage is not None and draft.model.price is not None:
            record.cost = cost(draft.model, usage.prompt_tokens, usage.completion_tokens)
        self.ledger.settle(heard.grant, draft.model, record.usage, attempts=heard.attempts)

    def _reserve(self, draft: Draft) -> Grant:
        """Leave to make the call. Raises CallFailed if the model cannot take it, or the budget has no room for it."""
        if lacks := draft.unsuitable():
            raise CallFailed(Failure.UNSUITABLE, reason=lacks, attempts=0)
        grant = self.ledger.reserve(
            draft.model,
            draft.input_tokens,
            draft.wanted_output,
            role=draft.role,
            among=draft.among,
            extra=draft.extra,
            choices=draft.choices,
        )
        if not isinstance(grant, Grant):
            raise CallFailed(Failure.BUDGET, reason=grant, attempts=0)
        return grant

    def _until(self, draft: Draft, until: float) -> float:
        if draft.model.timeout is None:
            return until
        return min(until, self.deadline.now() + draft.model.timeout.total_seconds())


_INLINE = 8 * 1024
"""Characters of JSON that are read at once, and not in a thread."""

_REASK = """\
Your answer cannot be used: {}
Answer again, with the one JSON object that was asked for and nothing else."""


async def _read(result: Result, type: type[T], fault: Fault[T], draft: Draft) -> T | NotRead | None:
    """What a model's JSON says; why it says nothing; None if there is no use in asking again."""
    if result.state not in ("ok", "unusable"):
        return None
    said = result.text or _thought_only(result)
    if (scaffold := scaffold_of(draft.ours)) is not None:
        said = scaffold.unmarked(said)  # others will read it
    if len(said) > _INLINE:
        # Whoever wrote that much may have written what takes long to read.
        read = await asyncio.to_thread(read_json, said, type)
    else:
        read = read_json(said, type)
    why = read.why if isinstance(read, NotRead) else fault(read)
    if why is None:
        return read
    return NotRead(why if result.text else "it has no content.")


def _cut_off(result: Result, draft: Draft) -> str:
    """What is wrong with an answer that has no end."""
    used = result.completion.usage if result.completion is not None else None
    tokens = (used and used.completion_tokens) or draft.wanted_output
    return f"it was cut off after {tokens} tokens. Be shorter."


def _thought_only(result: Result) -> str:
    """What a server took for thoughts to the very end, as it does where a model does not close them."""
    ended = result.message is not None and result.finish != "length"
    return (result.message.thought or "") if ended and result.message else ""


def _broke_off(answer: Completion) -> bool:
    return any(broke_off(choice.finish_reason) for choice in answer.choices)


def _check_end(answer: Completion, heard: Heard) -> None:
    """Raises CallFailed for an answer that ends with the word that something broke, whatever it has said."""
    if _broke_off(answer):
        raise CallFailed(Failure.BROKEN, attempts=heard.attempts)


def _scaffold(draft: Draft) -> Scaffold | None:
    """What stands around the evidence of a draft whose answer may be published, or shown to another model."""
    return None if draft.role in _PRIVATE else scaffold_of(draft.ours)


_PRIVATE = frozenset(get_args(Private))


def _called(draft: Draft, answer: Completion) -> Completion:
    """An answer with the calls of tools that count.

    Several servers know no `tool_choice: none`. What a model proposes in a loop of tools, and says nothing else, is
    what it has to say.
    """
    read = ToolCalls(allowed=draft.tools).read(answer)
    if draft.proposals and not usable(read):
        return ToolCalls(allowed=True).read(answer)
    return read


def _judged(draft: Draft, completion: Completion) -> Result:
    if usable(completion):
        return Result(draft.model, draft.role, "ok", completion)
    empty = nothing_said(completion.choices)
    return Result(draft.model, draft.role, "unusable", completion, empty)


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
    return Random(hashlib.sha256(request.seed_source).digest())


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
        if run.deadline.at <= run.deadline.now():
            raise TimeoutError
        async with asyncio.timeout_at(run.deadline.at), asyncio.TaskGroup() as group:
            beating = group.create_task(voice.beat(heartbeat))
            answer = _answer(pattern, request, replace(run, say=voice.say))
            async with aclosing(answer) as events:
                async for event in events:
                    if isinstance(event, Delta):
                        run.trace.answers()
                    await voice.say(event)
                    if isinstance(event, Done):
                        break
            beating.cancel()
    except TimeoutError:
        raise DeadlineExceeded("The answer was not ready before the deadline.") from None
    except BaseExceptionGroup as failed:
        # The pattern's own error, without the group that the heartbeat's task put around it.
        raise failed.exceptions[0] from None


async def _answer(pattern: Pattern, request: ChatRequest, run: Run) -> AsyncGenerator[Event]:
    """A pattern's answer; where all its models did was to think, an empty one, as a model that thinks gives it."""
    try:
        async with aclosing(pattern.run(request, run)) as events:
            async for event in events:
                yield event
    except NothingButThoughts:
        run.trace.note("every model had used all its tokens before its first word")
        yield Delta("content", "")
        yield Finish("length")
        yield Done(run.ledger.usage, "degraded", lack="thoughts")


class _Voice:
    """Says one thing at a time, and something at least every so often."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._turn = asyncio.Lock()
        self._last = asyncio.get_running_loop().time()

    async def say(self, what: Event) -> None:
        async with self._turn:
            await self._speak(what)

    async def beat(self, every: float) -> None:
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(self._last + every - now())
            async with self._turn:  # whoever speaks just now breaks the silence
                if now() >= self._last + every:
                    await self._speak(Heartbeat())

    async def _speak(self, what: Event | Heartbeat) -> None:
        await self._emit(what)
        self._last = asyncio.get_running_loop().time()
