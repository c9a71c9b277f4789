"""Spans of what the processor does, for whoever collects traces over OTLP.

Without `tracing` in the configuration nothing here is imported but this file and `opening`: `spans` and `sending` need
the extra `otel`. What was said is never in a span. May import `config` and below.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from extproc.signals.base import Reading
from looper.calling.models import Model
from looper.run import Run

Facts = Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of an exchange when it is over.

    `path` is one of ours, or says that it is another; `model` is a public name, never any other word of a client's.
    Of a metered answer `answered` is the status, and `first` when it began, on the monotonic clock. `resumes` is the
    span in which a run began that now goes on.
    """

    method: str
    path: str
    end: str
    facts: Facts
    model: str | None = None
    stream: bool = False
    run: Run | None = None
    answered: int | None = None
    first: float | None = None
    resumes: str | None = None


QUEUE, EXPORT, END = "queue", "export", "end"
"""Why spans are lost: too many waited, they could not be sent, or the end came first."""

NONE_DROPPED: Mapping[str, int] = dict.fromkeys((QUEUE, EXPORT, END), 0)


class SignalsSpan(Protocol):
    """The signals of one exchange while they are read."""

    @property
    def context(self) -> Mapping[str, str]:
        """The headers with which calls made for them belong to this span."""
        ...

    def asked(self, run: Run) -> None:
        """A signal has made the calls of this run."""
        ...

    def read(self, readings: Mapping[str, Reading], names: tuple[str, ...]) -> None:
        """What those say that have one of these names."""
        ...


class ExchangeSpan(Protocol):
    """One exchange, from its first message on."""

    @property
    def context(self) -> Mapping[str, str]:
        """W3C's headers with which whatever is called belongs to this span."""
        ...

    @property
    def is_recording(self) -> bool:
        """Whether anything of it is kept: if not, it only hands on that nobody else is to keep anything."""
        ...

    def signals(self, models: Mapping[str, Model]) -> AbstractContextManager[SignalsSpan]: ...

    def end(self, told: Told) -> None:
        """The exchange is over. Makes the spans of its stages and calls as well, from what its run has noted."""
        ...


class Tracer(Protocol):
    """Makes spans of exchanges."""

    def begin(self, headers: Mapping[str, str]) -> ExchangeSpan:
        """An exchange begins, in the trace that its headers name, or in one of its own."""
        ...

    @property
    def sent(self) -> int:
        """Spans that the collector has taken."""
        ...

    @property
    def dropped(self) -> Mapping[str, int]:
        """Spans that are lost, by why: there was no room for them, or they could not be sent."""
        ...
