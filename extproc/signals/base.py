"""What a signal is: a question about a request, whose answer is a reading."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from looper.chat import ChatRequest


@dataclass(frozen=True, slots=True)
class Reading:
    """A signal's answer. `score` is 0..1; `hits` are words of the configuration, never of the prompt."""

    match: bool
    score: float
    value: float | None = None
    labels: Mapping[str, float] = field(default_factory=dict)
    hits: tuple[str, ...] = ()


class LocalSignal(Protocol):
    """A signal that is answered on the spot, in bounded time and without awaiting."""

    def read(self, text: str, request: ChatRequest) -> Reading:
        """Answer for `text`, the user's part of the conversation, case-folded once for all signals."""
        ...
