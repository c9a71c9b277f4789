"""Why a request went where it went: everything that the engine found on its way to a decision.

The request is decided as any other, by the same policy; here is only told what came of it. No word of a prompt is in
an explanation: hits are the configuration's own.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from extproc.decisions.destination import destination
from extproc.decisions.engine import Decided, Policy, fires
from extproc.decisions.projections import Partition, Score
from extproc.decisions.recipe import Decision
from extproc.decisions.rules import All, Any_, AnyRule, Not, Truths, holds
from extproc.signals import Egress, LocalSignal, Reading, RemoteSignal, Subject
from extproc.signals.read import Signals
from looper.calling.cost import usd, worst_case
from looper.calling.models import Model
from looper.errors import LooperError
from looper.wire.chat import ChatRequest


@dataclass(frozen=True, slots=True)
class SignalFound:
    """What a signal said. Without a reading, `match` is None."""

    name: str
    match: bool | None
    score: float | None
    value: float | None
    labels: Mapping[str, float]
    hits: tuple[str, ...]
    milliseconds: float | None


@dataclass(frozen=True, slots=True)
class PartitionFound:
    """Which member won, and what each rule said. `unsure`: the default, for want of a reading."""

    name: str
    winner: str
    unsure: bool
    members: Mapping[str, bool | None]
    shares: Mapping[str, float] | None


@dataclass(frozen=True, slots=True)
class ScoreFound:
    """What a score came to, what each part added, and how far it is to the bands below and above."""

    name: str
    value: float | None
    band: str | None
    contributions: Mapping[str, float | None]
    bands: Mapping[str, float]
    to_lower: float | None
    to_upper: float | None


@dataclass(frozen=True, slots=True)
class RuleFound:
    """A part of a rule, and whether it held. `rule` is a name, or `all`, `any` or `not` of the parts."""

    rule: str
    held: bool | None
    parts: tuple["RuleFound", ...] = ()


Verdict = Literal[
    "answers", "watches", "would be next", "for other conversations", "unknown", "does not hold"
]
"""What becomes of a decision. What `watches` is a shadow that would have answered; what `would be next` holds, but
stands behind the one that answers."""


@dataclass(frozen=True, slots=True)
class DecisionFound:
    """A decision, in the order in which they are tried."""

    name: str
    priority: int
    percent: float
    shadow: bool
    verdict: Verdict
    when: RuleFound | None


@dataclass(frozen=True, slots=True)
class Action:
    """What the decision does, and the most that it may take, for this request's size. None is boundless.

    `status` and `message` are of an answer without any model: one that stands in the configuration, or an error. If the
    request is `routed`, there is one model.
    """

    decision: str
    algorithm: str
    models: tuple[str, ...]
    routed: bool
    status: int | None
    message: str | None
    calls: int | None
    tokens: int | None
    cost_usd: str | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a request is decided."""

    recipe: str
    prompt_tokens: int
    signals: tuple[SignalFound, ...]
    partitions: tuple[PartitionFound, ...]
    scores: tuple[ScoreFound, ...]
    decisions: tuple[DecisionFound, ...]
    action: Action


async def explain(policy: Policy, subject: Subject, models: Mapping[str, Model]) -> Explanation:
    """Decide a request, and say why."""
    times: dict[str, float] = {}
    decided = await policy.reading(_timed(policy.signals, times)).decide(subject)
    return explanation(policy, decided, subject, models, times)


def explanation(
    policy: Policy,
    decided: Decided,
    subject: Subject,
    models: Mapping[str, Model],
    times: Mapping[str, float] = MappingProxyType({}),
    *,
    bounded: bool = True,
) -> Explanation:
    """Why a request was decided as it was. `times` are the milliseconds that signals took, if anybody looked.

    Unless it is `bounded`, it is not added up what the decision may take at the most.
    """
    return Explanation(
        recipe=policy.name,
        prompt_tokens=subject.tokens,
        signals=tuple(
            _signal(name, decided.readings.get(name), times.get(name))
            for name in policy.signals.names
        ),
        partitions=tuple(_partitions(policy, decided)),
        scores=tuple(_scores(policy, decided)),
        decisions=tuple(_decisions(policy, decided, subject)),
        action=_action(decided.decision, subject, models, bounded=bounded),
    )


def _signal(name: str, reading: Reading | None, milliseconds: float | None) -> SignalFound:
    took = None if milliseconds is None else round(milliseconds, 3)
    if reading is None:
        return SignalFound(name, None, None, None, {}, (), took)
    return SignalFound(
        name, reading.match, reading.score, reading.value, reading.labels, reading.hits, took
    )


def _partitions(policy: Policy, decided: Decided) -> Iterator[PartitionFound]:
    truths, shapes = decided.projected.truths, decided.projected.shapes
    for step in policy.projections.steps:
        if isinstance(step, Partition):
            shape = shapes[step.name]
            members = {name: holds(rule, truths) for name, rule in step.config.members.items()}
            yield PartitionFound(step.name, shape.winner, shape.unsure, members, shape.shares)


