"""How a team's answer reaches the client: live, as Envoy's streamed local reply, or whole."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from extproc import headers as names
from extproc.decisions.recipe import Decision
from extproc.process.outflow import Outflow
from extproc.protocol.actions import (
    Action,
    CloseStream,
    Headers,
    Metadata,
    OpenStream,
    Respond,
    StreamData,
)
from looper.errors import AnswerTooLarge, InternalError, LooperError
from looper.run import Heartbeat, Run
from looper.wire.answer import Chunks, Whole
from looper.wire.chat import ChatRequest, Usage
from looper.wire.events import Delta, Done, Event, Progress

_JSON: Headers = (("content-type", "application/json"),)
_JSON_IN_BITS: Headers = (("content-type", names.JSON_IN_BITS),)
_SSE: Headers = (
    ("content-type", "text/event-stream"),
    ("cache-control", "no-cache"),
    ("x-accel-buffering", "no"),
)


@dataclass(slots=True)
class Answering:
    """What a reply needs to know: the request, its run, and what is noted of the exchange."""

    request: ChatRequest
    run: Run
    decision: Decision
    facts: Metadata
    log: dict[str, str | int]
    outflow: Outflow
    max_bytes: int
    trail: Mapping[str, str] = field(default_factory=dict)
    """By what others know the request."""
    debug: bool = False
    began: float = field(default_factory=time.monotonic)
    """When the request came."""
    written: int = 0

    def count(self, data: bytes) -> bytes:
        """Account for `data` before it is sent. Raises AnswerTooLarge or Overloaded."""
        if self.written + len(data) > self.max_bytes:
            raise AnswerTooLarge(f"The answer is larger than {self.max_bytes} bytes.")
        self.outflow.add(len(data))
        self.written += len(data)
        return data

    def release(self) -> None:
        """The client has all of it, or has left."""
        self.outflow.remove(self.written)
        self.written = 0

    def headers(self, outcome: str | None = None) -> Headers:
        said = said_of({**self.facts, "run": self.run.id})
        return said if outcome is None else (*said, (names.OUTCOME, outcome))

    def opening(self) -> Metadata:
        # A run that is cut short never says more than this: "started" is what statistics then count.
        return {**self.facts, "outcome": "started"}

    def closing(self, end: Done | LooperError) -> Metadata:
        """What is known of a run in the end: it has answered, or failed. Envoy's statistics are told some things more
        than the log.
        """
        breach, by_role = self.run.trace.breach, _by_role(self.run.trace.tokens)
        if isinstance(end, Done):
            told = {**self._ended(end.outcome), **_sureness(end), **_breach(breach)}
            self.log |= told
            return {**told, **self._first_token(), **by_role}
        told = {**self._ended("failed"), **_breach(breach and "failed")}
        self.log |= told
        return {**told, "error": end.code, **by_role}

    def _first_token(self) -> Metadata:
        """The milliseconds from a request to the first word of its answer, if that is streamed."""
        trace = self.run.trace
        if not self.request.stream or trace.first_word is None:
            return {}
        spoke = trace.began + trace.first_word
        return {"first_token_ms": max(0, round(1000 * (spoke - self.began)))}

    def end(self, *, failed: bool) -> None:
        """Note what became of a run that has not answered: it failed, or nobody is left to hear of it."""
        if "outcome" not in self.log:
            self.log |= self._ended("failed" if failed else "abandoned")

    def _ended(self, outcome: str) -> dict[str, str | int]:
        ledger = self.run.ledger
        metadata: dict[str, str | int] = {
            **self.facts,
            "outcome": outcome,
            "calls": ledger.calls,
            "prompt_tokens": ledger.usage.prompt_tokens,
            "completion_tokens": ledger.usage.completion_tokens,
            "cost_microusd": ledger.cost,
        }
        if ledger.usage.estimated:
            metadata |= {"estimated_tokens": ledger.usage.estimated}
        return metadata

    def error(self, error: LooperError) -> Respond:
        # What was paid for once would be paid for again, whatever the error is.
        retry = False if self.run.ledger.calls > 0 else error.retry
        body = error.to_json(self.run.trace.attempts())
        return error_reply(error, retry, self.headers(), self.closing(error), body)

    def debug_facts(self, done: Done) -> dict[str, Any]:
        ledger = self.run.ledger
        return {
            "run": self.run.id,
            **self.trail,
            "outcome": done.outcome,
            "confidence": done.confidence,
            **_grounds(done),
            "calls": ledger.calls,
            "cost_microusd": ledger.cost,
            "trace": self.run.trace.to_dict(),
        }

    def debug_headers(self, done: Done) -> Headers:
        models = dict.fromkeys(record.model for record in self.run.trace.calls)
        stages = (f"{name};at={at * 1000:.0f}ms" for name, at in self.run.trace.stages)
        sure = (
            () if done.confidence is None else (("x-looper-confidence", f"{done.confidence:.3f}"),)
        )
        known_by = (
            (f"x-looper-{name.replace('_', '-')}", value)
            for name, value in self.trail.items()
            if value.isascii() and value.isprintable()
        )
        return (
            *known_by,
            *sure,
            ("x-looper-models", ", ".join(models)),
            ("x-looper-calls", str(self.run.ledger.calls)),
            ("x-looper-cost-microusd", str(self.run.ledger.cost)),
            ("x-looper-stages", ", ".join(stages)),
        )


def _sureness(done: Done) -> Metadata:
    """How sure a team is of its answer, and what that lacks."""
    told: dict[str, str | int] = {}
    if done.lack is not None:
        told["degraded_by"] = done.lack
    if done.confidence is not None:
        told |= {"confidence_permille": round(1000 * done.confidence), **_grounds(done)}
    return told


def _breach(end: str | None) -> Metadata:
    """What became of an answer that broke its contract at first."""
    return {} if end is None else {"contract_breach": end}


def _by_role(tokens: Mapping[str, Usage]) -> Metadata:
    """The tokens of calls by what these were for."""
    told: dict[str, str | int] = {}
    for role, usage in tokens.items():
        told[f"prompt_tokens.{role}"] = usage.prompt_tokens
        told[f"completion_tokens.{role}"] = usage.completion_tokens
    return told


def _grounds(done: Done) -> Metadata:
    """By which measure a team is sure of its answer, and how sure would have been enough."""
    if done.grounds is None:
        return {}
    method, enough = done.grounds.method, done.grounds.threshold
    told: dict[str, str | int] = {"confidence_method": method}
    return told if enough is None else told | {"threshold_permille": round(1000 * enough)}


def said_of(facts: Metadata) -> Headers:
    """The headers that tell clients what was decided, and by which name to ask for it."""
    return (
        (names.DECISION, str(facts["decision"])),
        (names.ALGORITHM, str(facts["algorithm"])),
        (names.RUN, str(facts["run"])),
    )


class Reply(Protocol):
    """Takes a run's events, and says what is to be said of them at once. So nothing can be cancelled in between."""

    def add(self, event: Event | Heartbeat) -> Sequence[Action]: ...

    def fail(self, error: LooperError) -> Sequence[Action]:
        """End the answer with an error."""
        ...


