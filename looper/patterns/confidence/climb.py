"""One way up a chain: who has answered, how sure of it one may be, and what was sure enough."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from looper.calling.calls import Result
from looper.calling.drafts import Draft
from looper.patterns.confidence.stage import Stage
from looper.run import Run
from looper.voting.votes import TEXT, Value, value_of
from looper.wire.chat import ChatRequest
from looper.wire.events import Grounds


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

    def heard(self, draft: Draft, result: Result) -> Candidate:
        """What came of a draft, perhaps by a substitute. A text that ends where the client has it end is no silence."""
        contract = self.run.terms.contract
        value = value_of(result, contract)
        wanted = contract is None and self.request.output_limit is not None
        if value is None and wanted and _was_cut(result) and result.text.strip():
            value = TEXT
        return Candidate(draft.to(result.model), result, value)


def _was_cut(result: Result) -> bool:
    completion = result.completion
    return completion is not None and completion.choices[0].finish_reason == "length"


def by_score(pool: Sequence[Candidate]) -> list[Candidate]:
    """Answers from the best score down, the unknown below the known, the silent last; of equals the later one first."""
    answered = [each for each in reversed(pool) if each.result.state == "ok"]
    return sorted(
        answered,
        key=lambda each: (each.value is None, each.worth is None, -(each.worth or 0.0)),
    )
