"""Measures a team on halves of recorded outcomes that its weights were not fitted to.

    python -m looper.evaluate.fitting.splits outcomes.jsonl.gz --ranks 1-5
    python -m looper.evaluate.fitting.splits outcomes.jsonl.gz --members a,b,c --labels 100
    python -m looper.evaluate.fitting.splits outcomes.jsonl.gz --stage a,b --stage c --price a=0.1/0.4 …
    python -m looper.evaluate.fitting.splits --leave-out one.jsonl.gz two.jsonl.gz three.jsonl.gz … --seeds 30

Every seed shuffles the questions, fits to one half and answers the other, by the code that decides requests. The best
member is the one that was right most often on the first half, all of it also where `--labels` lets the fit see fewer.
"""

import datetime
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import eq
from pathlib import Path
from statistics import fmean
from typing import Literal

import click

from looper.evaluate.fitting.calibrate import Costs, calibrate_team, costs_of, part_of
from looper.evaluate.fitting.features import score
from looper.evaluate.fitting.leave_out import report
from looper.evaluate.outcomes import Outcomes, OutcomesError, Question, read_outcomes
from looper.voting import UNKNOWN, Ballot, Electorate, Features, Verdict, Weights, decide, rated
from looper.voting.weights import TeamWeights

Fit = Literal["weights", "ratings", "majority"]

_RANK = 4
"""Digits of ratings that tell all members apart."""

_KNOWN = 2
"""Digits that an operator would give a rating."""


@dataclass(frozen=True, slots=True)
class Split:
    """One seed's figures, as shares: the team's accuracy, its best member's, and its cost by that member's."""

    team: float
    best: float
    cost: float | None = None

    @property
    def beyond(self) -> float:
        """In points."""
        return 100 * (self.team - self.best)


@dataclass(frozen=True, slots=True)
class Experiment:
    """What is measured: whose answers, in what stages, and by which weights."""

    stages: tuple[tuple[str, ...], ...]
    fit: Fit
    labels: int | None
    rated: bool
    prices: Mapping[str, tuple[float, float]]

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(name for stage in self.stages for name in stage)


