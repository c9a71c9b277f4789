"""Confidence: a chain of stages, the next of which is asked only if what was said so far is not sure enough."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from math import isfinite
from typing import Any, Literal

from looper.aggregate import Ballot, decide, similarity
from looper.calls import Result
from looper.cascade import MEANS, SURE, ConfidenceSettings, Stage, no_threshold
from looper.chat import ChatRequest
from looper.conclude import Ending, conclude, present
from looper.contract import Contract
from looper.cost import PlannedCall
from looper.deltas import Gathering
from looper.drafts import Draft, answering
from looper.errors import InvalidField
from looper.events import Delta, Done, Event, Grounds, Outcome, Progress
from looper.failures import why_no_answer
from looper.fanout import fan_out
from looper.models import Model
from looper.publish import as_asked
from looper.run import Run
from looper.scoring import (
    ALTERNATIVES,
    agreement,
    answer_tokens,
    at_best,
    mean_score,
    token_score,
)
from looper.verify import UNKNOWN, Grade, entailment, grade
from looper.votes import TEXT, Value, Vote, value_of

_LAST_SHARE = 0.95
_ANSWER_SHARE = 0.7
"""Of the time of a stage whose answers are graded: the part in which they must come."""

_ALIKE = 0.8
"""Free texts of at least this likeness say the same."""


_MANY = 256 << 10
"""Bytes of probabilities that take some milliseconds to read."""

_AGAIN = "nobody else answers: who was given up is asked again"

_DIGITS = 9
"""Beyond these a score differs from a threshold by how it was reckoned only."""

_LEAST_TOKENS = 16
"""How much of an answer must be there before it may be given up."""


class ConfidenceConfig(ConfidenceSettings):
    """`algorithm: {type: confidence, stages: [[small, other], large]}`"""

    type: Literal["confidence"]

    def members(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        yield from self.named()

    def planned(self) -> tuple[PlannedCall, ...]:
        """Every stage, and whoever grades its answers."""
        return tuple(self.calls())

    def bands(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """What a run wants to know of the request, by the names that rules use."""
        for band in self.start_stage_by:
            yield ("start_stage_by", band), band

    def problems(
        self, contract: Contract[Any] | None
    ) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """What is missing beside the contract of the decision."""
        votes = contract is not None and contract.comparable
        if self.confidence_method == "auto" and not votes and not self.accepts_raw("hybrid"):
            yield ("confidence_method",), no_threshold("auto` without a comparable `contract")

    def warnings(self, models: Mapping[str, Model]) -> Iterator[str]:
        """What is no error, but hardly meant."""
        if self.threshold == 0 and len(self.stages) > 1:
            yield "threshold: at 0 every answer is accepted, and no further stage is asked"
        if never := list(self.never_enough(models)):
            yield (
                f"max_accepted_error: no recorded outcomes show that answers of {', '.join(never)} are so seldom wrong,"
                " and what comes there is always escalated"
            )
        for at, stage in enumerate(self.stages):
            if len(list(stage.voters)) * self.samples < self.min_successful_responses:
                yield f"min_successful_responses: {stage.name or f'stage {at + 1}'} has fewer, and is never enough"
        if self.verifier_model in {name for stage in self.stages for name in stage.models}:
            yield f"verifier_model: {self.verifier_model} grades answers of its own"

    def doubts_beside(
        self, contract: Contract[Any] | None, models: Mapping[str, Model]
    ) -> Iterator[str]:
        """Which stages are asked for nothing but their word: by then nobody can be sure enough, though all agree."""
        asked: list[str] = []
        for stage in self.in_order(models)[:-1]:
            asked += [model for model, _ in stage.voters for _ in range(self.samples)]
            most, bar = self._most(asked, contract, models)
            if most < bar:
                yield (
                    f"stages: with {stage.called} the team is at most {most:.2f} sure, though all agree,"
                    f" and {bar:g} is enough: the next stage is always asked"
                )

    def _most(
        self, asked: Sequence[str], contract: Contract[Any] | None, models: Mapping[str, Model]
    ) -> tuple[float, float]:
        """How sure these are if they agree, as far as that is known beforehand, and how sure is enough."""
        if self.confidence_method == "agreement":
            share = agreement(len(asked), len(asked))
            return share or 0.0, SURE if self.threshold is None else self.threshold
        compares = contract is not None and contract.comparable
        electorate = self.electorate(
            asked, models, options=contract.options if contract is not None else None
        )
        known = self.category is None and self.max_accepted_error is None and electorate.steady
        if self.confidence_method != "auto" or not compares or not known:
            return 1.0, 0.0
        ballots = [Ballot(name, True, share=1 / asked.count(name)) for name in asked]
        verdict = decide(ballots, electorate, lambda one, other: one == other)
        return verdict.confidence, self.bar_for_pool(asked).at

    def build(self) -> "Confidence":
        return Confidence(self)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer, what its model was asked for it, and how sure of it one may be.

    `score` is as it was measured, `worth` the same as a probability where that is known; None is unknown.
    """

    draft: Draft
    result: Result
    value: Value | None
    score: float | None = None
    worth: float | None = None
    passes: bool = False
    grounds: Grounds | None = None
    unsolvable: bool = False


