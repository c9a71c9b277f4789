"""One way up a chain: who has answered, how sure of it one may be, and what was sure enough."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from looper.calling.calls import Result
from looper.calling.drafts import Draft
from looper.errors import LooperError
from looper.patterns.confidence.stage import Stage
from looper.run import Run
from looper.voting.votes import TEXT, Value, value_of
from looper.wire.chat import ChatRequest
from looper.wire.events import Grounds


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer, what its model was asked for it, and how sure of it one may be.

    `stage` is its place in the chain. `score` is as it was measured, `worth` the same as a probability where that is
    known; None is unknown.
    """

    draft: Draft
    result: Result
    value: Value | None
    stage: int = 0
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
    failure: LooperError | None = None
    hopeless: bool = False

    @property
    def is_over(self) -> bool:
        """Whether nobody else is to be asked."""
        return self.accepted is not None or self.failure is not None or self.hopeless

    @property
    def results(self) -> list[Result]:
        return [each.result for each in self.pool]

    @property
    def latest(self) -> list[Result]:
        """What came of the last stage that was asked: it stands in for those who are missing in the ones before."""
        last = max((each.stage for each in self.pool), default=0)
        return [each.result for each in self.pool if each.stage == last]

    def heard(self, draft: Draft, result: Result, at: int) -> Candidate:
        """What came of a draft of a stage, perhaps by a substitute. A text that ends where the client has it end is no
        silence, nor is one of the last stage, behind which nobody else is asked.
        """
        contract = self.run.terms.contract
        value = value_of(result, contract)
        enough = self.request.output_limit is not None or at == len(self.stages) - 1
        if value is None and contract is None and enough and result.is_cut:
            value = TEXT
        return Candidate(draft.to(result.model), result, value, at)


def by_score(pool: Sequence[Candidate]) -> list[Candidate]:
    """Answers, best first: whom the best score was not enough for and of whom nothing is known, then from that score
    down, then the others of whom nothing is known; the silent last. Of equals the later one is first.
    """
    answered = [each for each in reversed(pool) if each.result.state == "ok"]
    known = [each for each in answered if each.worth is not None and each.value is not None]
    best = max(known, key=lambda each: each.worth or 0.0, default=None)

    def place(each: Candidate) -> tuple[bool, int, float]:
        if each.worth is not None:
            return each.value is None, 1, -each.worth
        asked_for_more = best is not None and not best.passes and each.stage > best.stage
        return each.value is None, 0 if asked_for_more else 2, -each.stage

    return sorted(answered, key=place)
