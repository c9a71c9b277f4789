"""The record of a run: its stages, and each call with its end, time, usage and cost. Never what was said."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Literal, get_args

from looper.calling.calls import Result
from looper.calling.drafts import Draft, StandIn
from looper.wire.chat import Completion, Usage
from looper.wire.finish import standard

_WHOLE = ("single", "candidate", "panel", "member")
_MAX_CALLS = 256
_MAX_NOTES = 64
_MAX_FOUND = 32
_MAX_ATTEMPTS = 16
_DIGITS = 6
_NOTED = 0.005
"""Seconds of waiting that are worth telling of."""
_MEASURED = 9
"""Digits of what others are to be calibrated by: a steep curve makes more of a difference than there was."""


@dataclass(slots=True)
class CallRecord:
    """One call. Times are seconds since the run began."""

    model: str
    role: str
    started: float
    ended: float | None = None
    first_token: float | None = None
    state: str = "running"
    reason: str | None = None
    status: int | None = None
    number: int = 0
    span: str | None = None
    score: float | None = None
    measured: dict[str, float] = field(default_factory=dict)
    """By method: the score as it was measured, before anybody said what it is worth."""
    verdict: str | None = None
    usage: Usage | None = None
    cost: Decimal | None = None
    """In micro-USD, at the model's own price."""
    dropped: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    """What of the answer was not understood, and left out: members by their places."""
    agent: str | None = None
    stands_in: StandIn | None = None
    queued: float = 0.0
    finish: str | None = None
    """How its answer ended, in one of OpenAI's words."""
    keeps: bool | None = None
    """False: its answer broke the contract. None: as far as anybody looked, it did not."""
    text: str | None = None
    """What the model said; kept only in a trace that is `full`."""

    def end(self, result: Result) -> Result:
        """Note what came of the call. The result then knows its place here."""
        self.state = result.state
        if result.finish is not None:
            self.finish = standard(result.finish)
        if self.text is not None:
            self.text += result.text
        if result.error is not None:
            error = result.error
            self.reason = error.reason or error.refusal or error.failure.value
            self.status = result.error.status
        return replace(result, number=self.number)

    def left(self, *, late: bool) -> None:
        """Note that nobody waits for the call any more."""
        self.state = "timed_out" if late else "cancelled"

    def spoke(self, chunk: Completion) -> None:
        """Note a chunk of a streamed answer."""
        if self.first_token is None:
            self.first_token = time.monotonic()
        for choice in chunk.choices[:1]:
            if choice.finish_reason:
                self.finish = standard(choice.finish_reason)
        if self.text is not None:
            deltas = (choice.delta for choice in chunk.choices)
            self.text += "".join(delta.content or "" for delta in deltas if delta is not None)


Breach = Literal["mended", "repaired", "replaced", "published"]
"""How an answer came to keep its contract: by machinery, by its model in one more call, or by another in its place; or
that none did, and it was published all the same. The best end first.
"""

Found = Mapping[str, Any]
"""Plain data without a word of what was said: calls by their numbers."""


