"""From recorded outcomes to a weights file, and what it took to believe in it."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from statistics import fmean

import numpy as np

from looper.evaluate.fitting.cascade import SILENT, Plan, Stage, frontier, run
from looper.evaluate.fitting.choice import chosen, promised
from looper.evaluate.fitting.features import method_for
from looper.evaluate.fitting.gates import gates
from looper.evaluate.fitting.isotonic import calibrate
from looper.evaluate.fitting.logit import Flags, Floats
from looper.evaluate.fitting.team import (
    FOLDS,
    Fitted,
    HeldOut,
    Sheet,
    Team,
    Way,
    fit_team,
    held_out,
    see,
    sheet,
    weights_of,
)
from looper.evaluate.outcomes import CHARS_PER_TOKEN, Outcomes, Question
from looper.voting import Advice, Provenance, TeamWeights, Weights
from looper.voting.calibration import Calibration

FEWEST = 4 * FOLDS
"""Questions below which nothing is fitted."""

_RESAMPLES = 2000
_LIKELY = (2.5, 97.5)

_HARDLY_DEARER = 1.05

_EARLIER: Way = "fit"
"""How stages before the last are weighed: they are to be sure or not, of which a fit knows more than the votes."""

Costs = Mapping[str, Floats]
"""What each member's answer to each question cost, in USD."""


Price = tuple[float, float]
"""USD per million tokens, of input and of output."""


class TooFew(ValueError):
    """There is too little to fit anything to."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over questions, and where 95 of 100 resamples of them have it."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Check:
    """A team on questions that its weights were neither fitted to nor chosen on, beside its best member."""

    accuracy: Interval
    beyond_best: Interval


@dataclass(frozen=True, slots=True)
class CascadeCheck:
    """A cascade on questions that its thresholds were not chosen on."""

    accept_at: tuple[float, ...]
    beyond_best: Interval
    cost_of_best: float | None
    """What it takes, as a part of the best member's cost; None where that costs nothing."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found of a team."""

    rows: int
    ratings: Mapping[str, float]
    voting: tuple[str, ...]
    best: str
    way: Way
    """How everybody's answers are weighed."""
    ways: Mapping[Way, float]
    """How often each way would have been right."""
    check: Check
    cascade: CascadeCheck | None
    advice: Advice
    cost_of_best: float | None = None
    """What it takes to ask everybody, as a part of the best member's cost; None where that is unknown, or nothing."""

    dominant: str | None = None
    """The member that outweighs all others together."""


def calibrate_team(
    data: Outcomes,
    stages: Sequence[Sequence[str]],
    ratings: Mapping[str, float],
    costs: Costs | None = None,
    *,
    decision: str | None = None,
    today: datetime.date,
) -> tuple[Weights, Report]:
    """Weights for a team that is asked stage by stage, each stage's answers being weighed with those before.

    `ratings` are the configured ones, of those that have one. Raises TooFew.
    """
    rows = data.rows
    if len(rows) < FEWEST:
        raise TooFew(f"{len(rows)} questions are too few: {FEWEST} are needed, 100 are good")
    sheets = [sheet(rows, team) for team in _teams(rows, stages, ratings)]
    everyone = sheets[-1]
    held = held_out(everyone)
    ways = [*(_EARLIER for _ in sheets[:-1]), chosen(held)]
    decided = [*(held_out(each, (_EARLIER,))[_EARLIER] for each in sheets[:-1]), held[ways[-1]]]
    worth = [_worth(each) for each in decided]
    best = everyone.team.members[everyone.best]
    cascade = None if costs is None else _cascade(sheets, decided, costs, best)
    fits = [fit_team(see(each), way) for each, way in zip(sheets, ways, strict=True)]
    seen = fits[-1].seen
    weights = Weights(
        version=1,
        provenance=Provenance(
            date=today, rows=len(rows), checksum=data.checksum, decision=decision
        ),
        scores={name: dict(each) for name, each in seen.sureness.scores.items()},
        sureness_from=seen.sureness.method,
        lengths=dict(seen.lengths),
        teams=_weights(fits, worth, cascade),
        held_out=gates(rows, stages, decided, worth, seen.sureness.scores),
    )
    report = _report(held, best, weights.teams[-1], cascade, len(stages))
    if costs is not None:
        report = replace(report, cost_of_best=_cost_of_all(costs, everyone.team, best))
    return weights.model_copy(update={"advice": report.advice}), report


def _weights(
    fits: Sequence[Fitted], worth: Sequence[Calibration], cascade: CascadeCheck | None
) -> tuple[TeamWeights, ...]:
    """Of the team of each stage; a cascade ends with any but the last where it is sure enough."""
    accept_at: list[float | None] = [None] * len(fits)
    if cascade is not None:
        accept_at = [*cascade.accept_at, None]
    return tuple(weights_of(*each) for each in zip(fits, worth, accept_at, strict=True))


def _cost_of_all(costs: Costs, team: Team, best: str) -> float | None:
    return part_of(sum(float(costs[name].sum()) for name in team.members), costs[best])


def part_of(spent: float, costs: Floats) -> float | None:
    """What was spent as a part of what these cost; None where they cost nothing."""
    whole = float(costs.sum())
    return spent / whole if whole else None


