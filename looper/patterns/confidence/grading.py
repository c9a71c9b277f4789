"""How sure one may be of a candidate by itself: by its tokens, by who is asked about it, and while it is written."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import isfinite
from typing import Any

from looper.calling.drafts import Draft
from looper.contract import Contract
from looper.patterns.closing.verify import UNKNOWN, Grade, entailment, grade
from looper.patterns.confidence.climb import Candidate, Climb
from looper.patterns.confidence.settings import MEANS, ConfidenceSettings
from looper.run import Run
from looper.voting.scoring import answer_tokens, at_best, mean_score
from looper.wire.deltas import Gathering
from looper.wire.events import Grounds

_MANY = 256 << 10
"""Bytes of probabilities that take some milliseconds to read."""

_DIGITS = 9
"""Beyond these a score differs from a threshold by how it was reckoned only."""

_LEAST_TOKENS = 16
"""How much of an answer must be there before it may be given up."""


class Grading:
    """Grades candidates as a chain's settings say."""

    def __init__(self, config: ConfidenceSettings) -> None:
        self._config = config

    async def graded(
        self, climb: Climb, candidates: Sequence[Candidate], until: float
    ) -> list[Candidate]:
        """The candidates with their scores. Who says nothing has none."""
        if self._config.method_for(climb.run.terms.contract) in ("posterior", "agreement"):
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
        run, method = climb.run, self._config.method_for(climb.run.terms.contract)
        found = UNKNOWN
        for how in ("hybrid", "self_verify") if method == "auto" else (method,):
            found, method = await self._score(climb, each, how, until), how
            if found.score is not None:
                break
        graded = replace(self._weighed(each, method, found.score), unsolvable=found.unsolvable)
        _note(graded, method, run)
        return graded

    def _weighed(self, each: Candidate, method: str, score: float | None) -> Candidate:
        if score is None:
            return each
        score, name = round(score, _DIGITS), each.result.model.name
        worth = self._config.worth(name, method, score)
        bar = self._config.bar_for(name, method)
        comes_to = bar.raw and isfinite(bar.at)
        enough = self._config.worth(name, method, bar.at) if comes_to else bar.at
        return replace(
            each,
            score=score,
            worth=worth,
            passes=bar.passes(score, worth),
            grounds=grounds_of(method, enough),
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
        score = partial(self._config.token_score, method, choice, each.value, contract)
        many = memoryview(choice.logprobs).nbytes > _MANY
        return await asyncio.to_thread(score) if many else score()

    async def by_tokens(self, each: Candidate, run: Run) -> Candidate:
        """A candidate with the score of its tokens, if they tell one."""
        method = self._config.token_method_for(run.terms.contract)
        score = await self._token_score(each, method, run.terms.contract)
        scored = self._weighed(each, method, score)
        _note(scored, method, run)
        return scored

    def hopeless(self, draft: Draft, run: Run) -> Callable[[Gathering], bool] | None:
        """Whether an answer that is still being written can no longer pass; None if that cannot be told."""
        config = self._config
        method = self._config.token_method_for(run.terms.contract)
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


class _Looks:
    """When to look at an answer that is being written: seldom enough that all looks together take linear time."""

    def __init__(self) -> None:
        self._next = _LEAST_TOKENS

    def due(self, tokens: int) -> bool:
        if tokens < self._next:
            return False
        self._next = tokens + max(1, tokens // 4)
        return True


def is_unsolvable(candidates: Sequence[Candidate]) -> bool:
    """Whether all that somebody said is beyond any model, by the verifier's word."""
    said = [each for each in candidates if each.value is not None]
    return bool(said) and all(each.unsolvable for each in said)


def _note(each: Candidate, method: str, run: Run) -> None:
    """Put in the trace what a candidate is worth, what followed from it, and the score as it was measured."""
    run.trace.score(each.result, each.worth, _verdict(each))
    if each.score is not None:
        run.trace.measure(each.result, method, each.score)
    if each.worth is not None and each.grounds is not None and each.grounds.threshold is not None:
        run.trace.checked(method, each.worth, each.grounds.threshold, enough=each.passes)


def _verdict(each: Candidate) -> str:
    if each.unsolvable and not each.passes:
        return "unsolvable"
    return "unknown" if each.grounds is None else verdict(each.passes, each.grounds)


def verdict(passes: bool, grounds: Grounds) -> str:
    """What followed from a score, in words of ours."""
    if grounds.threshold is None:
        return "never enough"
    return f"accepted at {grounds.threshold:g}" if passes else f"below {grounds.threshold:g}"


def grounds_of(method: str, enough: float) -> Grounds:
    return Grounds(method, enough if isfinite(enough) else None)
