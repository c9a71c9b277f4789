"""How every pattern ends: with an answer that keeps its contract, or else with the best there is."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from looper.calling.calls import CallFailed, Result, successes
from looper.calling.drafts import Draft
from looper.calling.failures import why_no_answer
from looper.contract import Contract, Violation
from looper.errors import ContractViolated
from looper.patterns.closing.outcome import lack_of, outcome_of
from looper.patterns.closing.publish import is_thought, publish, whole
from looper.run import Run
from looper.wire.chat import Usage
from looper.wire.events import Delta, Done, Event, Grounds, Lack

Weigh = Callable[[str], float | None]
Reject = Callable[[str], bool]
Finding = Callable[[], Awaitable[Sequence[Result]]]
"""Finds evidence, best first, when it is needed: that may take a call."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ends if nothing else goes wrong, and by when: what its answer lacks, and whether its author is another
    than was meant to write it.

    `weigh` says how probably a published text is right, `reject` which texts must not be published as long as there is
    something else; `grounds` are of what `weigh` says. Each may be left out.
    """

    until: float
    lack: Lack | None = None
    weigh: Weigh | None = None
    reject: Reject | None = None
    grounds: Grounds | None = None
    by_another: bool = False

    def done(self, events: Sequence[Event], run: Run, final: Usage | None) -> Done:
        """The last event behind `events`, which are what is published."""
        confidence = None if self.weigh is None else self.weigh(text_of(events))
        grounds = None if confidence is None else self.grounds
        outcome = outcome_of(self.lack, by_another=self.by_another)
        lack = self.lack if outcome == "degraded" else None
        return Done(run.ledger.usage, outcome, final, confidence, grounds, lack)


async def conclude(
    drafts: Sequence[Draft], run: Run, evidence: Sequence[Result] | Finding, ending: Ending
) -> AsyncGenerator[Event]:
    """Have a model write the answer, and publish it. Where one fails, the next draft's model takes its turn, and behind
    the last one the best of the evidence, which is best first and is looked for only then.

    Without a contract each word goes out as it comes. Under one the answer is held back until it is known to keep it;
    only thoughts are not. Raises a LooperError if there is nothing to publish.
    """
    failures: list[CallFailed] = []
    broken: list[Event] = []
    for turn, draft in enumerate(drafts):
        writing = Writing(draft, run)
        try:
            async with aclosing(writing.out(_turn(ending, turn, len(drafts), run))) as events:
                async for event in events:
                    yield event
        except CallFailed as error:
            failures.append(error)
        if writing.done:
            return
        if writing.spoke:
            raise why_no_answer(failures)
        broken = broken or writing.held
    found = evidence if isinstance(evidence, Sequence) else await evidence()
    if not broken and not found:
        raise why_no_answer(failures)
    for event in instead(broken or list(events_of(found[0])), found, run, ending):
        yield event


def _turn(ending: Ending, turn: int, turns: int, run: Run) -> Ending:
    """Each that may still be asked has its share of the time; the last one has all that is left."""
    now = run.deadline.now()
    until = now + max(0.0, ending.until - now) / (turns - turn)
    return replace(ending, until=until, by_another=turn > 0)


async def present(
    winner: Result, run: Run, others: Sequence[Result], ending: Ending, *, draft: Draft
) -> AsyncGenerator[Event]:
    """Publish an answer that is there already. `draft` is what its model was asked, for the case of a repair."""
    held = list(events_of(winner))
    kept = await _kept(held, draft, run, ending)
    if kept is not None:
        for event in (*kept, ending.done(kept, run, usage_of(winner))):
            yield event
        return
    for event in instead(held, others, run, ending):
        yield event


class Writing:
    """A model's answer on its way out: held back if a contract has to be checked first."""

    def __init__(self, draft: Draft, run: Run) -> None:
        self._draft = draft
        self._run = run
        self._live = run.terms.contract is None
        self.spoke = False
        self.held: list[Event] = []
        self.done = False

    async def out(self, ending: Ending) -> AsyncGenerator[Event]:
        """The answer, and that it is done; if it cannot be made to keep its contract, nothing but its thoughts.

        Raises CallFailed. Nothing but thoughts was said then, unless `spoke`.
        """
        held: list[Event] = []
        async with aclosing(publish(self._draft, self._run, until=ending.until)) as events:
            async for event in events:
                if self._live or is_thought(event):
                    self.spoke = self.spoke or not is_thought(event)
                    yield event
                else:
                    held.append(event)
        self.held = held  # now that it is complete
        kept = await _kept(self.held, self._draft, self._run, ending)
        if kept is not None:
            self.done = True
            for event in (*kept, ending.done(kept, self._run, self._run.ledger.last_usage)):
                yield event


async def _kept(
    held: Sequence[Event], draft: Draft, run: Run, ending: Ending
) -> list[Event] | None:
    """An answer that keeps its contract: as it is, mended by machinery, or mended by its model in one more call."""
    match keeping(held, run.terms.contract):
        case Violation(message):
            run.trace.violated(run.trace.last(draft.model.name, draft.role))
            kept = await _repaired(text_of(held), message, draft, run, ending.until)
            run.trace.broke("repaired" if kept else "replaced")
        case events:
            kept = events
            if text_of(kept) != text_of(held):
                run.trace.broke("mended")
                run.trace.note(
                    "machinery mended the form of the answer, so that it keeps its contract"
                )
    if kept and _is_text(kept) and ending.reject is not None and ending.reject(text_of(kept)):
        run.trace.note("the answer says what no other one does: the team's own stands in")
        return None
    return kept