@dataclass(frozen=True, slots=True)
class Ranking:
    """Answers, best first, and how sure of the first one may be."""

    candidates: Sequence[Candidate]
    confidence: float | None
    grounds: Grounds | None = None


@dataclass(slots=True)
class Climb:
    """One way up a chain: the stages, what was said so far, and what of it was sure enough."""

    stages: Sequence[Stage]
    request: ChatRequest
    run: Run
    pool: list[Candidate] = field(default_factory=list)
    given_up: list[Draft] = field(default_factory=list)
    accepted: Ranking | None = None
    failed: bool = False
    hopeless: bool = False

    @property
    def is_over(self) -> bool:
        """Whether nobody else is to be asked."""
        return self.accepted is not None or self.failed or self.hopeless

    @property
    def results(self) -> list[Result]:
        return [each.result for each in self.pool]


class Confidence:
    """Runs Confidence. Holds settings only; everything of one execution is in its `Run`."""

    def __init__(self, config: ConfidenceConfig) -> None:
        self._config = config

    async def run(self, request: ChatRequest, run: Run) -> AsyncGenerator[Event]:
        """The first answer that is sure enough, else the best there is. Raises a LooperError if nobody answers."""
        if request.choices != 1:
            raise InvalidField("A team of models gives one choice: `n` must be 1.", param="n")
        climb = Climb(self._stages(run), request, run)

        # Each stage in turn, until what was said is sure enough...
        at = 0
        while at < len(climb.stages) and not climb.is_over:
            if self._goes_out_as_it_comes(climb, at):
                break
            at = await self._step(climb, at)
            if climb.failed:
                raise why_no_answer(climb.results)

        # ... and the answer as it came, or the last stage's as it comes.
        live = at < len(climb.stages) and not climb.is_over
        if not live and not any(each.result.state == "ok" for each in climb.pool):
            await self._ask_again(climb)
        answer = self._write(climb, at) if live else self._publish(climb)
        async with aclosing(as_asked(answer, request)) as events:
            async for event in events:
                yield event

    def _stages(self, run: Run) -> list[Stage]:
        """Whom it goes to, in order, from where the request's bands have it begin."""
        config = self._config
        stages = config.in_order(run.models)
        bands = {f"{name}.{band}" for name, band in run.bands.items()}
        begin = next((name for band, name in config.start_stage_by.items() if band in bands), None)
        names = [stage.called for stage in stages]
        return stages if begin is None else stages[names.index(begin) :]

    def _goes_out_as_it_comes(self, climb: Climb, at: int) -> bool:
        """Whether a stage's answer is published whatever it says, to a client that reads along."""
        stage, last = climb.stages[at], at == len(climb.stages) - 1
        one = len(list(stage.voters)) * self._config.samples == 1
        enough = self._config.min_successful_responses == 1
        free = climb.run.terms.contract is None
        return last and one and enough and free and climb.request.stream

    # Climbing...

    async def _step(self, climb: Climb, at: int) -> int:
        """Have a stage answer; if that takes long, the next one beside it. Returns which one is next."""
        if self._config.overlap_after is None:
            await self._stage(climb, at)
            return at + 1
        patience = self._config.overlap_after.total_seconds()
        async with asyncio.TaskGroup() as group:
            running = {group.create_task(self._stage(climb, at))}
            at += 1
            while running and not climb.is_over:
                done, running = await asyncio.wait(
                    running,
                    timeout=patience if at < len(climb.stages) else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not done:
                    climb.run.trace.note("a stage takes long: the next one begins beside it")
                    running.add(group.create_task(self._stage(climb, at)))
                    at += 1
            for loser in running:
                loser.cancel()
        return at

    async def _stage(self, climb: Climb, at: int) -> None:
        """Ask a stage's voters, and see whether what has been said by then is sure enough."""
        stage, run = climb.stages[at], climb.run
        await run.say(Progress(stage.name or f"stage {at + 1}"))
        run.trace.stage(stage.called)
        until = run.deadline.share(_LAST_SHARE / (len(climb.stages) - at))
        asked = await self._ask(climb, stage, until)
        candidates = await self._graded(climb, asked, until)
        if climb.accepted is not None:
            return
        climb.pool += candidates
        spoken = sum(each.value is not None for each in candidates)
        few = spoken < self._config.min_successful_responses
        broken = self._config.on_error == "fail" and any(
            each.result.error is not None for each in candidates
        )
        climb.failed = broken or (few and self._config.below_quorum == "fail")
        ranking = None if few else self._sure_enough(climb)
        climb.accepted = None if climb.failed else ranking
        if _is_unsolvable(candidates) and not climb.is_over:
            run.trace.note("the verifier calls it unsolvable: no further stage is asked")
            climb.hopeless = True

    async def _ask_again(self, climb: Climb) -> None:
        """Hear those to their end who were given up for others, as nobody else has answered."""
        if not climb.given_up:
            return
        run, until = climb.run, climb.run.deadline.share(_LAST_SHARE)
        run.trace.note(_AGAIN)
        drafts = [replace(draft, extra=True) for draft in climb.given_up]
        results = await run.fan_out(drafts, self._config, until=until)
        pairs = zip(drafts, results, strict=True)
        climb.pool += [
            await self._by_tokens(Candidate(draft.to(each.model), each, _value(each, climb)), run)
            for draft, each in pairs
        ]

    async def _ask(self, climb: Climb, stage: Stage, until: float) -> list[Candidate]:
        config, run = self._config, climb.run
        drafts = self._drafts(climb, stage)
        answers_by = self._in_round(until, run)
        if self._grades(run):
            share = run.deadline.now() + (until - run.deadline.now()) * _ANSWER_SHARE
            answers_by = min(answers_by, share)
        watched = config.escalate_early and stage is not climb.stages[-1]

        async def ask(draft: Draft) -> Result:
            if watched and (hopeless := self._hopeless(draft, run)) is not None:
                result = await run.watch(draft, until=answers_by, hopeless=hopeless)
                if result.state == "cancelled":
                    run.trace.score(result, None, "given up")
                    climb.given_up.append(draft)
                return result
            return await run.ask(draft, until=answers_by)

        results = await fan_out(
            drafts, ask, config, run.models, until=answers_by, counts=run.speaks
        )
        return [
            Candidate(draft.to(result.model), result, _value(result, climb))
            for draft, result in zip(drafts, results, strict=True)
        ]

    def _in_round(self, until: float, run: Run) -> float:
        """When a round that begins now is over, `until` at the latest."""
        if self._config.round_timeout is None:
            return until
        return min(until, run.deadline.now() + self._config.round_timeout.total_seconds())

    def _drafts(self, climb: Climb, stage: Stage, *, stream: bool = False) -> list[Draft]:
        config, run = self._config, climb.run
        return [
            answering(
                climb.request,
                run.models[model],
                "candidate",
                instruction=prompt or None,
                tools=True,
                logprobs=True,
                alternatives=self._alternatives(run),
                sample=sample,
                stream=stream,
                terms=run.terms,
            )
            for model, prompt in stage.voters
            for sample in range(config.samples)
        ]

    # ... grading...

    def _method(self, run: Run) -> str:
        """How sure an answer is, where the contract decides on it: by vote if its values compare."""
        contract = run.terms.contract
        if (
            self._config.confidence_method == "auto"
            and contract is not None
            and contract.comparable
        ):
            return "posterior"
        return self._config.confidence_method

    def _grades(self, run: Run) -> bool:
        """Whether somebody may be asked how good an answer is."""
        return self._method(run) in ("auto", "self_verify", "verifier", "automix_entailment")

    def _alternatives(self, run: Run) -> int | None:
        """How many alternatives beside each token are needed; None if no probabilities are."""
        method = self._token_method(run)
        needed = [ALTERNATIVES.get(method), self._config.alternatives]
        return max((each for each in needed if each is not None), default=None)

    async def _graded(
        self, climb: Climb, candidates: Sequence[Candidate], until: float
    ) -> list[Candidate]:
        """The candidates with their scores. Who says nothing has none."""
        if self._method(climb.run) in ("posterior", "agreement"):
            return list(candidates)
        for each in candidates:
            if each.value is None and each.result.state == "ok":
                climb.run.trace.score(each.result, None, "silent")
        async with asyncio.TaskGroup() as group:
            tasks = [
                None if each.value is None else group.create_task(self._scored(climb, each, until))
                for each in candidates
            ]
        return [
            each if task is None else task.result()
            for each, task in zip(candidates, tasks, strict=True)
        ]

    async def _scored(self, climb: Climb, each: Candidate, until: float) -> Candidate:
        """A candidate with its score, what that is worth, and whether it will do."""
        run, method = climb.run, self._method(climb.run)
        found = UNKNOWN
        for how in ("hybrid", "self_verify") if method == "auto" else (method,):
            found, method = await self._score(climb, each, how, until), how
            if found.score is not None:
                break
        graded = replace(self._weighed(each, method, found.score), unsolvable=found.unsolvable)
        bar = self._config.bar_for(each.result.model.name, method)
        run.trace.score(each.result, graded.worth, _verdict(graded, bar.at))
        if graded.score is not None:
            run.trace.measure(each.result, method, graded.score)
        return graded

    def _weighed(self, each: Candidate, method: str, score: float | None) -> Candidate:
        if score is None:
            return each
        score, name = round(score, _DIGITS), each.result.model.name
        worth = self._config.worth(name, method, score)
        bar = self._config.bar_for(name, method)
        enough = self._config.worth(name, method, bar.at) if bar.raw else bar.at
        return replace(
            each,
            score=score,
            worth=worth,
            passes=bar.passes(score, worth),
            grounds=_grounds(method, enough),
        )

    async def _score(self, climb: Climb, each: Candidate, method: str, until: float) -> Grade:
        config, request, run = self._config, climb.request, climb.run
        match method:
            case "self_verify":
                model = each.result.model
                return Grade(await grade(request, run, each.result, model, until=until))
            case "verifier":
                assert config.verifier_model is not None
                model = run.models[config.verifier_model]
                return Grade(await grade(request, run, each.result, model, until=until))
            case "automix_entailment":
                assert config.automix_verifier is not None
                verifier = config.automix_verifier
                return await entailment(verifier, request, run, each.result, until=until)
            case _:
                return Grade(await self._token_score(each, method, run.terms.contract))

    async def _token_score(
        self, each: Candidate, method: str, contract: Contract[Any] | None
    ) -> float | None:
        """What an answer's tokens say. Other runs go on while many of them are read."""
        if each.result.completion is None:
            return None
        choice = each.result.completion.choices[0]
        score = partial(
            token_score,
            method,
            choice,
            each.value,
            contract,
            which=self._config.token_filter,
            weights=self._config.hybrid_weights.shares,
        )
        many = memoryview(choice.logprobs).nbytes > _MANY
        return await asyncio.to_thread(score) if many else score()

    def _token_method(self, run: Run) -> str:
        """What an answer is scored by as long as nobody is asked."""
        return "hybrid" if self._method(run) == "auto" else self._method(run)

    async def _by_tokens(self, each: Candidate, run: Run) -> Candidate:
        """A candidate with the score of its tokens, if they tell one."""
        method = self._token_method(run)
        score = await self._token_score(each, method, run.terms.contract)
        scored = self._weighed(each, method, score)
        bar = self._config.bar_for(each.result.model.name, method).at
        run.trace.score(each.result, scored.worth, _verdict(scored, bar))
        if scored.score is not None:
            run.trace.measure(each.result, method, scored.score)
        return scored

    def _hopeless(self, draft: Draft, run: Run) -> Callable[[Gathering], bool] | None:
        """Whether an answer that is still being written can no longer pass; None if that cannot be told."""
        config = self._config
        method = self._token_method(run)
        if method not in MEANS:
            return None
        bar, name = config.bar_for(draft.model.name, method), draft.model.name
        looks = _Looks()

        def hopeless(so_far: Gathering) -> bool:
            if not looks.due(so_far.tokens):
                return False
            tokens = answer_tokens(so_far.completion().choices[0], config.token_filter)
            best = mean_score(
                method, at_best(tokens, draft.wanted_output), config.hybrid_weights.shares
            )
            if best is None or len(tokens) < _LEAST_TOKENS:
                return False
            return not bar.passes(best, config.worth(name, method, best))

        return hopeless

    # ... deciding...

    def _sure_enough(self, climb: Climb) -> Ranking | None:
        """What has been said by now, if it is sure enough to be published."""
        match self._method(climb.run):
            case "posterior":
                return self._by_posterior(climb)
            case "agreement":
                return self._by_agreement(climb)
            case _:
                passing = _by_score([each for each in climb.pool if each.passes])
                others = _by_score([each for each in climb.pool if not each.passes])
                if not passing:
                    return None
                return Ranking([*passing, *others], passing[0].worth, passing[0].grounds)

    def _vote(self, climb: Climb) -> Vote:
        """The vote on all that was said so far: no stage's word is lost."""
        asked = [each.draft.model.name for each in climb.pool]
        contract = climb.run.terms.contract
        electorate = self._config.electorate(
            asked,
            climb.run.models,
            options=None if contract is None else contract.options,
            category=climb.run.bands.get(self._config.category or ""),
        )
        return Vote.on(climb.results, electorate, contract, asked, self._config.about)

    def _by_posterior(self, climb: Climb) -> Ranking | None:
        vote = self._vote(climb)
        if not vote.verdict.groups:
            return None
        bar = self._config.bar_for_pool([each.draft.model.name for each in climb.pool])
        worth = vote.verdict.confidence
        passes = worth >= bar.at
        _note(vote, worth, f"accepted at {bar.at:g}" if passes else f"below {bar.at:g}", climb.run)
        return _ranking(climb, vote, worth, _grounds("posterior", bar.at)) if passes else None

    def _by_agreement(self, climb: Climb) -> Ranking | None:
        vote = self._vote(climb)
        share = _agreement(vote)
        if share is None:
            return None
        bar = SURE if self._config.threshold is None else self._config.threshold
        passes = share >= bar
        _note(vote, share, f"accepted at {bar:g}" if passes else f"below {bar:g}", climb.run)
        return _ranking(climb, vote, share, _grounds("agreement", bar)) if passes else None

    # ... and publishing.

    async def _publish(self, climb: Climb) -> AsyncGenerator[Event]:
        """What was sure enough, word for word; without it the best there is."""
        run, ranking = climb.run, climb.accepted or self._best(climb)
        results = [each.result for each in ranking.candidates]
        if not climb.request.logprobs:
            results = [each.without_logprobs() for each in results]
        winner, *others = results
        outcome: Outcome = "ok" if climb.accepted is not None else "degraded"
        ending = Ending(
            run.deadline.share(_LAST_SHARE),
            outcome,
            lambda _: ranking.confidence,
            grounds=ranking.grounds,
        )
        answer = present(winner, run, others, ending, draft=ranking.candidates[0].draft)
        async with aclosing(answer) as events:
            async for event in events:
                yield event

    def _best(self, climb: Climb) -> Ranking:
        """The best of what was said, though none of it is sure enough: by everybody's vote, else by score."""
        answered = _by_score(climb.pool)
        if not answered:
            raise why_no_answer(climb.results)
        climb.run.trace.note("no stage was sure enough: the best of their answers is published")
        if all(each.value is None for each in answered):
            return Ranking(answered, None)
        vote = self._vote(climb)
        if vote.comparable:
            bar = self._config.bar_for_pool([each.draft.model.name for each in climb.pool])
            return _ranking(climb, vote, vote.verdict.confidence, _grounds("posterior", bar.at))
        if self._method(climb.run) == "agreement":
            return _ranking(climb, vote, _agreement(vote), Grounds("agreement"))
        return Ranking(answered, answered[0].worth, answered[0].grounds)

    async def _write(self, climb: Climb, at: int) -> AsyncGenerator[Event]:
        """Have the last stage's model answer the client itself; if it says nothing, a substitute; then the best of the
        others, unless a failure is to end the run.
        """
        stage, run = climb.stages[at], climb.run
        await run.say(Progress(stage.name or f"stage {at + 1}"))
        run.trace.stage(stage.called)
        (draft,) = self._drafts(climb, stage, stream=True)
        spare = (run.models[name] for name in self._config.substitutes)
        drafts = [draft, *(draft.to(model) for model in spare if model is not draft.model)]
        strict = "fail" in (self._config.on_error, self._config.below_quorum)
        others = [] if strict else _by_score(climb.pool)
        if not strict and not others:
            again = (replace(draft, stream=True, extra=True) for draft in climb.given_up)
            drafts += again
        until = self._in_round(run.deadline.share(_LAST_SHARE), run)
        ending = Ending(
            until,
            weigh=lambda _: others[0].worth if others else None,
            grounds=others[0].grounds if others else None,
        )
        heard, number = Gathering(), len(run.trace.calls)
        answer = conclude(drafts, run, [each.result for each in others], ending)
        async with aclosing(answer) as events:
            async for event in events:
                match event:
                    case Delta():
                        heard.hear(event)
                        yield event
                    case Done():
                        yield await self._scored_done(event, heard, drafts, run, number)
                    case _:
                        yield event

    async def _scored_done(
        self, done: Done, heard: Gathering, drafts: Sequence[Draft], run: Run, number: int
    ) -> Done:
        """The end of an answer that was published whatever it says, with what its tokens say of it.

        The drafts' calls have the places in the trace from `number` on. Where none of them came to anything, the answer
        is one that was doubted before.
        """
        calls = enumerate(run.trace.calls[number:])
        written = next((at for at, call in calls if call.state == "ok"), None)
        if written is None:
            return replace(done, outcome="degraded")
        draft, number = drafts[written], number + written
        result = Result(draft.model, "candidate", "ok", heard.completion(), number=number)
        each = await self._by_tokens(Candidate(draft, result, value_of(result, None)), run)
        doubted = self._token_method(run) in ALTERNATIVES and not each.passes
        return replace(
            done,
            confidence=each.worth,
            grounds=each.grounds,
            outcome="degraded" if doubted else "ok",
        )


class _Looks:
    """When to look at an answer that is being written: seldom enough that all looks together take linear time."""

    def __init__(self) -> None:
        self._next = _LEAST_TOKENS

    def due(self, tokens: int) -> bool:
        if tokens < self._next:
            return False
        self._next = tokens + max(1, tokens // 4)
        return True


def _value(result: Result, climb: Climb) -> Value | None:
    """What an answer says. A text that ends where the client wants it to end is no silence."""
    value = value_of(result, climb.run.terms.contract)
    wanted = climb.run.terms.contract is None and climb.request.output_limit is not None
    cut = result.finish == "length" and bool(result.text.strip())
    return TEXT if value is None and wanted and cut else value


def _is_unsolvable(candidates: Sequence[Candidate]) -> bool:
    """Whether all that somebody said is beyond any model, by the verifier's word."""
    said = [each for each in candidates if each.value is not None]
    return bool(said) and all(each.unsolvable for each in said)


def _verdict(each: Candidate, bar: float) -> str:
    if each.unsolvable and not each.passes:
        return "unsolvable"
    if each.score is None:
        return "unknown"
    return f"accepted at {bar:g}" if each.passes else f"below {bar:g}"


def _note(vote: Vote, sure: float, verdict: str, run: Run) -> None:
    """Put in the trace what the vote came to: of each answer that says what the leader does, and of the others."""
    leading = {id(each) for each in next(vote.groups(), [])}
    for each, value in zip(vote.results, vote.values, strict=True):
        if value is None:
            run.trace.score(each, None, "silent")
        elif id(each) in leading:
            run.trace.score(each, sure, verdict)
        else:
            run.trace.score(each, vote.probability(value), "other")


def _ranking(climb: Climb, vote: Vote, sure: float | None, grounds: Grounds) -> Ranking:
    of = {id(each.result): each for each in climb.pool}
    return Ranking([of[id(each)] for each in vote.ranked()], sure, grounds)


def _grounds(method: str, enough: float) -> Grounds:
    return Grounds(method, enough if isfinite(enough) else None)


def _by_score(pool: Sequence[Candidate]) -> list[Candidate]:
    """Answers from the best score down, the unknown below the known, the silent last; of equals the later one first."""
    answered = [each for each in reversed(pool) if each.result.state == "ok"]
    return sorted(
        answered,
        key=lambda each: (each.value is None, each.worth is None, -(each.worth or 0.0)),
    )


def _agreement(vote: Vote) -> float | None:
    """The share of those who speak that agree with the leader. Texts that nothing compares agree in their words."""
    spoken = [
        (each, value)
        for each, value in zip(vote.results, vote.values, strict=True)
        if value is not None
    ]
    if not spoken:
        return None
    leading = next(vote.groups())
    if not vote.is_text(leading[0]):
        return agreement(len(leading), len(spoken))
    text = leading[0].text
    alike = [
        each for each, value in spoken if value is TEXT and similarity(each.text, text) >= _ALIKE
    ]
    return agreement(len(alike), len(spoken))
