"""Ratings: all candidates answer at once, and one answer comes of it, as soon as the others cannot change it."""

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from looper.calling.calls import Result
from looper.calling.cost import PlannedCall
from looper.calling.drafts import MORE_ROOM, Draft, answering
from looper.calling.failures import why_no_answer
from looper.calling.fanout import Patience, Results, Round, Stop, never
from looper.calling.models import Model
from looper.contract import Contract, Violation
from looper.errors import ContractViolated, InvalidField
from looper.patterns.closing.choosing import Bench, Judging, Ranking, judged, voted
from looper.patterns.closing.conclude import Ending, events_of, keeping, present, text_of
from looper.patterns.closing.outcome import lack_of, outcome_of
from looper.patterns.closing.publish import as_asked
from looper.patterns.closing.weighing import Weighing, far_ahead, is_idle
from looper.run import Run
from looper.settings import Posterior, Probability, posterior_or
from looper.voting import Electorate, Outstanding, decide, settled
from looper.voting.votes import TEXT, Ballots, Vote
from looper.wire.chat import ChatRequest
from looper.wire.events import Delta, Done, Event, Finish, Grounds, Progress, Speaker

Aggregate = Literal["vote", "judge", "similarity", "all"]
When = Annotated[Literal["settled", "all"] | Posterior, posterior_or("settled", "all")]

_FIRST_SHARE = 0.6
_JUDGE_SHARE = 0.9
_LAST_SHARE = 0.95
"""Parts of the time that is left which a round may use: stages may follow the first, publishing follows the last."""