def halves(rows: Sequence[Question], seed: int) -> tuple[list[Question], list[Question]]:
    shuffled = random.Random(seed).sample(rows, len(rows))
    return shuffled[: len(rows) // 2], shuffled[len(rows) // 2 :]


def measure(data: Outcomes, experiment: Experiment, seed: int) -> Split:
    """Fit to one half, and answer the other."""
    seen, unseen = halves(data.rows, seed)
    members = experiment.members
    ratings = {name: accuracy(seen, name) for name in members}
    best = max(members, key=ratings.__getitem__)
    costs = costs_of(unseen, members, experiment.prices)
    answers = list(_answers(data, seen, unseen, ratings, experiment))
    right = fmean(row.is_right(who) for row, (who, _) in zip(unseen, answers, strict=True))
    cost = None if costs is None else part_of(_spent(answers, costs), costs[best])
    return Split(right, accuracy(unseen, best), cost)


def accuracy(rows: Sequence[Question], model: str) -> float:
    return fmean(row.is_right(model) for row in rows)


def _spent(answers: Sequence[tuple[str, Sequence[str]]], costs: Costs) -> float:
    return sum(float(costs[name][at]) for at, (_, asked) in enumerate(answers) for name in asked)


def _answers(
    data: Outcomes,
    seen: Sequence[Question],
    unseen: Sequence[Question],
    ratings: Mapping[str, float],
    experiment: Experiment,
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Of each question: whose answer is published, and who was asked."""
    if experiment.fit != "weights":
        members = experiment.members
        rough = {name: round(rating, _RANK) for name, rating in ratings.items()}
        level = experiment.fit == "majority"
        voters = rated(dict.fromkeys(rough, 0.5) if level else rough)
        for row in unseen:
            yield _decide(row, members, voters, None).spokesman or members[0], members
        return
    labelled = seen[: experiment.labels]
    costs = costs_of(labelled, experiment.members, experiment.prices)
    known = {name: round(rating, _KNOWN) for name, rating in ratings.items()}
    known = known if experiment.rated else {}
    weights, _ = calibrate_team(
        replace(data, rows=labelled), experiment.stages, known, costs, today=datetime.date.today()
    )
    for row in unseen:
        yield _in_stages(row, experiment.stages, weights)


def _in_stages(
    row: Question, stages: Sequence[Sequence[str]], weights: Weights
) -> tuple[str, tuple[str, ...]]:
    asked: tuple[str, ...] = ()
    verdict: Verdict[str] | None = None
    for stage in stages:
        asked = (*asked, *stage)
        team: TeamWeights = weights.team(asked)
        verdict = _decide(row, asked, team.electorate(row.category), weights)
        if team.accept_at is not None and verdict.confidence >= team.accept_at:
            break
    return (verdict and verdict.spokesman) or asked[0], asked


def _decide(
    row: Question, asked: Sequence[str], voters: Electorate, weights: Weights | None
) -> Verdict[str]:
    ballots = [Ballot(name, row.answer(name), _about(row, name, weights)) for name in asked]
    return decide(ballots, voters, eq)


def _about(row: Question, name: str, weights: Weights | None) -> Features:
    if weights is None:
        return UNKNOWN
    method, length = weights.sureness_from, weights.length(name, row.tokens(name))
    if method is None:
        return Features(length=length)
    return Features(weights.feature(name, method, score(row, name, method)), length)


def by_rank(rows: Sequence[Question], models: Sequence[str], ranks: str) -> tuple[str, ...]:
    """The models with these ranks by accuracy: `1-5`, or `2-` for all but the best."""
    first, _, last = ranks.partition("-")
    ordered = sorted(models, key=lambda name: -accuracy(rows, name))
    return tuple(ordered[int(first) - 1 : int(last) if last else None])


def _price(text: str) -> tuple[str, tuple[float, float]]:
    name, _, price = text.rpartition("=")
    each = price.split("/")
    if not name or len(each) != 2:
        raise click.BadParameter("a price is MODEL=INPUT/OUTPUT, in USD per million tokens")
    return name, (float(each[0]), float(each[1]))


@click.command(help=__doc__)
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--ranks", help="Members by their rank in the first half: 1-5, 2-.")
@click.option("--members", help="Members by name.")
@click.option("--stage", multiple=True, help="A stage's members by name; repeated for a cascade.")
@click.option("--price", multiple=True, help="MODEL=INPUT/OUTPUT in USD per million tokens.")
@click.option("--fit", type=click.Choice(["weights", "ratings", "majority"]), default="weights")
@click.option("--labels", type=int, help="How many questions of the first half the fit may see.")
@click.option("--rated", is_flag=True, help="The fit knows ratings, to two digits.")
@click.option("--seeds", default=10, show_default=True)
@click.option(
    "--leave-out",
    "left_out",
    is_flag=True,
    help="Several files, constants for each chosen on the others.",
)
@click.option(
    "--searched",
    default=4,
    show_default=True,
    help="With --leave-out: seeds that constants are chosen on.",
)
def main(
    data: tuple[Path, ...],
    ranks: str | None,
    members: str | None,
    stage: tuple[str, ...],
    price: tuple[str, ...],
    fit: Fit,
    labels: int | None,
    rated: bool,
    seeds: int,
    left_out: bool,
    searched: int,
) -> None:
    if left_out:
        _leave_out(data, seeds, searched)
        return
    if sum(map(bool, (ranks, members, stage))) != 1:
        raise click.UsageError("give one of --ranks, --members and --stage")
    outcomes = _read(data)
    named = tuple(tuple(each.split(",")) for each in stage or (members or "",))
    splits = []
    for seed in range(seeds):
        if ranks:
            named = (by_rank(halves(outcomes.rows, seed)[0], outcomes.models, ranks),)
        experiment = Experiment(named, fit, labels, rated, dict(map(_price, price)))
        splits.append(measure(outcomes, experiment, seed))
    click.echo(summary(splits))


def _read(paths: Sequence[Path]) -> Outcomes:
    try:
        return read_outcomes(paths)
    except OutcomesError as error:
        raise click.ClickException(str(error)) from None


def _leave_out(paths: Sequence[Path], seeds: int, searched: int) -> None:
    if len(paths) < 3:
        raise click.UsageError("--leave-out chooses on all files but one: give three or more")
    sets = {path.name.partition(".")[0]: _read([path]).rows for path in paths}
    for line in report(sets, seeds, searched):
        click.echo(line)


def summary(splits: Sequence[Split]) -> str:
    beyond = [each.beyond for each in splits]
    costs = [each.cost for each in splits if each.cost is not None]
    text = (
        f"best member {100 * fmean(each.best for each in splits):.2f} %, team"
        f" {fmean(beyond):+.2f} points, worst seed {min(beyond):+.2f}"
    )
    return f"{text}, at {100 * fmean(costs):.0f} % of its cost" if costs else text


if __name__ == "__main__":
    main()
