"""`looper calibrate`: which team of a configuration is fitted to the data, and what the operator reads about it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from extproc.config import Config
from extproc.decisions.engine import told_by
from extproc.decisions.projections import PartitionConfig, ProjectionConfig
from extproc.decisions.recipe import Decision, Recipe
from looper.calling.models import Model
from looper.evaluate.fitting.calibrate import (
    CascadeCheck,
    Interval,
    Report,
    TooFew,
    calibrate_team,
    costs_of,
)
from looper.evaluate.fitting.cascade import NEVER
from looper.evaluate.fitting.gates import as_wrong_as, shares
from looper.evaluate.fitting.team import Way
from looper.evaluate.outcomes import Outcomes, read_outcomes
from looper.patterns.closing.weighing import SURE, Weighing
from looper.patterns.confidence import ConfidenceConfig
from looper.patterns.fusion import FusionConfig
from looper.patterns.ratings import RatingsConfig
from looper.patterns.remom import RemomConfig
from looper.voting import Weights

Stages = tuple[tuple[str, ...], ...]

_SHOWN = 8

_ERRORS = (0.05, 0.1, 0.2)


@dataclass(frozen=True, slots=True)
class Team:
    """Whose answers a decision weighs, stage by stage as they are asked, and which categories it knows requests by."""

    stages: Stages
    categories: frozenset[str]
    method: str | None
    """By which a chain is sure of an answer; None for what is no chain."""
    told_by: str | None = None
    """Under which key a run's record has its category."""

    @property
    def members(self) -> list[str]:
        return [name for stage in self.stages for name in stage]


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A decision's weights, and what was found. `ignored` are categories of the data that it does not know, `partial`
    is how many of its runs ended before everybody had answered.
    """

    decision: str
    team: Team
    weights: Weights
    report: Report
    ignored: tuple[str, ...]
    partial: int


class CannotCalibrate(ValueError):
    """Why nothing was fitted, for the operator."""


def calibrate(
    config: Config, data: Sequence[Path], decision: str | None, today: date
) -> Calibrated:
    """Fit the team of one decision. Raises CannotCalibrate, or an OutcomesError about the data."""
    name, team = _chosen(dict(_teams(config)), decision)
    models = {model.name: model for model in config.models}
    members = [models[each] for each in team.members]
    recorded = _by_name(read_outcomes(data, team.told_by), members)
    if silent := [each for each in team.members if not any(r.answer(each) for r in recorded.rows)]:
        raise CannotCalibrate(f"the data has no answer of {', '.join(silent)}")
    outcomes = recorded.of_all(team.members).within(team.categories)
    partial = len(recorded.rows) - len(outcomes.rows)
    prices = {
        each.name: (float(price.input), float(price.output))
        for each in members
        if (price := each.price) is not None
    }
    ratings = {each.name: known for each in members if (known := each.known_rating) is not None}
    costs = costs_of(outcomes.rows, team.members, prices)
    try:
        weights, report = calibrate_team(
            outcomes, team.stages, ratings, costs, decision=name, today=today
        )
    except TooFew as error:
        more = f"; {_left_out(partial)}" if partial else ""
        raise CannotCalibrate(f"{error}{more}") from None
    ignored = recorded.categories_beside(team.categories)
    return Calibrated(name, team, weights, report, ignored, partial)


def _teams(config: Config) -> Iterator[tuple[str, Team]]:
    """The decisions in which answers are weighed, by RECIPE.NAME."""
    models = {model.name: model for model in config.models}
    for recipe, settings in config.recipes.items():
        for decision in settings.decisions:
            if stages := stages_of(decision, models):
                yield f"{recipe}.{decision.name}", _team(decision, settings, stages)


def _team(decision: Decision, recipe: Recipe, stages: Stages) -> Team:
    algorithm = decision.algorithm
    method = algorithm.confidence_method if isinstance(algorithm, ConfidenceConfig) else None
    name = algorithm.category if isinstance(algorithm, Weighing) else None
    if name is None:
        return Team(stages, frozenset(), method)
    projection = recipe.projections[name]
    return Team(stages, frozenset(_bands(projection)), method, told_by(name, projection))


def stages_of(decision: Decision, models: Mapping[str, Model]) -> Stages:
    """Whose answers a decision weighs, stage by stage as they are asked; nobody's, if it weighs none."""
    match decision.algorithm:
        case ConfidenceConfig() as algorithm:
            stages = [tuple(stage.models) for stage in algorithm.in_order(models)]
        case RatingsConfig() as algorithm:
            stages = [algorithm.models, algorithm.escalate_to]
        case FusionConfig() as algorithm:
            stages = [tuple(each.model for each in algorithm.analysis_models)]
        case RemomConfig() as algorithm:
            stages = [tuple(each.model for each in algorithm.models)]
        case _:
            stages = []
    return tuple(tuple(dict.fromkeys(stage)) for stage in stages if stage)


def _bands(projection: ProjectionConfig) -> tuple[str, ...]:
    match projection:
        case PartitionConfig():
            return projection.labels
        case _:
            return tuple(name for name, _ in projection.bounds)