class LiveReply:
    """A stream of chunks. It is opened by the first bit of the answer, or the first silence, whichever comes first."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._chunks = Chunks(answering.request, answering.decision.usage)
        self._open = False

    def add(self, event: Event | Heartbeat) -> Sequence[Action]:
        match event:
            case Progress():
                if self._answering.decision.progress != "reasoning":
                    return ()
                return self._say(
                    self._chunks.frames(Delta("reasoning_content", f"{event.stage}\n"))
                )
            case Heartbeat():
                return self._say(self._chunks.comment())
            case Done():
                debug = self._answering.debug
                facts = self._answering.debug_facts(event) if debug else None
                before = self._chunks.facts(facts) if facts is not None else b""
                return self._close(before + self._chunks.frames(event), event)
            case _:
                return self._say(self._chunks.frames(event))

    def _say(self, frames: bytes) -> Sequence[Action]:
        answering = self._answering
        if self._open:
            return (StreamData(answering.count(frames)),)
        first = StreamData(answering.count(self._chunks.opening() + frames))
        self._open = True
        return (OpenStream((*_SSE, *answering.headers()), answering.opening()), first)

    def _close(self, frames: bytes, end: Done | LooperError) -> Sequence[Action]:
        opening = () if self._open else self._say(b"")
        return (*opening, CloseStream(frames, self._answering.closing(end)))

    def fail(self, error: LooperError) -> Sequence[Action]:
        if not self._open:
            return (self._answering.error(error),)
        return self._close(self._chunks.failed(error, self._answering.run.trace.attempts()), error)


class WholeReply:
    """One message at the end. In body mode BUFFERED a stream, too, is sent as one message."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        request, count = answering.request, answering.decision.usage
        self._answer = Whole(request, count)
        self._chunks = Chunks(request, count) if request.stream else None
        self._frames: list[bytes] = []

    def add(self, event: Event | Heartbeat) -> Sequence[Action]:
        if isinstance(event, Heartbeat):
            return ()
        if self._chunks is None:
            self._answer.add(event)
        else:
            self._frames.append(self._chunks.frames(event))
        return (self._finish(event),) if isinstance(event, Done) else ()

    def _finish(self, done: Done) -> Action:
        if self._chunks is None:
            kind, body = _JSON, self._answer.to_json()
        else:
            kind, body = _SSE, self._chunks.opening() + b"".join(self._frames)
        answering = self._answering
        debug = answering.debug_headers(done) if answering.debug else ()
        headers = (*kind, *answering.headers(done.outcome), *debug)
        body = answering.count(body)
        return Respond(200, headers, body, "looper.answer", answering.closing(done))

    def fail(self, error: LooperError) -> Sequence[Action]:
        return (self._answering.error(error),)