def _teams(
    rows: Sequence[Question], stages: Sequence[Sequence[str]], ratings: Mapping[str, float]
) -> list[Team]:
    """Who was asked until each stage."""
    named = {row.category for row in rows}
    categories = tuple(sorted(named - {""})) if len(named) > 1 else ()
    method = method_for(rows, [name for stage in stages for name in stage])
    asked: tuple[str, ...] = ()
    teams = []
    for stage in stages:
        asked = tuple(dict.fromkeys([*asked, *stage]))
        known = {name: ratings[name] for name in asked if name in ratings}
        teams.append(Team(asked, known, categories, method))
    return teams


def _worth(decided: HeldOut) -> Calibration:
    """What posteriors are worth."""
    found = calibrate(
        [(float(p), bool(r)) for p, r in zip(decided.posterior, decided.right, strict=True)]
    )
    assert found is not None  # there are questions
    return found


def _cascade(
    sheets: Sequence[Sheet], decided: Sequence[HeldOut], costs: Costs, best: str
) -> CascadeCheck | None:
    """Thresholds for all questions; what they are worth is seen on halves that they were not chosen on."""
    if len(sheets) < 2:
        return None
    spent = [sum((costs[name] for name in each.team.members), np.zeros(1)) for each in sheets]
    single = decided[-1].best_right
    even = np.arange(len(single)) % 2 == 0
    right = np.zeros(len(single), bool)
    cost = np.zeros(len(single))
    for chosen_on in (even, ~even):
        # Stages are calibrated on the half that thresholds are chosen on.
        stages = _stages(decided, spent, chosen_on)
        plan = choose([each.only(chosen_on) for each in stages], single[chosen_on])
        outcome = run([each.only(~chosen_on) for each in stages], plan.accept_at)
        right[~chosen_on], cost[~chosen_on] = outcome.right, outcome.spent
    everything = np.ones(len(single), bool)
    plan = choose(_stages(decided, spent, everything), single)
    return CascadeCheck(
        plan.accept_at,
        interval(right.astype(float) - single),
        part_of(float(cost.sum()), costs[best]),
    )


def _stages(decided: Sequence[HeldOut], spent: Sequence[Floats], chosen_on: Flags) -> list[Stage]:
    stages = []
    for each, cost in zip(decided, spent, strict=True):
        worth = _worth(each.only(chosen_on))
        sure = np.array([worth.probability(float(p)) for p in each.posterior])
        stages.append(Stage(np.where(each.spoken, sure, SILENT), each.right, cost))
    return stages


def choose(stages: Sequence[Stage], single: Flags) -> Plan:
    """The cheapest thresholds with which a cascade is right more often than the best member, by one standard error.

    If there are none, those that are right most often.
    """
    plans = frontier(stages)
    for plan in plans:
        gained = plan.right.astype(float) - single
        if gained.mean() >= gained.std() / np.sqrt(len(gained)):
            return plan
    return max(plans, key=lambda plan: plan.accuracy)


def _report(
    held: Mapping[Way, HeldOut],
    best: str,
    weights: TeamWeights,
    cascade: CascadeCheck | None,
    stages: int,
) -> Report:
    way = chosen(held)
    right = promised(held).astype(float)
    check = Check(interval(right), interval(right - held[way].best_right))
    return Report(
        rows=len(right),
        ratings={name: member.rating for name, member in weights.members.items()},
        dominant=weights.electorate().dominant,
        voting=tuple(name for name, member in weights.members.items() if member.votes),
        best=best,
        way=way,
        ways={each: float(found.right.mean()) for each, found in held.items()},
        check=check,
        cascade=cascade,
        advice=_advice(check, cascade, stages),
    )


def _advice(check: Check, cascade: CascadeCheck | None, stages: int) -> Advice:
    """A team has to be better than its best member; a cascade no worse and cheaper, or surely better."""
    if cascade is not None:
        better, cost = cascade.beyond_best, cascade.cost_of_best
        cost = inf if cost is None else cost
        cheaper = better.mean >= 0 and cost < 1
        pays = cheaper or (better.low > 0 and cost <= _HARDLY_DEARER)
        return "cascade" if pays else "do not cascade"
    if stages > 1 and check.beyond_best.mean <= 0:
        return "do not cascade"
    return "vote" if check.beyond_best.mean > 0 else "use one model"


def interval(values: Floats) -> Interval:
    """The mean, and a bootstrap interval that is the same every time."""
    random = np.random.default_rng(0)
    means = [
        float(values[random.integers(0, len(values), len(values))].mean())
        for _ in range(_RESAMPLES)
    ]
    low, high = np.percentile(means, _LIKELY)
    return Interval(float(values.mean()), float(low), float(high))


def costs_of(
    rows: Sequence[Question], members: Sequence[str], prices: Mapping[str, Price]
) -> Costs | None:
    """What answers cost: as recorded, else by price and length; None if that is unknown of any member.

    Where only the length of some answers is unknown, they are as long as the others.
    """
    costs = {}
    for name in members:
        known = [row.chars[name] for row in rows if name in row.chars]
        usual = fmean(known) if known else None
        each = [_cost(row, name, prices.get(name), usual) for row in rows]
        if any(cost is None for cost in each):
            return None
        costs[name] = np.array(each, dtype=float)
    return costs if any(cost.any() for cost in costs.values()) else None


def _cost(row: Question, name: str, price: Price | None, usual: float | None) -> float | None:
    if name in row.cost:
        return row.cost[name]
    length = row.chars.get(name, usual)
    if price is None or length is None:
        return None
    return (row.prompt_chars * price[0] + length * price[1]) / CHARS_PER_TOKEN / 1e6