@dataclass(slots=True)
class Trace:
    """What is known of one run while it goes on, and after."""

    began: float = field(default_factory=time.monotonic)
    stages: list[tuple[str, float]] = field(default_factory=list)
    calls: list[CallRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    votes: list[Found] = field(default_factory=list)
    judgements: list[Found] = field(default_factory=list)
    checks: list[Found] = field(default_factory=list)
    full: bool = False
    breach: Breach | None = None
    """What became of the answer, if it broke its contract at first."""
    tokens: dict[str, Usage] = field(default_factory=dict)
    """By the calls' roles, those included of which there is no record any more."""
    first_word: float | None = None
    """When the answer itself began."""
    described: Mapping[str, Any] = field(default_factory=dict)
    """What a pattern has to say of its plan and its course: plain data, without contents."""

    def stage(self, name: str) -> None:
        """A stage begins."""
        self.stages.append((name, self._now()))

    def note(self, text: str) -> None:
        """Something that whoever reads the trace should know: a degradation, and why. In words of ours."""
        if len(self.notes) < _MAX_NOTES:
            self.notes.append(text)

    def voted(self, vote: Found | None) -> None:
        """What a vote came to; None where nothing was compared."""
        if vote is not None and len(self.votes) < _MAX_FOUND:
            self.votes.append({"at": self._at(), **vote})

    def judged(
        self,
        results: Sequence[Result],
        scores: Sequence[float],
        winner: int | None = None,
        **findings: Any,
    ) -> None:
        """A judge's scores, from 0 to 10, of these answers as they stood before it, and which it calls the best.

        Findings are a model's words: they are kept in a trace that is `full`.
        """
        if len(self.judgements) < _MAX_FOUND:
            answers: list[dict[str, Any]] = [{"call": result.number} for result in results]
            for each, score in zip(answers, scores, strict=False):
                each["score"] = score
            told: dict[str, Any] = {"at": self._at(), "answers": answers}
            if winner is not None and winner <= len(results):
                told["winner"] = results[winner - 1].number
            if self.full and findings:
                told["findings"] = findings
            self.judgements.append(told)

    def checked(self, method: str, score: float, threshold: float, *, enough: bool) -> None:
        """Whether what was said by now is sure enough: what escalations hang on."""
        if len(self.checks) < _MAX_FOUND:
            stage = self.stages[-1][0] if self.stages else None
            rounded = {"score": round(score, _DIGITS), "threshold": round(threshold, _DIGITS)}
            self.checks.append(
                {"at": self._at(), "stage": stage, "method": method, **rounded, "enough": enough}
            )

    def broke(self, end: Breach) -> None:
        """An answer broke its contract, and this became of it. Of several ends the worst is told."""
        ends = get_args(Breach)
        self.breach = max(filter(None, (self.breach, end)), key=ends.index)

    def violated(self, number: int | None) -> None:
        """The answer of a call broke the contract."""
        if number is not None and number < len(self.calls):
            self.calls[number].keeps = False

    def last(self, model: str, role: str) -> int | None:
        """The number of the last call of a model in a role."""
        calls = (each for each in reversed(self.calls) if (each.model, each.role) == (model, role))
        return next((each.number for each in calls), None)

    def used(self, role: str, usage: Usage | None) -> None:
        """What a call has used, whatever came of it."""
        if usage is not None:
            self.tokens[role] = self.tokens.get(role, Usage()) + usage

    def shown(self, reader: str, results: Sequence[Result]) -> None:
        """Note which calls' answers a reader saw as candidates 1, 2 and so on."""
        numbers = ", ".join("?" if each.number is None else str(each.number) for each in results)
        self.note(f"the {reader} read the answers of calls {numbers}, in this order")

    def score(self, result: Result, score: float | None, verdict: str | None = None) -> None:
        """How a call's answer was judged: 0..1, None for unknown; and in a word of ours what followed from it."""
        if (record := self._of(result)) is not None:
            record.score, record.verdict = score, verdict

    def measure(self, result: Result, method: str, score: float) -> None:
        """A score of a call's answer as it was measured: what it is worth can be found out of many such."""
        if (record := self._of(result)) is not None:
            record.measured[method] = round(score, _MEASURED)

    def _of(self, result: Result) -> CallRecord | None:
        known = result.number is not None and result.number < len(self.calls)
        return self.calls[result.number] if known and result.number is not None else None

    @contextmanager
    def call(self, draft: Draft) -> Iterator[CallRecord]:
        """Record a call from here to the end of the block."""
        with self.record(draft.model.name, draft.role, draft.agent) as record:
            record.dropped = tuple(draft.dropped())
            record.stands_in, record.queued = draft.stands_in, draft.queued
            record.text = "" if self.full else None
            yield record

    @contextmanager
    def record(self, name: str, role: str, agent: str | None = None) -> Iterator[CallRecord]:
        """The same for a call that is no draft. What it is answered is not kept."""
        record = CallRecord(name, role, self._now(), number=len(self.calls), agent=agent)
        if len(self.calls) < _MAX_CALLS:
            self.calls.append(record)
        try:
            yield record
        except asyncio.CancelledError as cancelled:
            record.reason = next(map(str, cancelled.args), None)
            raise
        finally:
            record.ended = self._now()
            if record.first_token is not None:
                record.first_token -= self.began
            if record.state == "running":
                record.state = "cancelled"

    def attempts(self) -> dict[str, Any] | None:
        """What an error may say of the calls before it: for each its model and what kind of end it had."""
        if not self.calls:
            return None
        shown = [_attempt(record) for record in self.calls[:_MAX_ATTEMPTS]]
        more = len(self.calls) - len(shown)
        return {"attempts": shown, "more": more} if more else {"attempts": shown}

    def _now(self) -> float:
        return time.monotonic() - self.began

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self._now()

    def answers(self) -> None:
        """A bit of the answer itself goes to the client."""
        if self.first_word is None:
            self.first_word = self._at()

    def _at(self) -> float:
        return round(self._now(), 4)

    def whole_prompts(self) -> Iterator[int]:
        """The tokens of each prompt that was the client's conversation and no more, by the models' own count."""
        for record in self.calls:
            if record.role in _WHOLE and record.state == "ok" and record.usage is not None:
                yield record.usage.prompt_tokens

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for logs and the ring of runs."""
        found = {"votes": self.votes, "judgements": self.judgements, "checks": self.checks}
        return {
            "stages": [{"stage": name, "at": round(at, 4)} for name, at in self.stages],
            "calls": [_plain(record) for record in self.calls],
            "notes": list(self.notes),
            **{name: list(each) for name, each in found.items() if each},
            **self.described,
        }


def _attempt(record: CallRecord) -> dict[str, Any]:
    """What a client may read of a call."""
    told: dict[str, Any] = {"model": record.model, "result": record.state}
    if record.status is not None:
        told["status"] = record.status
    if record.keeps is False:
        told["contract"] = "broken"
    return told


def _plain(record: CallRecord) -> dict[str, Any]:
    """A call, without what is not known of it."""
    ended, first = record.ended, record.first_token
    facts: dict[str, Any] = {
        "model": record.model,
        "role": record.role,
        "agent": record.agent,
        "stands_in": record.stands_in,
        "queued": round(record.queued, 4) if record.queued >= _NOTED else None,
        "state": record.state,
        "at": round(record.started, 4),
        "seconds": None if ended is None else round(ended - record.started, 4),
        "first_token": None if first is None else round(first - record.started, 4),
        "reason": record.reason,
        "status": record.status,
        "finish_reason": record.finish,
        "contract": "broken" if record.keeps is False else None,
        "span": record.span,
        "score": None if record.score is None else round(record.score, _DIGITS),
        "measured": record.measured or None,
        "verdict": record.verdict,
        "usage": None if record.usage is None else record.usage.to_dict(),
        "cost_microusd": None if record.cost is None else float(round(record.cost, 3)),
        "estimated": bool(record.usage and record.usage.estimated) or None,
        "text": record.text,
        "dropped": list(record.dropped) or None,
        "not_understood": list(record.unread) or None,
    }
    return {name: fact for name, fact in facts.items() if fact is not None}
