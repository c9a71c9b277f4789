"""What is known of a call's usage while its answer comes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from looper.calling.budget import Grant
from looper.calling.calls import CallFailed, Failure
from looper.wire.chat import Choice, Completion, Reply, Usage
from looper.wire.deltas import GIVEN
from looper.wire.tokens import weigh


@dataclass(slots=True)
class Heard:
    """What a backend has reported of a call so far; where it reports nothing, what was seen of the answer.

    A call that is left, or breaks, before its backend has said what it used is paid for all the same: who is left has
    read the prompt, even if nothing of an answer has come. Who broke before that may not have, and nothing is booked.
    """

    input_tokens: int
    grant: Grant
    attempts: int = 1
    _reported: Usage | None = None
    _begun: bool = False
    _weight: float = 0.0

    def add(self, completion: Completion) -> None:
        """An answer has come, or another chunk of one."""
        # Some backends say with every chunk what they have used so far: the last word counts.
        self._reported = completion.usage.read() if completion.usage else self._reported
        for choice in completion.choices:
            self._begun = True
            self._weight += written(choice)

    def failed(self, error: CallFailed) -> None:
        """The call came to nothing. Of an unstreamed answer some may have come, which nobody can read."""
        self.attempts = max(self.attempts, error.attempts)
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
        if self._reported is not None or not self._begun:
            return self._reported
        output = math.ceil(self._weight)
        if self.grant.max_tokens is not None:
            output = min(output, self.grant.max_tokens)
        return Usage(self.input_tokens, output, estimated=self.input_tokens + output)


_BYTES_PER_TOKEN = 4


def written(choice: Choice) -> float:
    """About how many tokens a model has written, for the client or not."""
    return sum(map(weigh, _words(choice)))


def _words(choice: Choice) -> Iterator[str]:
    reply = choice.message or choice.delta or Reply()
    yield from filter(None, (reply.content, reply.thought, reply.refusal))
    for called in (call.get(kind) for call in reply.tool_calls or () for kind in GIVEN):
        if isinstance(called, dict):
            yield from (value for value in called.values() if isinstance(value, str))
