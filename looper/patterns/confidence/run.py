"""Confidence: a chain of stages, the next of which is asked only if what was said so far is not sure enough."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Literal

from looper.calling.calls import Result
from looper.calling.drafts import Draft, answering
from looper.calling.failures import why_no_answer
from looper.calling.fanout import Patience, fan_out, is_failure
from looper.errors import InvalidField, LooperError
from looper.patterns.closing.conclude import Ending, conclude, present
from looper.patterns.closing.outcome import lack_of, outcome_of
from looper.patterns.closing.publish import as_asked
from looper.patterns.confidence.climb import Candidate, Climb, by_score
from looper.patterns.confidence.deciding import Deciding
from looper.patterns.confidence.grading import Grading, is_unsolvable
from looper.patterns.confidence.settings import ConfidenceSettings
from looper.patterns.confidence.stage import Stage
from looper.run import Run
from looper.voting.scoring import ALTERNATIVES
from looper.voting.votes import value_of
from looper.wire.chat import ChatRequest
from looper.wire.deltas import Gathering
from looper.wire.events import Delta, Done, Event, Lack, Progress

_LAST_SHARE = 0.95
"""Of the time of a stage whose answers are graded: the part in which they must come."""

_AGAIN = "nobody else answers: who was given up is asked again"


class ConfidenceConfig(ConfidenceSettings):
    """`algorithm: {type: confidence, stages: [[small, other], large]}`"""

    type: Literal["confidence"]

    def build(self) -> "Confidence":
        return Confidence(self)


class Confidence:
    """Runs Confidence. Holds settings only; everything of one execution is in its `Run`."""

    def __init__(self, config: ConfidenceConfig) -> None:
        self._config = config
        self._grading = Grading(config)
        self._deciding = Deciding(config)

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
            if climb.failure is not None:
                raise climb.failure

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
        live = last and one and enough and free and climb.request.stream
        if live and self._config.on_error == "fail":
            # Who cannot be asked has not failed: another stage's answer may then be published.
            return self._drafts(climb, stage)[0].unsuitable() is None
        return live

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
        run = climb.run
        await self._begun(climb, at)
        until = run.deadline.share(_LAST_SHARE / (len(climb.stages) - at))
        asked = await self._ask(climb, at, until)
        candidates = await self._grading.graded(climb, asked, until)
        if climb.accepted is not None:
            return
        climb.pool += candidates
        spoken = sum(each.value is not None or each.result.is_cut for each in candidates)
        few = spoken < self._config.min_successful_responses
        climb.failure = self._failure(climb, candidates, few=few)
        ranking = None if few else self._deciding.sure_enough(climb)
        climb.accepted = None if climb.failure is not None else ranking
        if is_unsolvable(candidates) and not climb.is_over:
            run.trace.note("the verifier calls it unsolvable: no further stage is asked")
            climb.hopeless = True

    def _failure(
        self, climb: Climb, candidates: Sequence[Candidate], *, few: bool
    ) -> LooperError | None:
        """Why a stage ends the run, if that is wanted."""
        failed = [each.result for each in candidates if is_failure(each.result)]
        if failed and self._config.on_error == "fail":
            return why_no_answer(failed, everybody=False)
        return why_no_answer(climb.results) if few and self._config.below_quorum == "fail" else None

    async def _begun(self, climb: Climb, at: int) -> Stage:
        """Say that a stage begins."""
        stage = climb.stages[at]
        await climb.run.say(Progress(stage.name or f"stage {at + 1}"))
        climb.run.trace.stage(stage.called)
        return stage

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
            await self._grading.by_tokens(climb.heard(draft, each, at), run)
            for at, (draft, each) in enumerate(pairs)
        ]

    async def _ask(self, climb: Climb, at: int, until: float) -> list[Candidate]:
        config, run, stage = self._config, climb.run, climb.stages[at]
        drafts = self._drafts(climb, stage)
        patience = Patience(self._in_round(until, run))
        answers_by = patience.until
        if self._config.grades(run.terms.contract):
            share = (until - run.deadline.now()) * (1 - self._config.verifier_share)
            answers_by = min(answers_by, run.deadline.now() + share)
        watched = config.escalate_early and stage is not climb.stages[-1]

        async def ask(draft: Draft) -> Result:
            if watched and (hopeless := self._grading.hopeless(draft, run)) is not None:
                result = await run.watch(draft, until=patience.until, hopeless=hopeless)
                if result.state == "cancelled":
                    run.trace.score(result, None, "given up")
                    climb.given_up.append(draft)
                return result
            return await run.ask(draft, until=patience.until)

        results = await fan_out(
            drafts,
            ask,
            config,
            run.models,
            until=answers_by,
            counts=run.speaks,
            patience=patience,
        )
        pairs = zip(drafts, results, strict=True)
        return [climb.heard(draft, result, at) for draft, result in pairs]

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
                alternatives=config.alternatives_for(run.terms.contract),
                sample=sample,
                stream=stream,
                terms=run.terms,
            )
            for model, prompt in stage.voters
            for sample in range(config.samples)
        ]

    async def _publish(self, climb: Climb) -> AsyncGenerator[Event]:
        """What was sure enough, word for word; without it the best there is."""
        run, ranking = climb.run, climb.accepted or self._deciding.best(climb)
        results = [each.result for each in ranking.candidates]
        if not climb.request.logprobs:
            results = [each.without_logprobs() for each in results]
        winner, *others = results
        lack = lack_of(climb.latest) or (None if climb.accepted else "unsure")
        ending = Ending(
            run.deadline.share(_LAST_SHARE),
            lack,
            lambda _: ranking.confidence,
            grounds=ranking.grounds,
        )
        answer = present(winner, run, others, ending, draft=ranking.candidates[0].draft)
        async with aclosing(answer) as events:
            async for event in events:
                yield event

    async def _write(self, climb: Climb, at: int) -> AsyncGenerator[Event]:
        """Have the last stage's model answer the client itself; if it says nothing, a substitute; then the best of the
        others, unless a failure is to end the run.
        """
        stage, run = await self._begun(climb, at), climb.run
        strict = "fail" in (self._config.on_error, self._config.below_quorum)
        others = [] if strict else by_score(climb.pool)
        drafts = self._writers(climb, stage, again=not strict and not others)
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

    def _writers(self, climb: Climb, stage: Stage, *, again: bool) -> list[Draft]:
        """Whom to ask for the last answer, one after the other; at the end, if `again`, who was given up for others."""
        (draft,) = self._drafts(climb, stage, stream=True)
        spare = (climb.run.models[name] for name in self._config.substitutes)
        given_up = climb.given_up if again else ()
        return [
            draft,
            *(draft.to(model) for model in spare if model is not draft.model),
            *(replace(each, stream=True, extra=True) for each in given_up),
        ]

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
            return replace(done, outcome="degraded", lack=done.lack or "unsure")
        draft, number = drafts[written], number + written
        result = Result(draft.model, "candidate", "ok", heard.completion(), number=number)
        each = await self._grading.by_tokens(Candidate(draft, result, value_of(result, None)), run)
        doubted = (
            self._config.token_method_for(run.terms.contract) in ALTERNATIVES and not each.passes
        )
        lack: Lack | None = "unsure" if doubted else None
        return replace(
            done, confidence=each.worth, grounds=each.grounds, outcome=outcome_of(lack), lack=lack
        )