class PatientReply:
    """One JSON body, begun with white space when it is long in coming: for what gives up on silent connections.

    Its price: once it has begun the status is 200, and an error that comes later is in the body.
    """

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._whole = WholeReply(answering)
        self._answer = Whole(answering.request, answering.decision.usage)
        self._open = False

    def add(self, event: Event | Heartbeat) -> Sequence[Action]:
        if isinstance(event, Heartbeat):
            return self._wait()
        self._answer.add(event)
        if not self._open:
            return self._whole.add(event)
        if isinstance(event, Done):
            return self._close(self._answering.count(self._answer.to_json()), event)
        return ()

    def _wait(self) -> Sequence[Action]:
        answering = self._answering
        blank = StreamData(answering.count(b" "))
        if self._open:
            return (blank,)
        self._open = True
        return (OpenStream((*_JSON_IN_BITS, *answering.headers()), answering.opening()), blank)

    def _close(self, body: bytes, end: Done | LooperError) -> Sequence[Action]:
        return (CloseStream(body, self._answering.closing(end)),)

    def fail(self, error: LooperError) -> Sequence[Action]:
        if not self._open:
            return self._whole.fail(error)
        return self._close(error.to_json(self._answering.run.trace.attempts()), error)


def reply_for(answering: Answering, *, live: bool) -> Reply:
    """The kind of reply that fits. `live` says whether Envoy takes an answer bit by bit."""
    if live and answering.request.stream:
        return LiveReply(answering)
    if live and answering.decision.keepalive == "whitespace":
        return PatientReply(answering)
    return WholeReply(answering)


def error_reply(
    error: LooperError,
    retry: bool | None,
    headers: Headers,
    metadata: Metadata,
    body: bytes | None = None,
) -> Respond:
    """An error in OpenAI's shape, with what SDKs read of it. `retry`: what they are told to do, or None."""
    said: list[tuple[str, str]] = [*_JSON, *headers]
    if retry is not None:
        said.append(("x-should-retry", str(retry).lower()))
    if error.retry_after is not None:
        said.append(("retry-after", str(error.retry_after)))
    return Respond(
        error.status, tuple(said), body or error.to_json(), f"looper.{error.code}", metadata
    )


def error_facts(error: Exception) -> Metadata:
    """What is noted of an error, and read by its client; of a mistake of ours, no more than that there was one."""
    told = error if isinstance(error, LooperError) else InternalError()
    return {"status": told.status, "code": told.code}
