"""What is known of a call's usage while its answer comes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from looper.calling.budget import Grant
from looper.calling.calls import CallFailed, Failure
from looper.calling.models import Model
from looper.wire.chat import Choice, Completion, Reply, Usage, WireUsage
from looper.wire.reading.call_bits import GIVEN
from looper.wire.tokens import weigh

NOTHING_REPORTED = WireUsage()


@dataclass(slots=True)
class Heard:
    """What a backend has reported of a call so far; where it reports nothing that can be, what was seen of the answer.

    A call that is left, or breaks, before its backend has said what it used is paid for all the same: who is left has
    read the prompt, even if nothing of an answer has come. Who broke before that may not have, and nothing is booked.
    """

    input_tokens: int
    grant: Grant
    model: Model
    attempts: int = 1
    _reported: WireUsage = NOTHING_REPORTED
    _begun: bool = False
    _weight: float = 0.0

    def add(self, completion: Completion) -> None:
        """An answer has come, or another chunk of one."""
        if completion.usage is not None:
            self._hear(completion.usage)
        for choice in completion.choices:
            self._begun = True
            self._weight += written(choice)

    def _hear(self, usage: WireUsage) -> None:
        # Some backends say with every chunk what they have used so far: the last word counts that says something.
        prompt, completion, before = usage.prompt_tokens, usage.completion_tokens, self._reported
        self._reported = WireUsage(
            prompt if prompt and can_be(prompt, self.model) else before.prompt_tokens,
            completion if can_be(completion, self.model) else before.completion_tokens,
            usage.prompt_tokens_details or before.prompt_tokens_details,
            usage.completion_tokens_details or before.completion_tokens_details,
        )

    def failed(self, error: CallFailed) -> None:
        """The call came to nothing. Of an unstreamed answer some may have come, which nobody can read."""
        self.attempts = max(self.attempts, error.attempts)
        if error.said is not None:
            self.add(error.said)
        self._begun = self._begun or error.seen > 0
        self._weight += error.seen / _BYTES_PER_TOKEN
        if error.failure is Failure.TIMEOUT and error.attempts:
            self.left()

    def left(self) -> None:
        """Nobody waits for the answer any more."""
        self._begun = True

    @property
    def usage(self) -> Usage | None:
        """What is booked: as reported, else estimated, but no more than was reserved; None if nothing is known."""
        prompt, completion = self._reported.prompt_tokens, self._reported.completion_tokens
        if not completion and self._weight:
            completion = None  # what was written was not for nothing
        if prompt is None and completion is None and not self._begun:
            return None
        guessed = 0
        if prompt is None:
            prompt = self.input_tokens
            guessed += prompt
        if completion is None:
            completion = self._written()
            guessed += completion
        replace = msgspec.structs.replace
        counted = replace(self._reported, prompt_tokens=prompt, completion_tokens=completion)
        return replace(counted.read(), estimated=guessed)

    def _written(self) -> int:
        """About how many tokens the answer has, as far as it came: as many as it may have, at the most."""
        limits = (self.grant.max_tokens, self.model.max_output, self.model.context_window)
        most = min((limit for limit in limits if limit is not None), default=_MOST_WRITTEN)
        return min(math.ceil(self._weight), most * self.grant.choices)


_BYTES_PER_TOKEN = 4
_MOST_WRITTEN = 128_000
"""Tokens that an answer is taken for at the most, where nothing else bounds it."""

_MOST_REPORTED = 10_000_000
"""Tokens above which a report cannot be, where nobody knows the model's window."""


def can_be(count: int | None, model: Model) -> bool:
    """Whether a backend's count of tokens can be what a call has used."""
    return count is not None and 0 <= count <= (model.context_window or _MOST_REPORTED)


def written(choice: Choice) -> float:
    """About how many tokens a model has written, for the client or not."""
    return sum(map(weigh, _words(choice)))


def _words(choice: Choice) -> Iterator[str]:
    reply = choice.message or choice.delta or Reply()
    yield from filter(None, (reply.content, reply.thought, reply.refusal))
    for called in (call.get(kind) for call in reply.tool_calls or () for kind in GIVEN):
        if isinstance(called, dict):
            yield from (value for value in called.values() if isinstance(value, str))