class RatingsConfig(Round, Weighing, Judging):
    """`algorithm: {type: ratings, models: [small, other, large]}`"""

    type: Literal["ratings"]
    models: tuple[str, ...] = Field(min_length=1, max_length=16)
    samples: int = Field(default=1, ge=1, le=16, description="how often each model is asked")
    aggregate: Aggregate | None = Field(
        default=None,
        description="default: vote where answers can be compared, else similarity",
    )
    stop: When = Field(
        default="settled",
        description="when a vote is over: settled, posterior>=0.9 (any number), or all",
    )
    escalate_below: Probability | None = Field(
        default=None,
        description="a vote less sure than this asks `escalate_to` too; default: what `weights` say, else 0.7",
    )
    escalate_to: tuple[str, ...] = Field(default=(), max_length=8)
    judge_model: str | None = None
    rubric: str | None = Field(
        default=None, min_length=1, max_length=8000, description="what the judge is to look at"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        everybody = (*self.models, *self.escalate_to)
        if len(set(everybody)) < len(everybody):
            raise ValueError("a model is named twice: `samples` asks each model more than once")
        if (self.aggregate == "judge") != (self.judge_model is not None):
            raise ValueError("`judge_model` and `aggregate: judge` go together")
        unheeded = sorted(self.model_fields_set & {"rubric", *Judging.model_fields})
        if unheeded and self.judge_model is None:
            raise ValueError(f"`{unheeded[0]}` goes with `aggregate: judge`")
        if self.escalate_below is not None and not self.escalate_to:
            raise ValueError("`escalate_below` needs `escalate_to`")
        most = len(self.models) * self.samples + len(self.escalate_to)
        if self.min_successful_responses > most:
            raise ValueError(f"`min_successful_responses` is more than all {most} candidates")
        if self.escalate_to and self.aggregate not in (None, "vote"):
            raise ValueError("`escalate_to` goes with a vote")
        return self

    def enough(self) -> float | None:
        """The confidence from which on nobody else is asked, where anybody might be."""
        return self.sure_from(self.models) if self.escalate_to else None

    def sure_from(self, asked: Iterable[str]) -> float:
        """The confidence from which on a vote of these is not escalated."""
        return super().sure_from(asked) if self.escalate_below is None else self.escalate_below

    def members(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        for key, names in (("models", self.models), ("escalate_to", self.escalate_to)):
            for index, name in enumerate(names):
                yield (key, index), name
        if self.judge_model is not None:
            yield ("judge_model",), self.judge_model
        yield from self.substitute_members()

    def planned(self) -> tuple[PlannedCall, ...]:
        """The members; whom they escalate to; and the judge, who may be asked for close calls again."""
        asked = [
            PlannedCall((name,), "member") for name in self.models for _ in range(self.samples)
        ]
        more = [PlannedCall((name,), "member", need="perhaps") for name in self.escalate_to]
        calls = (*self.in_round(asked), *self.in_round(more))
        if self.judge_model is None:
            return calls
        first = PlannedCall((self.judge_model,), "judge", len(asked), self.judge_max_output)
        spare = replace(first, need="spare", output=self.judge_max_output * MORE_ROOM)
        again = replace(spare, reads=2)
        return (*calls, first, spare, again, again)

    def warnings(self, models: Mapping[str, Model]) -> Iterator[str]:
        """What is no error, but hardly meant."""
        yield from self.idle(len(self.models) * self.samples)
        if self.aggregate == "all":
            for key in sorted(self.model_fields_set & {"weights", "category", "stop"}):
                yield f"{key}: does nothing: with `aggregate: all` every answer is published"
        if self.judge_model in self.models:
            yield f"judge_model: {self.judge_model} is one of the candidates, and may prefer its own answer"

    def doubts_beside(
        self, contract: Contract[Any] | None, models: Mapping[str, Model]
    ) -> Iterator[str]:
        """What is hardly meant beside the contract of the decision."""
        comparable = contract is not None and contract.comparable
        votes = comparable and self.aggregate in (None, "vote")
        if not votes:
            yield from self._without_a_vote()
        if self.category is None and self.aggregate not in ("judge", "all"):
            electorate = self.electorate(self.models, models)
            unmeasured = self.weights is None and far_ahead(electorate)
            for name in () if unmeasured else self.models:
                if name in electorate.voters and not electorate[name].votes:
                    yield f"models: {name} only counts if all who are rated better are silent"
                elif votes and self.samples == 1 and is_idle(name, self.models, electorate):
                    yield f"models: {name} can never change the answer while the others speak"

    def _without_a_vote(self) -> Iterator[str]:
        if self.aggregate == "vote":
            yield "aggregate: without a `contract` whose values compare texts go by likeness"
        if self.escalate_to:
            yield "escalate_to: without a `contract` whose values compare it is asked over calls of tools only"
        if self.stop not in ("settled", "all"):
            yield "stop: without a vote everybody is waited for"

    def build(self) -> "Ratings":
        return Ratings(self)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer, and what its model was asked for it."""

    draft: Draft
    result: Result


class Ratings:
    """Runs Ratings. Holds settings only; everything of one execution is in its `Run`."""

    def __init__(self, config: RatingsConfig) -> None:
        self._config = config

    async def run(self, request: ChatRequest, run: Run) -> AsyncGenerator[Event]:
        """The best of the candidates' answers, as it came. Raises a LooperError if nobody answers."""
        config = self._config
        self._check_choices(request)

        # The candidates answer, all at once, until the rest cannot change the winner...
        yield Progress("members")
        candidates = await self._ask(config.models, (), request, run)

        # ... stronger models join them if they are not sure enough...
        vote = self._vote(candidates, run)
        if self._unsure(vote, run):
            yield Progress("escalation")
            candidates += await self._ask(config.escalate_to, candidates, request, run)
            vote = self._vote(candidates, run)
        run.trace.voted(vote.told())
        self._check_quorum(vote)

        # ... and one answer, or in a comparison every one, is published.
        if config.aggregate == "all":
            answer = self._every(candidates, vote, request, run)
        else:
            ranking = await self._rank(vote, request, run)
            answer = self._publish(ranking, vote, candidates, run)
        async with aclosing(as_asked(answer, request)) as events:
            async for event in events:
                yield event

    # Asking...

    async def _ask(
        self, names: Sequence[str], before: Sequence[Candidate], request: ChatRequest, run: Run
    ) -> list[Candidate]:
        """The answers of these models, beside those that are there already."""
        config = self._config
        run.trace.stage("escalation" if before else "members")
        drafts = [
            answering(
                request,
                run.models[name],
                "member",
                tools=True,
                logprobs=True,
                alternatives=config.alternatives,
                sample=sample,
                terms=run.terms,
            )
            for name in names
            for sample in range(1 if before else config.samples)
        ]
        last = bool(before) or not (config.escalate_to or config.judge_model)
        stop = self._stop(drafts, before, run)
        until, patience = self._until(run, last), self._patience(run, last=last)
        results = await run.fan_out(drafts, config, until=until, stop=stop, patience=patience)
        return [
            Candidate(draft.to(result.model), result)
            for draft, result in zip(drafts, results, strict=True)
        ]

    def _until(self, run: Run, last: bool) -> float:
        until = run.deadline.share(_LAST_SHARE if last else _FIRST_SHARE)
        if self._config.round_timeout is None:
            return until
        return min(until, run.deadline.now() + self._config.round_timeout.total_seconds())

    def _patience(self, run: Run, *, last: bool) -> Patience | None:
        """The time of those who come behind the members, and have nothing to do as long as nobody has answered."""
        if last or self._config.round_timeout is not None:
            return None
        return Patience(run.deadline.share(_LAST_SHARE))

    def _stop(self, drafts: Sequence[Draft], before: Sequence[Candidate], run: Run) -> Stop:
        """When enough has been said, by the weights that the vote on all of it will have."""
        when, least = self._config.stop, self._config.min_successful_responses
        if when == "all" or not self._votes(run) or not _is_comparable(run):
            return never
        sure = None if when == "settled" else float(when.partition(">=")[2])
        heard = [each.result for each in before]
        # A vote that would be escalated waits for those whose word might make that needless.
        escalates = bool(self._config.escalate_to) and not before
        enough = self._config.sure_from(self._config.models) if escalates else 0.0

        @cache
        def count(asked: tuple[str, ...]) -> tuple[Electorate, Ballots]:
            ballots = Ballots(run.terms.contract, asked, self._config.about)
            return self._electorate(asked, run), ballots

        def stop(results: Results) -> bool:
            asked = [
                (result or draft).model.name for draft, result in zip(drafts, results, strict=True)
            ]
            electorate, ballots = count((*(each.model.name for each in heard), *asked))
            voices = [*heard, *filter(None, results)]
            said = [ballots.cast(each) for each in voices]
            # Who is cut has begun to speak, as `run.speaks` has it; ballots are read once, and this at each answer.
            spoken = (
                voice.is_cut or ballot.value is not None
                for voice, ballot in zip(voices, said, strict=True)
            )
            if sum(spoken) < least:
                return False
            confidence = decide(said, electorate, ballots.same).confidence
            if sure is not None:
                return confidence >= sure
            if confidence < enough:
                return False
            waiting = _outstanding(asked, results, ballots)
            return settled(said, waiting, electorate, ballots.same, transitive=ballots.transitive)

        return stop

    # ... weighing...

    def _votes(self, run: Run) -> bool:
        """Whether answers are voted on, whatever they are."""
        default = self._config.aggregate is None and _is_comparable(run)
        return default or self._config.aggregate == "vote"

    def _electorate(self, names: Sequence[str], run: Run) -> Electorate:
        category = run.bands.get(self._config.category or "")
        return self._config.electorate(names, run.models, category=category)

    def _vote(self, candidates: Sequence[Candidate], run: Run) -> Vote:
        """The vote on all that has come."""
        contract = None if self._config.aggregate == "similarity" else run.terms.contract
        asked = [each.draft.model.name for each in candidates]
        electorate = self._electorate(asked, run)
        results = [each.result for each in candidates]
        return Vote.on(results, electorate, contract, asked, self._config.about)

    def _unsure(self, vote: Vote, run: Run) -> bool:
        """Whether stronger models are to be asked too."""
        if not self._config.escalate_to:
            return False
        asked, verdict = [each.model.name for each in vote.results], vote.verdict
        if verdict.leader is not None and verdict.leader.value is TEXT:
            return False  # nobody knows how sure one may be of a text
        enough = self._config.sure_from(asked)
        unsure = verdict.confidence < enough
        run.trace.checked("posterior", verdict.confidence, enough, enough=not unsure)
        return unsure

    async def _rank(self, vote: Vote, request: ChatRequest, run: Run) -> Ranking:
        config = self._config
        if config.judge_model is None:
            return voted(vote, run)
        run.trace.stage("judge")
        bench = Bench(
            run.models[config.judge_model],
            config.rubric,
            config,
            run.deadline.share(_JUDGE_SHARE),
        )
        ranking = await judged(vote, bench, request, run)
        if ranking is None:
            run.trace.note("the judge gave no scores that can be used: the team decides")
            return replace(voted(vote, run), lack="judge")
        return ranking

    # ... refusing...

    def _check_choices(self, request: ChatRequest) -> None:
        """An `n` above 1 is how many choices a client wants at the most, where it gets one of each candidate."""
        config = self._config
        if config.aggregate != "all" and request.choices != 1:
            raise InvalidField("A team of models gives one choice: `n` must be 1.", param="n")
        most = len(config.models) * config.samples
        if not 1 <= request.choices <= most:
            raise InvalidField(f"`n` must be from 1 to {most}, one for each candidate.", param="n")

    def _check_quorum(self, vote: Vote) -> None:
        nobody = all(each.state != "ok" for each in vote.results)
        if nobody or (self._too_few(vote) and self._config.below_quorum == "fail"):
            raise why_no_answer(vote.results, quorum=self._config.quorum)

    def _too_few(self, vote: Vote) -> bool:
        """Whether fewer have said something than must."""
        pairs = zip(vote.results, vote.values, strict=True)
        spoken = sum(value is not None or result.is_cut for result, value in pairs)
        return spoken < self._config.min_successful_responses

    # ... and publishing.

    async def _publish(
        self, ranking: Ranking, vote: Vote, candidates: Sequence[Candidate], run: Run
    ) -> AsyncGenerator[Event]:
        """The winner as its model wrote it; in its place, if it cannot be made to keep its contract, the next one."""
        winner, *others = ranking.results
        draft = next(each.draft for each in candidates if each.result is winner)
        lack = ranking.lack or lack_of(
            vote.results, enough=not self._too_few(vote), confidence=ranking.confidence
        )
        ending = Ending(
            run.deadline.share(_LAST_SHARE),
            lack,
            lambda _: ranking.confidence,
            grounds=Grounds("posterior", self._config.enough()),
        )
        async with aclosing(present(winner, run, others, ending, draft=draft)) as events:
            async for event in events:
                yield event

    async def _every(
        self, candidates: Sequence[Candidate], vote: Vote, request: ChatRequest, run: Run
    ) -> AsyncGenerator[Event]:
        """Each candidate's answer as a choice of its own, in declared order, with the name of its model."""
        answered = [each.result for each in candidates if each.result.state == "ok"]
        kept = [(each, _kept(each, run)) for each in answered]
        if run.terms.on_violation == "fail":
            kept = [(each, events) for each, events in kept if events is not None]
        if not kept:
            raise ContractViolated("No answer had the form that it has to have.")
        shown = kept[: request.choices if request.choices > 1 else None]
        for index, (each, events) in enumerate(shown):
            yield Speaker(each.model.name, index)
            for event in events or events_of(each):
                yield _of_choice(event, index)
        whole = len(kept) == len(answered) and all(events is not None for _, events in shown)
        lack = lack_of(vote.results, enough=not self._too_few(vote))
        lack = lack or (None if whole else "contract")
        yield Done(run.ledger.usage, outcome_of(lack), lack=lack)


def _outstanding(asked: Sequence[str], results: Results, ballots: Ballots) -> list[Outstanding]:
    pairs = zip(asked, results, strict=True)
    return [Outstanding(name, ballots.share(name)) for name, result in pairs if result is None]


def _is_comparable(run: Run) -> bool:
    contract = run.terms.contract
    return contract is not None and contract.comparable


def _kept(result: Result, run: Run) -> list[Event] | None:
    """An answer that keeps its contract, or can be mended by machinery."""
    held = list(events_of(result))
    kept = keeping(held, run.terms.contract)
    if isinstance(kept, Violation):
        run.trace.violated(result.number)
        run.trace.broke("replaced" if run.terms.on_violation == "fail" else "published")
        return None
    if text_of(kept) != text_of(held):
        run.trace.broke("mended")
    return kept


def _of_choice(event: Event, index: int) -> Event:
    return replace(event, choice=index) if isinstance(event, Delta | Finish) else event
