"""`looper calibrate`: which team of a configuration is fitted to the data, and what the operator reads about it."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path

from extproc.config import Config
from extproc.decisions.recipe import Decision
from looper.aggregate import Weights
from looper.confidence import ConfidenceConfig
from looper.fitting.calibrate import Interval, Report, TooFew, calibrate_team, costs_of
from looper.fusion import FusionConfig
from looper.models import Model
from looper.outcomes import Outcomes, read_outcomes
from looper.ratings import RatingsConfig
from looper.remom import RemomConfig

Stages = tuple[tuple[str, ...], ...]


class CannotCalibrate(ValueError):
    """Why nothing was fitted, for the operator."""


def calibrate(
    config: Config, data: Sequence[Path], decision: str | None, today: date
) -> tuple[str, Weights, Report]:
    """Fit the team of one decision. Raises CannotCalibrate, or an OutcomesError about the data."""
    name, stages = _chosen(dict(_teams(config)), decision)
    models = {model.name: model for model in config.models}
    members = [each for stage in stages for each in stage]
    outcomes = _by_name(read_outcomes(data), [models[each] for each in members])
    silent = [each for each in members if not any(row.answer(each) for row in outcomes.rows)]
    if silent:
        raise CannotCalibrate(f"the data has no answer of {', '.join(silent)}")
    prices = {
        each: (float(price.input), float(price.output))
        for each in members
        if (price := models[each].price) is not None
    }
    ratings = {each: known for each in members if (known := models[each].known_rating) is not None}
    costs = costs_of(outcomes.rows, members, prices)
    try:
        weights, report = calibrate_team(
            outcomes, stages, ratings, costs, decision=name, today=today
        )
    except TooFew as error:
        raise CannotCalibrate(str(error)) from None
    return name, weights, report


def _teams(config: Config) -> Iterator[tuple[str, Stages]]:
    """The decisions in which answers are weighed, by name, and by RECIPE.NAME as well."""
    for recipe, settings in config.recipes.items():
        for decision in settings.decisions:
            if stages := stages_of(decision):
                yield f"{recipe}.{decision.name}", stages


def stages_of(decision: Decision) -> Stages:
    """Whose answers a decision weighs, stage by stage; nobody's, if it weighs none."""
    match decision.algorithm:
        case ConfidenceConfig() as algorithm:
            stages = [tuple(stage.models) for stage in algorithm.stages]
        case RatingsConfig() as algorithm:
            stages = [algorithm.models, algorithm.escalate_to]
        case FusionConfig() as algorithm:
            stages = [tuple(each.model for each in algorithm.analysis_models)]
        case RemomConfig() as algorithm:
            stages = [tuple(each.model for each in algorithm.models)]
        case _:
            stages = []
    return tuple(tuple(dict.fromkeys(stage)) for stage in stages if stage)


def _chosen(teams: Mapping[str, Stages], decision: str | None) -> tuple[str, Stages]:
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


def said(report: Report) -> Iterator[str]:
    """A report, line by line."""
    yield f"{report.rows} questions"
    for name, rating in sorted(report.ratings.items(), key=lambda each: -each[1]):
        role = "votes" if name in report.voting else "fills silence"
        yield f"  {name}: right in {100 * rating:.1f} %, {role}"
    if report.dominant:
        yield f"{report.best} dominates: nobody votes beside it"
    check = report.check
    yield (
        f"the team, on questions held out: {100 * check.accuracy.mean:.1f} %,"
        f" {_points(check.beyond_best)} points beside the best member"
    )
    if (cascade := report.cascade) is not None:
        at = ", ".join(f"{each:.3f}" for each in cascade.accept_at)
        yield (
            f"stopping at {at}: {_points(cascade.beyond_best)} points beside the best member,"
            f" at {100 * cascade.cost_of_best:.0f} % of its cost"
        )
    yield f"advice: {report.advice}"


def _points(each: Interval) -> str:
    return f"{100 * each.mean:+.1f} [{100 * each.low:+.1f}, {100 * each.high:+.1f}]"
