"""Measures what every team is given, on a set of outcomes that nothing was chosen on.

For each set in turn the constants are chosen on all the others. Then teams of it are measured on halves, beside what is
simpler: the best member, a majority among peers, the word of ratings, a plain conditional logit of everybody. All know
the same.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import fmean
from typing import Literal

import numpy as np

from looper.evaluate.fitting.choice import chosen
from looper.evaluate.fitting.logit import Design, Fit, Flags, Floats, Indices, Ridges, fit
from looper.evaluate.fitting.team import (
    Constants,
    Fitted,
    Seen,
    Sheet,
    Team,
    Way,
    fit_team,
    held_out,
    see,
    sheet,
)
from looper.evaluate.outcomes import Question
from looper.voting.electorate import Assumed, logit

POOLS = ("1-3", "1-5", "2-6", "1-10", "1-")
"""Teams by their members' ranks in the half that is seen."""

LARGE = 200
"""Questions from which on a set has a say in the choice of constants."""

LABELS = 100
_DIGITS = 2
"""Digits that an operator would give a rating."""

_RESAMPLES = 2000
_LIKELY = (2.5, 97.5)

_PEER = 0.65
"""The best errs at least this many times as often as a peer of it."""

_PLAIN_RIDGE = 5.0
_PLAIN_WRONG = 1.5

Knowing = Literal["ratings", "100 labels", "100 labels, ratings", "half"]
"""What is known of a team: ratings alone, a hundred questions, both, or a half of all questions."""

KNOWING: tuple[Knowing, ...] = ("ratings", "100 labels", "100 labels, ratings", "half")

CANDIDATES = tuple(
    Constants(Assumed(common, wrong), Ridges(weight=ridge))
    for common, wrong, ridge in product((0.4, 0.5, 0.6), (4.0, 8.0, 16.0), (10.0, 30.0, 100.0))
)


@dataclass(frozen=True, slots=True)
class Case:
    """A team of one split: what is known of it, and the questions that it is measured on."""

    pool: str
    knowing: Knowing
    seen: Sheet
    unseen: Sheet
    questions: Indices
    """Of `unseen`, in the set."""


