"""Which of several answers to publish: by vote, by likeness, or by a judge who is told nothing of their models."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from looper.calling.calls import Result
from looper.calling.drafts import PRIVATE_OUTPUT
from looper.calling.models import Model
from looper.patterns.closing.evidence import said
from looper.patterns.closing.judge import judge
from looper.run import Run
from looper.settings import Setting, Tokens
from looper.voting.votes import Vote
from looper.wire.chat import ChatRequest
from looper.wire.events import Lack


@dataclass(frozen=True, slots=True)
class Ranking:
    """Answers, the one to publish first, how probably that one is right, where it is known, and what they lack."""

    results: Sequence[Result]
    confidence: float | None = None
    lack: Lack | None = None


def voted(vote: Vote, run: Run) -> Ranking:
    """By what the answers say. Free texts, which say nothing comparable, by how like the others they are."""
    ranked, leading = vote.ranked(), next(vote.groups(), [])
    values = {id(each): value for each, value in zip(vote.results, vote.values, strict=True)}
    chances = {id(each): vote.probability(values[id(each)]) for each in ranked}
    for each in ranked:
        agrees = any(each is other for other in leading)
        silent = values[id(each)] is None
        place = "silent" if silent else "agrees" if agrees else "other"
        run.trace.score(each, chances[id(each)], "winner" if each is ranked[0] else place)
    return Ranking(ranked, chances[id(ranked[0])] and vote.verdict.confidence)


class Judging(Setting):
    """What a judge's scores come to: settings of every pattern in which one scores answers."""

    rating_weight: float = Field(
        default=1.0, ge=0, le=100, description="points that a rating of 1 adds to a judge's scores"
    )
    judge_max_output: Tokens = Field(
        default=PRIVATE_OUTPUT, ge=64, description="tokens that a judge may answer with"
    )
    recheck_within: float = Field(
        default=1.0,
        ge=0,
        le=10,
        description="the two best closer than this are judged again in the other order",
    )


@dataclass(frozen=True, slots=True)
class Bench:
    """Who judges, by what, until when, and what the scores come to."""

    model: Model
    rubric: str | None
    judging: Judging
    until: float


async def judged(vote: Vote, bench: Bench, request: ChatRequest, run: Run) -> Ranking | None:
    """By a judge's scores, to which each model's rating is added. None if the judge gives none that can be used.

    Each distinct answer is judged once, by the best member's words.
    """
    distinct: dict[str, Result] = {}
    speakers = (group[0] for group in vote.voices())
    for each in sorted(speakers, key=lambda each: vote.electorate.rank(each.model.name)):
        distinct.setdefault(said(each), each)
    if len(distinct) < 2:
        return voted(vote, run)
    shown = run.random.sample(list(distinct.values()), len(distinct))
    scores = await judge(
        request,
        run,
        bench.model,
        shown,
        bench.rubric,
        until=bench.until,
        output=bench.judging.judge_max_output,
    )
    if scores is None:
        return None
    points = Points.of(vote, shown, scores, bench.judging)
    return await confirmed(points, bench, request, run)


@dataclass(frozen=True, slots=True)
class Points:
    """What a judge gave so far to the answers that it was shown, one of each kind, in that order."""

    vote: Vote
    shown: Sequence[Result]
    judging: Judging
    given: dict[int, float]

    @classmethod
    def of(
        cls, vote: Vote, shown: Sequence[Result], scores: Sequence[float], judging: Judging
    ) -> "Points":
        return cls(vote, shown, judging, dict(zip(map(id, shown), scores, strict=True)))

    def close(self) -> Sequence[Result]:
        """The two best, if they are so close that the order in which they stood may have decided; else nobody."""
        best = self._sorted()[:2]
        if len(best) < 2 or self._total(best[0]) - self._total(best[1]) >= self._within:
            return ()
        return best

    def hear(self, results: Sequence[Result], scores: Sequence[float]) -> None:
        """The mean of this and of what was given before."""
        for each, score in zip(results, scores, strict=False):
            self.given[id(each)] = (self.given[id(each)] + score) / 2

    def ranking(self, run: Run) -> Ranking:
        """By these points; behind them those of whom nothing was shown."""
        best = self._sorted()
        for each in best:
            place = "winner" if each is best[0] else "other"
            run.trace.score(each, self.given[id(each)] / 10, place)
        rest = [each for each in self.vote.ranked() if id(each) not in self.given]
        return Ranking([*best, *rest])

    @property
    def _within(self) -> float:
        return self.judging.recheck_within

    def _total(self, each: Result) -> float:
        rating = self.vote.electorate.rating(each.model.name)
        return self.given[id(each)] + self.judging.rating_weight * rating

    def _sorted(self) -> list[Result]:
        judged = [each for each in self.vote.ranked() if id(each) in self.given]
        return sorted(judged, key=lambda each: (each.is_cut, -self._total(each)))


async def confirmed(points: Points, bench: Bench, request: ChatRequest, run: Run) -> Ranking:
    """By a judge's points. The two best are judged again in the other order if they are close, as judges prefer what
    they read first, or last.
    """
    if top := points.close():
        # Whichever of the two stood first stands second now.
        pair = [each for each in reversed(points.shown) if any(each is one for one in top)]
        again = await judge(
            request,
            run,
            bench.model,
            pair,
            bench.rubric,
            until=bench.until,
            output=bench.judging.judge_max_output,
            extra=True,
        )
        points.hear(pair, again or [])
    return points.ranking(run)
