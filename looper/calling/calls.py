"""One call to one model: what is sent, and what may come of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Literal, NamedTuple

import msgspec

from looper.calling.models import Model
from looper.calling.refusals import Refusal
from looper.contract.base import visible
from looper.wire.chat import ABSENT, Choice, Completion, Reply

Answering = Literal[
    "single", "candidate", "member", "panel", "proposer", "worker", "synthesis", "final", "repair"
]
Voice = Literal["candidate", "member", "panel", "proposer"]
"""What those are asked for whose answers are weighed with each other's."""

Private = Literal["judge", "verifier", "planner", "summary", "label"]
Role = Answering | Private
"""What a call is for, in statistics. Answers of answering stages may be published, those of private ones never are."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request to a model, ready to be sent. `retries` is how often Envoy may try it again."""

    model: Model
    role: Role
    body: bytes
    retries: int = 0


class Answer(NamedTuple):
    """A complete answer or a chunk of one, how many attempts Envoy made for it, and what of it was not understood."""

    completion: Completion
    attempts: int
    unread: tuple[str, ...] = ()


class Failure(Enum):
    """Why a call came to nothing."""

    CONNECT = "connect"
    TIMEOUT = "timeout"
    STATUS = "status"
    BROKEN = "broken"
    UNUSABLE = "unusable"
    BUDGET = "budget"
    UNSUITABLE = "unsuitable"


NO_ROOM = "length"
"""The reason of a call whose model had used all the tokens that it may before its first word."""

RATE_LIMITED = "rate_limited"
"""The reason of a call that was refused for want of quota, with another status than 429."""

TOO_LARGE = "answer_bytes"
"""The reason of an answer that is larger than any may be."""


class CallFailed(Exception):
    """A call came to nothing. Never leaves the runtime: what the client reads is a LooperError.

    `reason` is a word of ours that says more: which limit had no room, or what the model lacks. `refusal` says why an
    upstream, or we in its place, will not answer this request whoever asks, and `param` which member of it is to
    blame. `seen` are the bytes that had come of an unstreamed answer when it broke off, `said` is what can be read of
    one that came as a stream unasked, `limit` the tokens that the answer might have had.
    """

    def __init__(
        self,
        failure: Failure,
        *,
        status: int | None = None,
        retry_after: int | None = None,
        reason: str | None = None,
        refusal: Refusal | None = None,
        attempts: int = 1,
        seen: int = 0,
        limit: int | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(failure.value if status is None else f"{failure.value} {status}")
        self.failure = failure
        self.status = status
        self.retry_after = retry_after
        self.reason = reason
        self.refusal = refusal
        self._param = param
        self.attempts = attempts
        self.seen = seen
        self.said: Completion | None = None
        self.limit = limit

    @property
    def param(self) -> str | None:
        """The member of the request that cannot be served, as far as an upstream names it, or we know it."""
        if self.failure is Failure.UNSUITABLE:
            return _ASKED_BY.get(self.reason or "")
        return self._param

    @property
    def is_rate_limited(self) -> bool:
        """Whether an upstream had no quota for a call."""
        return self.status == 429 or self.reason == RATE_LIMITED

    @property
    def is_too_long(self) -> bool:
        """Whether an upstream has refused a call because there was no room for it in the model's context window."""
        too_long = self.refusal == "context_length_exceeded"
        return too_long and self.failure is not Failure.UNSUITABLE


_ASKED_BY = {
    "vision": "messages",
    "tools": "tools",
    "json_schema": "response_format",
    "logprobs": "logprobs",
}
"""By what a model lacks: the member of a request that asks for it."""

State = Literal["ok", "unusable", "failed", "timed_out", "cancelled", "not_started"]


@dataclass(frozen=True)
class Result:
    """What came of a call, or of the wish to make one. `model` is the one that was asked last.

    `completion` is what came, of an `unusable` answer too. `number` is the call's place in the trace.
    """

    model: Model
    role: Role
    state: State
    completion: Completion | None = None
    error: CallFailed | None = None
    number: int | None = None

    def without_logprobs(self) -> "Result":
        """The same for a client that asked for no probabilities."""
        if self.completion is None:
            return self
        change = msgspec.structs.replace
        choices = [change(choice, logprobs=ABSENT) for choice in self.completion.choices]
        return replace(self, completion=change(self.completion, choices=choices))

    @cached_property
    def text(self) -> str:
        """The answer's content, without thoughts. Empty unless the call is `ok`."""
        message = self.message
        return visible(message.content or "") if message and self.state == "ok" else ""

    @property
    def thoughts(self) -> str:
        """What a model thought, as far as its backend shows it, whether or not an answer came of it."""
        message = self.message
        if message is None:
            return ""
        content = message.content or ""
        return message.thought or (content if not visible(content).strip() else "")

    @property
    def message(self) -> Reply | None:
        return None if self._choice is None else self._choice.message

    @property
    def is_cut(self) -> bool:
        """Whether it is a text that ends where its limit does, and not where its author wanted."""
        return self.finish == "length" and bool(self.text.strip())

    @property
    def finish(self) -> str | None:
        """How the answer ended, by its backend's word."""
        return None if self._choice is None else self._choice.finish_reason

    @property
    def _choice(self) -> Choice | None:
        """The first one, which is the answer; some backends send none."""
        choices = self.completion.choices if self.completion is not None else []
        return choices[0] if choices else None


def usable(completion: Completion) -> bool:
    """Whether there is anything in an answer that could be published."""
    if not completion.choices:
        return False
    message = completion.choices[0].message
    return message is not None and bool(
        (message.content and visible(message.content).strip())
        or message.tool_calls
        or message.refusal
    )


def nothing_said(choices: Iterable[Choice]) -> CallFailed:
    """What an answer fails with that says nothing: a filter may have kept it back, or there was no room for it."""
    ends = {choice.finish_reason for choice in choices}
    if "content_filter" in ends:
        return CallFailed(Failure.UNUSABLE, refusal="content_filter")
    return CallFailed(Failure.UNUSABLE, reason=NO_ROOM if ends == {"length"} else None)


def successes(results: Sequence[Result]) -> list[Result]:
    """The results that are `ok`, in declared order."""
    return [result for result in results if result.state == "ok"]
