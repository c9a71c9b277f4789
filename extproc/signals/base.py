"""What a signal is: a question about an exchange's request, whose answer is a reading."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

from pydantic import Field

from extproc.protocol.events import Value
from extproc.signals.tally import SignalTally
from extproc.signals.text import Text
from looper.calling.budget import Purse
from looper.calling.models import Model
from looper.calling.propagation import FORWARDED
from looper.run import Client, Run
from looper.settings import Setting
from looper.wire.chat import ChatRequest


@dataclass(frozen=True, slots=True)
class Reading:
    """A signal's answer. `score` is 0..1; `hits` are words of the configuration, never of the prompt.

    `partial`: something was not looked at that might have changed whether it matches. `stands`: not so for what was
    found; only that there is no more of it is not known.
    """

    match: bool
    score: float
    value: float | None = None
    labels: Mapping[str, float] = field(default_factory=dict)
    hits: tuple[str, ...] = ()
    partial: bool = False
    stands: bool = False


@dataclass(frozen=True, eq=False)
class Subject:
    """What signals are asked about: a request, and what Envoy says of it. Made once for each exchange.

    `attributes` are those of Envoy's by name; under `metadata` stands its dynamic metadata, by namespace.
    `correction` is the factor for estimates of tokens that holds at that moment. `asked` is told of a run that a signal
    has made for it, where somebody wants to know.
    """

    request: ChatRequest
    headers: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, Value] = field(default_factory=dict)
    correction: float = 1.0
    asked: Callable[[Run], None] | None = None

    @cached_property
    def user(self) -> Text:
        """What the user wrote."""
        return self.said_by("user")

    def said_by(self, *roles: str) -> Text:
        """What these wrote, in the order of the conversation; without roles, everybody."""
        if roles not in self._texts:
            self._texts[roles] = Text(self.request.said_by(*roles))
        return self._texts[roles]

    @cached_property
    def _texts(self) -> dict[tuple[str, ...], Text]:
        return {}

    @cached_property
    def tokens(self) -> int:
        """The size of the request, as estimated and as what models have reported of others would correct it."""
        return round(self.request.prompt_tokens * self.correction)


@dataclass(frozen=True, slots=True)
class Egress:
    """What a remote signal asks a model with."""

    client: Client
    models: Mapping[str, Model]
    purse: Purse | None = None
    forward_headers: tuple[str, ...] = FORWARDED
    tally: SignalTally = field(default_factory=SignalTally)


class LocalSignal(Protocol):
    """A signal that is answered on the spot, in bounded time and without awaiting."""

    def read(self, subject: Subject) -> Reading: ...


class RemoteSignal(Protocol):
    """A signal that has to ask somebody. `deadline` is in the loop's time; what is late by then is cancelled."""

    async def read(self, subject: Subject, egress: Egress, deadline: float) -> Reading: ...


OnError = Literal["unknown", "match", "no_match"]


class SignalSetting(Setting):
    """What every kind of signal can be told."""

    on_error: OnError = Field(
        default="unknown", description="what it says when it cannot be read, or not in time"
    )

    def label_names(self) -> tuple[str, ...] | None:
        """The labels that its readings may have, for rules to name; None: any."""
        return ()

    def doubts(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """What is no error, but hardly meant, with its path below the signal."""
        yield from ()

    def members(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """The models that it asks, each with its path below the signal: most kinds ask none."""
        yield from ()


class RemoteSetting(SignalSetting):
    """What every kind of signal can be told that has to ask somebody."""
