"""Reads a recipe's signals: local ones on the spot, in their order; remote ones at once, until a deadline."""

import asyncio
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Generic, Self, TypeVar

import structlog
from structlog.contextvars import bound_contextvars

from extproc.signals import SignalConfig
from extproc.signals.base import (
    Egress,
    LocalSignal,
    OnError,
    Reading,
    RemoteSetting,
    RemoteSignal,
    Subject,
)

_log = structlog.get_logger()

INLINE = 32 * 1024
"""Bytes of a body whose local signals are read on the event loop; those of a larger one are read beside it."""

S = TypeVar("S", LocalSignal, RemoteSignal)


class NotAllRead(Exception):
    """A text is longer than what is looked at of it."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """How decisions hang on a signal that answer by themselves, to keep a request from models.

    `denied`: the labels whose absence they act on, "" for the signal itself. `wholly`: all of it counts for them.
    """

    denied: frozenset[str] = frozenset()
    wholly: bool = False

    def is_enough(self, reading: Reading) -> bool:
        """Whether what was found in a part of a text may be acted on: who asks may have written the rest to hide it."""
        found = {*reading.labels, *([""] if reading.match else [])}
        return reading.stands and not self.wholly and not found & self.denied


@dataclass(slots=True)
class Question(Generic[S]):
    """A signal under its recipe's name for it. `failures` counts how often it had no answer."""

    name: str
    signal: S
    on_error: OnError = "unknown"
    failures: int = 0
    guarded: Guarded | None = None

    def checked(self, reading: Reading) -> Reading | None:
        """The reading; where a guard hangs on it, only if nothing was left unread that may change it."""
        if self.guarded is None or not reading.partial:
            return replace(reading, partial=False) if reading.partial else reading
        return reading if self.guarded.is_enough(reading) else self.failed(NotAllRead())

    def failed(self, error: BaseException) -> Reading | None:
        """What stands for the answer that did not come. Nothing else is said of the error: its text may quote."""
        self.failures += 1
        _log.warning("signal.failed", signal=self.name, error=type(error).__name__)
        match self.on_error:
            case "unknown":
                return None
            case "match":
                return Reading(match=True, score=1.0)
            case "no_match":
                return Reading(match=False, score=0.0)


@dataclass(frozen=True, slots=True)
class Signals:
    """A recipe's signals, ready to be read."""

    local: tuple[Question[LocalSignal], ...] = ()
    remote: tuple[Question[RemoteSignal], ...] = ()

    @classmethod
    def build(
        cls,
        configs: Mapping[str, SignalConfig],
        guarded: Mapping[str, Guarded] = MappingProxyType({}),
    ) -> Self:
        local: list[Question[LocalSignal]] = []
        remote: list[Question[RemoteSignal]] = []
        for name, config in configs.items():
            by = guarded.get(name)
            if isinstance(config, RemoteSetting):
                remote.append(Question(name, config.build(), config.on_error, guarded=by))
            else:
                local.append(Question(name, config.build(), config.on_error, guarded=by))
        return cls(tuple(local), tuple(remote))

    @property
    def names(self) -> tuple[str, ...]:
        """As declared, local ones first."""
        return (*(each.name for each in self.local), *(each.name for each in self.remote))

    @property
    def failures(self) -> Mapping[str, int]:
        """How often each of them had no answer."""
        return {
            **{question.name: question.failures for question in self.local},
            **{question.name: question.failures for question in self.remote},
        }


async def read_signals(
    signals: Signals,
    subject: Subject,
    deadline: float,
    egress: Egress | None = None,
    wanted: Callable[[Mapping[str, Reading]], Container[str]] | None = None,
) -> Mapping[str, Reading]:
    """The readings by name. A signal that fails or is late has none, unless its `on_error` says otherwise.

    `deadline` is in the loop's time. Without an `egress` nobody can be asked, and remote signals fail. `wanted` says
    of which remote signals there is still need, given what the local ones say; default: of all.
    """
    if signals.local and len(subject.request.body) > INLINE:
        readings = await asyncio.to_thread(read_local, signals, subject)
    else:
        readings = read_local(signals, subject)
    if signals.remote:
        needed = signals.names if wanted is None else wanted(readings)
        asked = [question for question in signals.remote if question.name in needed]
        if asked:
            readings |= await _read_remote(asked, subject, deadline, egress)
    return readings


def read_local(signals: Signals, subject: Subject) -> dict[str, Reading]:
    """The readings of local signals, in declared order."""
    readings: dict[str, Reading] = {}
    for question in signals.local:
        reading: Reading | None
        try:
            reading = question.checked(question.signal.read(subject))
        except Exception as error:
            reading = question.failed(error)
        if reading is not None:
            readings[question.name] = reading
    return readings


class Unreachable(Exception):
    """There is no egress to ask a model by."""


async def _read_remote(
    questions: Sequence[Question[RemoteSignal]],
    subject: Subject,
    deadline: float,
    egress: Egress | None,
) -> dict[str, Reading]:
    async with asyncio.TaskGroup() as group:
        tasks = [
            (question.name, group.create_task(_ask(question, subject, deadline, egress)))
            for question in questions
        ]
    done = ((name, task.result()) for name, task in tasks)
    return {name: reading for name, reading in done if reading is not None}


async def _ask(
    question: Question[RemoteSignal], subject: Subject, deadline: float, egress: Egress | None
) -> Reading | None:
    try:
        if egress is None:
            raise Unreachable
        with bound_contextvars(signal=question.name):
            async with asyncio.timeout_at(deadline):
                return question.checked(await question.signal.read(subject, egress, deadline))
    except Exception as error:
        return question.failed(error)