def cases(rows: Sequence[Question], seed: int) -> Iterator[Case]:
    """Every team of a split, with everything that may be known of it."""
    shuffled = np.array(random.Random(seed).sample(range(len(rows)), len(rows)), dtype=np.intp)
    seen, unseen = np.split(shuffled, [len(rows) // 2])
    names = sorted({name for row in rows for name in row.answers})
    named = {row.category for row in rows} - {""}
    categories = tuple(sorted(named)) if len(named) > 1 else ()
    whole = sheet(rows, Team(tuple(names), {}, categories))
    rates = whole.answers.speaks_right[seen].mean(axis=0)
    ranked = np.argsort(-rates, kind="stable")
    for pool in POOLS:
        members = ranked[_ranks(pool)]
        team = _of_members(whole, members)
        known = {
            name: round(rate, _DIGITS)
            for name, rate in zip(team.team.members, rates[members].tolist(), strict=True)
        }
        for knowing in KNOWING:
            labels = seen[:LABELS] if "labels" in knowing else seen
            ratings = known if knowing == "100 labels, ratings" else {}
            shown = replace(team, team=replace(team.team, ratings=ratings))
            yield Case(pool, knowing, shown.at(labels), shown.at(unseen), unseen)


def _ranks(pool: str) -> slice:
    first, _, last = pool.partition("-")
    return slice(int(first) - 1, int(last) if last else None)


def _of_members(whole: Sheet, members: Indices) -> Sheet:
    team = replace(whole.team, members=tuple(whole.team.members[at] for at in members))
    return sheet(whole.rows, team)


# What there is to choose from...


def ours(case: Case, seen: Seen, constants: Constants) -> Flags:
    """What is decided rightly by what a team is given: with labels, in the way that its own folds choose."""
    way = (
        "ratings" if case.knowing == "ratings" else chosen(held_out(case.seen, constants=constants))
    )
    return fit_team(seen, way, constants).decides(seen.of(case.unseen))[1]


def rivals(case: Case, seen: Seen, constants: Constants) -> dict[str, Flags]:
    """What is simpler, on the same questions."""
    data = seen.of(case.unseen)
    votes = _without_features(data)
    best = max(range(len(seen.ratings)), key=list(seen.ratings.values()).__getitem__)
    found = {
        "best member": data.speaks_right[:, best],
        "majority": _majority(seen).decides(votes)[1],
        "ratings": fit_team(seen, "ratings", constants).decides(data)[1],
    }
    if case.knowing != "ratings":
        found["logit"] = _plain_logit(seen).decides(votes)[1]
    return found


def _majority(seen: Seen) -> Fitted:
    """One vote for each of those who do not err far more often than the best."""
    wrong = 1 - np.array(list(seen.ratings.values()))
    return Fitted(seen, wrong.min() >= _PEER * wrong - 1e-12, _by_weight(np.ones(wrong.size), 0.0))


def _plain_logit(seen: Seen) -> Fitted:
    """Everybody's weight, from their log-odds on, and nothing else."""
    odds = np.array([logit(rating) for rating in seen.ratings.values()]) + np.log(_PLAIN_WRONG)
    start = _by_weight(np.maximum(odds, 0.01), float(np.log(_PLAIN_WRONG)))
    nobody = np.zeros(odds.size, dtype=bool)
    ridges = Ridges(weight=_PLAIN_RIDGE)
    return Fitted(seen, ~nobody, fit(_without_features(seen.data), start, nobody, ridges))


def _without_features(data: Design) -> Design:
    """Questions of which nothing but the answers is known."""
    nothing = np.zeros(data.answers.shape)
    return replace(data, category=np.zeros_like(data.category), sure=nothing, long=nothing)


def _by_weight(weight: Floats, none_of_these: float) -> Fit:
    return Fit.by_weight(weight, 0, none_of_these)


# ... and what is chosen.

Gains = Mapping[tuple[str, str, Knowing], Sequence[float]]
"""By set, team and what is known of it: what each of the candidates gains on the best member, in points."""


def search(sets: Mapping[str, Sequence[Question]], seeds: int) -> Gains:
    found: dict[tuple[str, str, Knowing], list[Floats]] = {}
    for name, rows in sets.items():
        for seed in range(seeds):
            for case in cases(rows, seed):
                found.setdefault((name, case.pool, case.knowing), []).append(_gained(case))
    return {key: np.mean(gains, axis=0).tolist() for key, gains in found.items()}


def _gained(case: Case) -> Floats:
    """What each candidate gains, by ratings or as it is fitted: what its own folds choose is not searched for."""
    seen = see(case.seen)
    data = seen.of(case.unseen)
    best = rivals(case, seen, CANDIDATES[0])["best member"].mean()
    way: Way = "ratings" if case.knowing == "ratings" else "fit"
    rights = [fit_team(seen, way, each).decides(data)[1].mean() for each in CANDIDATES]
    gained: Floats = 100 * (np.array(rights) - best)
    return gained


def choose(gains: Gains, names: Iterable[str]) -> Constants:
    """The candidate that gains most in the mean, over all teams of these sets; what it loses counts twice."""
    wanted = set(names)
    rows = np.array([gains[key] for key in gains if key[0] in wanted])
    return CANDIDATES[int((rows + np.minimum(rows, 0)).mean(axis=0).argmax())]


# --- What is measured -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """A team: the best member's accuracy, what the team gains on it, and by how much it is behind the best rival."""

    set: str
    pool: str
    knowing: Knowing
    best: float
    gained: float
    rival: str
    beside: float
    low: float
    high: float

    def __str__(self) -> str:
        interval = f"[{self.low:+.1f}, {self.high:+.1f}]"
        return (
            f"{self.set:<12} {self.pool:<5} {self.knowing:<20} {self.best:5.1f} {self.gained:+6.2f}"
            f"   {self.rival:<12} {self.beside:+6.2f} {interval}"
        )


def lines(name: str, rows: Sequence[Question], constants: Constants, seeds: int) -> Iterator[Line]:
    """Every team of a set, measured on as many halves."""
    found: dict[tuple[str, Knowing], dict[str, Floats]] = {}
    counts: dict[tuple[str, Knowing], Floats] = {}
    for seed in range(seeds):
        for case in cases(rows, seed):
            key = case.pool, case.knowing
            seen = see(case.seen)
            rights = {"ours": ours(case, seen, constants), **rivals(case, seen, constants)}
            counted = counts.setdefault(key, np.zeros(len(rows)))
            counted[case.questions] += 1
            sums = found.setdefault(key, {each: np.zeros(len(rows)) for each in rights})
            for each, right in rights.items():
                sums[each][case.questions] += right
    for (pool, knowing), sums in found.items():
        yield _line(name, pool, knowing, sums, counts[pool, knowing])


def _line(
    name: str, pool: str, knowing: Knowing, sums: Mapping[str, Floats], counted: Floats
) -> Line:
    total = counted.sum()
    means = {each: 100 * float(rights.sum() / total) for each, rights in sums.items()}
    rival = max((each for each in sums if each != "ours"), key=means.__getitem__)
    low, high = _interval(sums["ours"] - sums[rival], counted)
    best = means["best member"]
    beside = means["ours"] - means[rival]
    return Line(name, pool, knowing, best, means["ours"] - best, rival, beside, low, high)


def _interval(difference: Floats, counted: Floats) -> tuple[float, float]:
    """Where 95 of 100 resamples of the questions have a mean difference, in points."""
    chance = np.random.default_rng(0)
    size = len(difference)
    drawn = chance.integers(0, size, (_RESAMPLES, size))
    means = 100 * difference[drawn].sum(axis=1) / counted[drawn].sum(axis=1)
    low, high = np.percentile(means, _LIKELY)
    return float(low), float(high)


def report(sets: Mapping[str, Sequence[Question]], seeds: int, searched: int) -> Iterator[str]:
    """What is chosen for each set on the others, and how its teams fare; then what is chosen on all."""
    large = [name for name, rows in sets.items() if len(rows) >= LARGE]
    gains = search({name: sets[name] for name in large}, searched)
    found: list[Line] = []
    yield "set          team  knowing               best gained   best rival   beside"
    for name, rows in sets.items():
        constants = choose(gains, [each for each in large if each != name])
        yield f"{name}: {len(rows)} questions, by {_words(constants)}"
        for line in lines(name, rows, constants, seeds):
            found.append(line)
            yield str(line)
    for knowing in KNOWING:
        held = [each for each in found if each.knowing == knowing and each.set in large]
        yield _summary(knowing, held)
    yield f"on all: {_words(choose(gains, large))}"


def _summary(knowing: Knowing, held: Sequence[Line]) -> str:
    worst = min(held, key=lambda each: each.beside)
    return (
        f"{knowing}: {fmean(each.gained for each in held):+.2f} points in the mean; beside the best rival"
        f" {fmean(each.beside for each in held):+.2f}, at worst {worst.beside:+.2f} ({worst.set} {worst.pool})"
    )


def _words(constants: Constants) -> str:
    assumed, ridges = constants.assumed, constants.ridges
    return f"common {assumed.common:g}, wrong {assumed.wrong:g}, ridge {ridges.weight:g}"