async def _repaired(
    said: str, violation: str, draft: Draft, run: Run, until: float
) -> list[Event] | None:
    """Have the model that broke the contract mend its answer, once, if the plan leaves a call for it."""
    run.trace.note("the answer broke its contract: its model is asked to mend it")
    again = draft.again(said, _REPAIR.format(violation))
    repair = replace(again.without_tools(), role="repair", stream=False, grammar=run.terms.grammar)
    result = await run.ask(repair, until=until)
    if result.state != "ok":
        return None
    kept = keeping(list(events_of(result)), run.terms.contract)
    if isinstance(kept, Violation):
        run.trace.violated(result.number)
        return None
    return kept


def instead(
    held: Sequence[Event], evidence: Sequence[Result], run: Run, ending: Ending
) -> Iterator[Event]:
    """The first of the evidence that keeps the contract; without any what was held back, or an error, as agreed."""
    for result in evidence:
        kept = keeping(list(events_of(result)), run.terms.contract)
        if not isinstance(kept, Violation):
            ending = replace(ending, by_another=True)
            yield from (*kept, ending.done(kept, run, usage_of(result)))
            return
        run.trace.violated(result.number)
        run.trace.broke("replaced")
    run.trace.note("no answer keeps the contract")
    if run.terms.on_violation == "fail":
        raise ContractViolated("No answer had the form that it has to have.")
    run.trace.broke("published")
    ending = replace(ending, lack=ending.lack or "contract", by_another=False)
    yield from (*held, ending.done(held, run, run.ledger.last_usage))


def keeping(events: Sequence[Event], contract: Contract[Any] | None) -> list[Event] | Violation:
    """An answer with each choice in a form that keeps the contract; why not, if machinery cannot mend one.

    A choice that calls tools or refuses has no content for a contract to hold.
    """
    kept = list(events)
    if contract is None:
        return kept
    for index in {event.choice for event in events if isinstance(event, Delta)}:
        text = text_of(events, index)
        if _calls_tools(events, index) or (not text and _refuses(events, index)):
            continue
        if (violation := contract.check(text)) is None:
            continue
        if (mended := contract.repair(text)) is None:
            return violation
        kept = list(_with_text(kept, index, mended))
    return kept


def _is_text(events: Sequence[Event]) -> bool:
    """Whether an answer is a text, and neither calls of tools nor a refusal."""
    return not _calls_tools(events, 0) and not _refuses(events, 0)


def refusals(results: Sequence[Result]) -> list[Result]:
    """The answers, if all that have come are refusals in OpenAI's form; then none has anything to be weighed."""
    answered = successes(results)
    return answered if all(map(_is_refusal, answered)) else []


def _is_refusal(result: Result) -> bool:
    message = result.message
    return message is not None and bool(message.refusal) and not result.text.strip()


async def decline(
    refusing: Sequence[Result], asked: Sequence[Result], run: Run
) -> AsyncGenerator[Event]:
    """Publish a refusal: the first one, which all others who have answered agree with."""
    run.trace.note("all who answered have refused: that is the answer")
    for event in events_of(refusing[0]):
        yield event
    lack = lack_of(asked)
    yield Done(run.ledger.usage, outcome_of(lack), usage_of(refusing[0]), lack=lack)


def text_of(events: Sequence[Event], choice: int = 0) -> str:
    """The content of a choice."""
    return "".join(
        event.value
        for event in events
        if isinstance(event, Delta) and event.kind == "content" and event.choice == choice
    )


def _calls_tools(events: Sequence[Event], choice: int) -> bool:
    return any(delta.kind == "tool_calls" for delta in _deltas(events, choice))


def _refuses(events: Sequence[Event], choice: int) -> bool:
    return any(delta.kind == "refusal" for delta in _deltas(events, choice))


def _deltas(events: Sequence[Event], choice: int) -> Iterator[Delta]:
    return (event for event in events if isinstance(event, Delta) and event.choice == choice)


def _with_text(events: Sequence[Event], choice: int, text: str) -> Iterator[Event]:
    """A choice with other content, and without the probabilities of what it was before."""
    said = False
    for event in events:
        if not (isinstance(event, Delta) and event.choice == choice):
            yield event
        elif event.kind == "content":
            if not said:
                yield replace(event, value=text)
            said = True
        elif event.kind != "logprobs":
            yield event


def events_of(result: Result) -> Iterator[Event]:
    """A result's answer as events."""
    if result.completion is not None:
        for choice in result.completion.choices[:1]:
            yield from whole(choice)


def usage_of(result: Result) -> Usage | None:
    """What the call that brought a result has used, as far as its backend says."""
    completion = result.completion
    return completion.usage.read() if completion is not None and completion.usage else None


_REPAIR = """\
Your answer does not have the form that it has to have: {}
Write it again in that form. Change nothing of what it says."""