def _chosen(teams: Mapping[str, Team], decision: str | None) -> tuple[str, Team]:
    named = [
        name for name in teams if decision is None or decision in (name, name.partition(".")[2])
    ]
    if len(named) == 1:
        return named[0], teams[named[0]]
    which = ", ".join(named or teams) or "none"
    if not named:
        raise CannotCalibrate(f"no such decision in which answers are weighed; there are: {which}")
    raise CannotCalibrate(f"say which decision with --decision: {which}")


def _by_name(outcomes: Outcomes, models: Sequence[Model]) -> Outcomes:
    """The data with our names for models that it knows by their upstreams' names."""
    known = set(outcomes.models)
    ours = {
        model.upstream: model.name
        for model in models
        if model.name not in known and model.upstream in known
    }
    return outcomes if not ours else outcomes.renamed(ours)


def said(found: Calibrated) -> Iterator[str]:
    """What was found, line by line."""
    report = found.report
    yield from _questions(found)
    for name, rating in sorted(report.ratings.items(), key=lambda each: -each[1]):
        role = "votes" if name in report.voting else "fills silence"
        yield f"  {name}: right in {100 * rating:.1f} %, {role}"
    if report.dominant is not None:
        yield f"{report.dominant} outweighs the others together, which mostly fill its silence"
    check = report.check
    yield _weighed_by(report)
    yield (
        f"the team, on questions it was neither fitted to nor chosen on: {_share(check.accuracy)} %,"
        f" {_points(check.beyond_best)} points beside the best member{_at(report.cost_of_best)}"
    )
    if report.cascade is not None:
        yield _stopping(report.cascade, found.team)
    elif len(found.team.stages) > 1:
        yield f"what answers cost is not known: no thresholds are chosen, and {SURE:g} holds"
    if found.team.method is not None:
        yield from _early(found)
    yield f"advice: {report.advice}"
    if report.dominant is not None and report.advice == "vote":
        yield (
            f"  what it gains are questions to which {report.dominant} says nothing: a chain"
            f" (`confidence`) that begins with it asks the others only then"
        )


_WAYS: dict[Way, str] = {
    "one member": "the best member, others where it is silent",
    "ratings": "how often each was right",
    "fit": "a fit of those who vote",
    "fit of everybody": "a fit of everybody",
}


def _weighed_by(report: Report) -> str:
    """In which way, of four, on the same questions held out."""
    tried = ", ".join(f"{100 * right:.1f} % by {_WAYS[way]}" for way, right in report.ways.items())
    return f"weighed by {_WAYS[report.way]}: {tried}"


def _stopping(cascade: CascadeCheck, team: Team) -> str:
    """What the thresholds for everybody's vote come to."""
    at = ", ".join(_accepting(each) for each in cascade.accept_at)
    by = "" if team.method in (None, "auto") else "with `confidence_method: auto`, "
    beyond, cost = _points(cascade.beyond_best), _at(cascade.cost_of_best)
    return f"{by}stopping at {at}: {beyond} points beside the best member{cost}"


def _questions(found: Calibrated) -> Iterator[str]:
    """What of the data counts."""
    yield f"{found.report.rows} questions"
    if found.partial:
        yield _left_out(found.partial)
    if found.ignored:
        yield _without(found.ignored)


def _early(found: Calibrated) -> Iterator[str]:
    """How much of what is asked ends before the last stage, for some shares that may be wrong of it."""
    alike = as_wrong_as(found.report.check.accuracy.mean)
    for method, stages in found.weights.held_out.items():
        by = "everybody's vote" if method == "posterior" else f"`{method}`"
        yield f"what ends early by {by}, with `max_accepted_error`:"
        for most in sorted({*_ERRORS, alike}):
            note = ", as often as the whole team is wrong" if most == alike else ""
            yield f"  {most:g}{note}: {_ending(found.team, shares(stages, most))}"
    if found.report.advice == "cascade":
        yield f"proposed: `max_accepted_error: {alike:g}`, or less"


def _ending(team: Team, ends: Sequence[tuple[float, float]]) -> str:
    return (
        "; ".join(
            f"{100 * share:.0f} % at {'+'.join(stage)}, from {threshold:.3f} on"
            for stage, (threshold, share) in zip(team.stages, ends, strict=False)
            if share
        )
        or "nothing"
    )


def _left_out(runs: int) -> str:
    """Why some records count for nothing."""
    why = "nobody knows what the others would have said"
    return f"{runs} left out, as the run ended before everybody had answered: {why}"


def _without(categories: Sequence[str]) -> str:
    """Which categories count for nothing, and why."""
    shown = ", ".join(categories[:_SHOWN])
    more = f" and {len(categories) - _SHOWN} more" if len(categories) > _SHOWN else ""
    return (
        f"categories that make no difference, as no band of the decision's `category` is called so:"
        f" {shown}{more}"
    )


def _at(cost_of_best: float | None) -> str:
    return "" if cost_of_best is None else f", at {100 * cost_of_best:.0f} % of its cost"


def _accepting(least: float) -> str:
    return "never" if least >= NEVER else f"{least:.3f}"


def _share(each: Interval) -> str:
    return f"{100 * each.mean:.1f} [{100 * each.low:.1f}, {100 * each.high:.1f}]"


def _points(each: Interval) -> str:
    return f"{100 * each.mean:+.1f} [{100 * each.low:+.1f}, {100 * each.high:+.1f}]"
