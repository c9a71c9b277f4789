"""What the runs in memory come to: for each decision and each model, from the lines that are kept of them."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, get_args

from extproc.process.runs import Kept
from extproc.process.runtime import Runtime
from looper.calling.budget import cost
from looper.calling.calls import Answering
from looper.calling.models import Model

AT_MOST = 5000
"""Runs that are looked at, the newest: more would tell no more, and take longer than anybody waits."""

_BINS = 10
_WRITES = (*get_args(Answering), "routed")
_QUIET = ("ok", "cancelled", "not_started")
"""Ends of calls that are nobody's fault."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How a figure is spread: the middle, and what only one in twenty is above."""

    p50: float
    p95: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread | None":
        known = sorted(value for value in values if value is not None)
        return cls(_part(known, 0.5), _part(known, 0.95)) if known else None


def _part(ordered: Sequence[float], part: float) -> float:
    return round(ordered[max(0, ceil(part * len(ordered)) - 1)], 4)


@dataclass(frozen=True, slots=True)
class Savings:
    """What the requests would have cost if their decision's dearest member had answered each of them alone."""

    dearest: str
    runs: int
    cost_microusd: float
    alone_microusd: int


@dataclass(frozen=True, slots=True)
class DecisionSeen:
    """What became of a decision's runs. `confidence` are their numbers by tenths."""

    recipe: str
    decision: str
    algorithm: str
    runs: int
    share: float
    outcomes: Mapping[str, int]
    seconds: Spread | None
    first_token: Spread | None
    calls: float
    cost_microusd: float
    savings: Savings | None
    confidence: Sequence[int] | None


@dataclass(frozen=True, slots=True)
class ModelSeen:
    """What became of a model's calls. `errors` are those that failed by the model's doing, or were too late."""

    model: str
    calls: int
    errors: int
    states: Mapping[str, int]
    seconds: Spread | None
    first_token: Spread | None
    prompt_tokens: int
    completion_tokens: int
    cost_microusd: float


@dataclass(frozen=True, slots=True)
class Overview:
    """What is seen of the last runs."""

    runs: int
    since: str | None
    decisions: Sequence[DecisionSeen]
    models: Sequence[ModelSeen]


def overview(kept: Sequence[Kept], runtime: Runtime) -> Overview:
    """The newest first. Dearest members are those of the configuration at work."""
    return Overview(
        len(kept),
        kept[-1].summary["time"] if kept else None,
        sorted(_decisions(kept, runtime), key=lambda each: -each.runs),
        sorted(_models(kept), key=lambda each: -each.calls),
    )


# By decision...


def _weights(kept: Sequence[Kept]) -> Sequence[float]:
    """What each counts for in shares: memory reaches back further for one kind than for the other."""
    oldest = {each.summary["kind"]: each.number - each.stands_for for each in kept}
    if sum(each.stands_for for each in kept) == kept[0].number - min(oldest.values()):
        return [each.stands_for for each in kept]  # none of either kind is gone
    return [each.stands_for / (kept[0].number - oldest[each.summary["kind"]]) for each in kept]


def _decisions(kept: Sequence[Kept], runtime: Runtime) -> Iterator[DecisionSeen]:
    weights = _weights(kept) if kept else ()
    by_number = {each.number: weight for each, weight in zip(kept, weights, strict=True)}
    by: defaultdict[tuple[str, str, str], list[Kept]] = defaultdict(list)
    for each in kept:
        line = each.summary
        by[line.get("recipe", ""), line.get("decision", ""), line.get("algorithm", "")].append(each)
    for (recipe, decision, algorithm), runs in by.items():
        lines = [each.summary for each in runs]
        dearest = _dearest(recipe, decision, runtime)
        yield DecisionSeen(
            recipe,
            decision,
            algorithm,
            runs=len(runs),
            share=sum(by_number[each.number] for each in runs) / sum(weights),
            outcomes=Counter(line.get("outcome", "routed") for line in lines),
            seconds=Spread.of(line.get("seconds") for line in lines),
            first_token=Spread.of(line.get("first_token") for line in lines),
            calls=round(sum(line["calls"] for line in lines) / len(lines), 2),
            cost_microusd=_mean(line.get("cost_microusd", 0) for line in lines),
            savings=None if dearest is None else _savings(runs, dearest),
            confidence=_confidence(lines),
        )


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return round(sum(known) / len(known), 3) if known else 0.0


def _confidence(lines: Iterable[Mapping[str, Any]]) -> Sequence[int] | None:
    bins = [0] * _BINS
    for line in lines:
        if (permille := line.get("confidence_permille")) is not None:
            bins[min(_BINS - 1, permille * _BINS // 1000)] += 1
    return bins if any(bins) else None


def _dearest(recipe: str, decision: str, runtime: Runtime) -> Model | None:
    """The member of a decision that asks most for an answer as long as its question; None if nobody has a price."""
    policy = runtime.policies.get(recipe)
    for each in policy.decisions if policy is not None else ():
        if each.name == decision:
            members = [runtime.models[name] for _, name in each.members()]
            priced = [model for model in members if model.price is not None]
            return max(priced, key=lambda model: cost(model, 1, 1), default=None)
    return None


def _savings(runs: Iterable[Kept], dearest: Model) -> Savings | None:
    """Only answers count: what failed would have cost nobody less. Each costs whole micro-USD, as a run does."""
    spent, alone, count = 0.0, 0, 0
    for each in runs:
        written = _written(each)
        if written is not None:
            spent += each.summary.get("cost_microusd", 0)
            alone += ceil(cost(dearest, each.summary.get("prompt_tokens", 0), written))
            count += 1
    if not count:
        return None
    return Savings(dearest.name, count, round(spent, 3), alone)


def _written(kept: Kept) -> int | None:
    """How many tokens an answer to the request has, by those that were given: their mean."""
    said: list[int] = [
        call["usage"]["completion_tokens"]
        for call in kept.calls
        if call["state"] == "ok" and call["role"] in _WRITES and "usage" in call
    ]
    return round(sum(said) / len(said)) if said else None


# ... and by model.


def _models(kept: Iterable[Kept]) -> Iterator[ModelSeen]:
    by: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for each in kept:
        for call in each.calls:
            by[call["model"]].append(call)
    for model, calls in by.items():
        usages = [call["usage"] for call in calls if "usage" in call]
        yield ModelSeen(
            model,
            calls=len(calls),
            errors=sum(call["state"] not in _QUIET for call in calls),
            states=Counter(call["state"] for call in calls),
            seconds=Spread.of(call.get("seconds") for call in calls if call["state"] == "ok"),
            first_token=Spread.of(call.get("first_token") for call in calls),
            prompt_tokens=sum(usage["prompt_tokens"] for usage in usages),
            completion_tokens=sum(usage["completion_tokens"] for usage in usages),
            cost_microusd=round(sum(call.get("cost_microusd", 0) for call in calls), 3),
        )