def _scores(policy: Policy, decided: Decided) -> Iterator[ScoreFound]:
    for step in policy.projections.steps:
        if isinstance(step, Score):
            level, bands = decided.projected.levels[step.name], dict(step.config.bounds)
            lower, upper = _distances(level.value, list(bands.values()))
            yield ScoreFound(
                step.name, level.value, level.band, level.contributions, bands, lower, upper
            )


def _distances(value: float | None, bounds: list[float]) -> tuple[float | None, float | None]:
    """How far a score is from the next band below, and above, if there is one."""
    if value is None:
        return None, None
    inner = bounds[:-1]
    lower = max((bound for bound in inner if bound <= value), default=None)
    upper = min((bound for bound in inner if bound > value), default=None)
    return (
        None if lower is None else round(value - lower, 9),
        None if upper is None else round(upper - value, 9),
    )


def _decisions(policy: Policy, decided: Decided, subject: Subject) -> Iterator[DecisionFound]:
    truths, answered = decided.projected.truths, False
    for decision in policy.decisions:
        verdict = _verdict(decision, decided, subject, answered=answered)
        answered = answered or verdict == "answers"
        when = None if decision.when is None else _rule(decision.when, truths)
        yield DecisionFound(
            decision.name, decision.priority, decision.percent, decision.shadow, verdict, when
        )


def _verdict(decision: Decision, decided: Decided, subject: Subject, *, answered: bool) -> Verdict:
    truths = decided.projected.truths
    if decision is decided.decision:
        return "answers"
    if fires(decision, truths, subject):
        return "would be next" if answered else "watches"
    held = True if decision.when is None else holds(decision.when, truths)
    if held is False:
        return "does not hold"
    if held is None and decision.on_unknown != "act":
        return "unknown"
    return "for other conversations"


def _rule(rule: AnyRule, truths: Truths) -> RuleFound:
    held = holds(rule, truths)
    match rule:
        case str():
            return RuleFound(rule, held)
        case Not():
            return RuleFound("not", held, (_rule(rule.not_, truths),))
        case All():
            return RuleFound("all", held, tuple(_rule(part, truths) for part in rule.all))
        case Any_():
            return RuleFound("any", held, tuple(_rule(part, truths) for part in rule.any))


def _action(
    decision: Decision, subject: Subject, models: Mapping[str, Model], *, bounded: bool
) -> Action:
    routed, answer = _fate(decision, subject.request, models)
    names = (name for _, name in decision.members()) if routed is None else (routed,)
    action = Action(
        decision=decision.name,
        algorithm=decision.label,
        models=() if answer else tuple(dict.fromkeys(names)),
        routed=routed is not None,
        status=answer[0] if answer else None,
        message=answer[1] if answer else None,
        calls=None,
        tokens=None,
        cost_usd=None,
    )
    if not bounded:
        return action
    worst = worst_case(
        () if answer else decision.planned(routed), models, prompt_tokens=subject.tokens
    )
    priced = worst.microusd is not None and not worst.unpriced
    return replace(
        action,
        calls=worst.calls,
        tokens=worst.tokens,
        cost_usd=f"{usd(worst.microusd):f}" if priced and worst.microusd is not None else None,
    )


def _fate(
    decision: Decision, request: ChatRequest, models: Mapping[str, Model]
) -> tuple[str | None, tuple[int, str] | None]:
    """The model that it is routed to, or the answer that it gets from none, with its status."""
    if decision.respond is not None:
        return None, (decision.respond.status, decision.respond.message)
    try:
        model = destination(decision, decision.parameters.applied(request), models)
    except LooperError as error:
        return None, (error.status, error.message)
    return (None if model is None else model.name), None


# Signals that are read as ever, and timed.


def _timed(signals: Signals, times: dict[str, float]) -> Signals:
    return Signals(
        local=tuple(
            replace(each, signal=_TimedLocal(each.name, each.signal, times))
            for each in signals.local
        ),
        remote=tuple(
            replace(each, signal=_TimedRemote(each.name, each.signal, times))
            for each in signals.remote
        ),
    )


class _TimedLocal:
    def __init__(self, name: str, signal: LocalSignal, times: dict[str, float]) -> None:
        self._name = name
        self._signal = signal
        self._times = times

    def read(self, subject: Subject) -> Reading:
        began = time.perf_counter()
        try:
            return self._signal.read(subject)
        finally:
            self._times[self._name] = (time.perf_counter() - began) * 1000


class _TimedRemote:
    def __init__(self, name: str, signal: RemoteSignal, times: dict[str, float]) -> None:
        self._name = name
        self._signal = signal
        self._times = times

    async def read(self, subject: Subject, egress: Egress, deadline: float) -> Reading:
        began = time.perf_counter()
        try:
            return await self._signal.read(subject, egress, deadline)
        finally:
            self._times[self._name] = (time.perf_counter() - began) * 1000
