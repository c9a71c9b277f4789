"""Several calls at once: the one way in which any pattern asks more than one model."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal

from pydantic import Field

from looper.calling.calls import Failure, Result, State
from looper.calling.cost import Need, PlannedCall
from looper.calling.drafts import Draft
from looper.calling.models import Model
from looper.settings import Duration, Setting

Ask = Callable[[Draft], Coroutine[Any, Any, Result]]
Results = Sequence[Result | None]
Stop = Callable[[Results], bool]
Counts = Callable[[Result], bool]
"""Whether an answer counts for the quorum behind which others straggle."""


class Round(Setting):
    """How a team is asked: settings that every pattern with a round of calls has."""

    max_concurrent: int = Field(default=8, ge=1, description="calls at once")
    min_successful_responses: int = Field(
        default=1, ge=1, description="usable answers below which the round has failed"
    )
    below_quorum: Literal["degrade", "fail"] = Field(
        default="degrade", description="what happens then, as long as there is any usable answer"
    )
    round_timeout: Duration | None = Field(
        default=None, description="how long a round may take; default: its share of the deadline"
    )
    straggler_factor: float | None = Field(
        default=None,
        ge=1,
        description="calls that take this many times as long as `min_successful_responses` took are cancelled",
    )
    on_error: Literal["skip", "fail"] = Field(
        default="skip", description="fail: the first call that fails ends the round"
    )
    hedge_after: Duration | None = Field(
        default=None,
        description="a call that takes longer is made a second time; the first answer wins",
    )
    substitutes: tuple[str, ...] = Field(
        default=(),
        max_length=8,
        description="models that are asked, in turn, in place of one that fails",
    )

    def substitute_members(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        for index, name in enumerate(self.substitutes):
            yield ("substitutes", index), name

    @property
    def quorum(self) -> int:
        """How many usable answers it takes for the round to be of any use."""
        return self.min_successful_responses if self.below_quorum == "fail" else 1

    def in_round(self, calls: Iterable[PlannedCall]) -> tuple[PlannedCall, ...]:
        """The plan of a round: its calls, and for each of them what is asked beside it or in its place."""
        return tuple(each for call in calls for each in self._with_stand_ins(call))

    def _with_stand_ins(self, call: PlannedCall) -> Iterator[PlannedCall]:
        again = 2 if self.hedge_after is not None else 1
        need: Need = call.need if call.need == "spare" else "perhaps"
        yield call
        for _ in range(1, again):
            yield replace(call, need=need)
        for name in self.substitutes:
            for _ in range(again):
                yield replace(call, models=(name,), need=need)


def never(results: Results) -> bool:
    """The `stop` predicate that waits for every call."""
    return False


def is_usable(result: Result) -> bool:
    """Counts every answer that could be published."""
    return result.state == "ok"


async def fan_out(
    drafts: Sequence[Draft],
    ask: Ask,
    settings: Round,
    models: Mapping[str, Model],
    *,
    until: float,
    stop: Stop = never,
    counts: Counts = is_usable,
) -> list[Result]:
    """Ask all, at most `max_concurrent` at a time, and return one result for each draft, in the order of `drafts`.

    It is over when every call is, when `stop` says of what has arrived that it is enough, when those that are left
    straggle, at the first failure if `on_error` is `fail`, or at `until` (in the loop's time). What still runs then is
    cancelled before this returns, and what waits its turn never starts.
    """
    results: list[Result | None] = [None] * len(drafts)
    started = [False] * len(drafts)
    over = _Over()
    turn = asyncio.Semaphore(settings.max_concurrent)
    spare = [models[name] for name in settings.substitutes]
    asking = _Asking(ask, settings.hedge_after, turn)

    async def work(index: int) -> None:
        async with turn:
            if over.why is not None:  # the one before us ended it all
                return
            started[index] = True
            result = results[index] = await _ask_somebody(drafts[index], asking, spare)
            if settings.on_error == "fail" and result.state != "ok":
                over.say(_FAILED)
            elif None not in results or stop(results):
                over.say(_ENOUGH)
            elif (
                over.why is None
                and settings.straggler_factor
                and _quorum(results, settings, counts)
            ):
                # How long the quorum took is the measure for the rest.
                patience = (now() - began) * settings.straggler_factor
                clock.reschedule(min(until, began + patience, clock.when() or until))

    now = asyncio.get_running_loop().time
    began = now()
    late = began >= until
    clock = asyncio.timeout_at(until)
    if drafts and not late:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work(index)) for index in range(len(drafts))]
            with _cancelling(tasks):
                late = await over.wait(clock, until)
            for task in tasks:
                task.cancel(over.why)
    return [
        result or Result(draft.model, draft.role, _ending(begun, late))
        for draft, result, begun in zip(drafts, results, started, strict=True)
    ]


_ENOUGH, _FAILED = "enough was said", "another call failed"
_LATE, _STRAGGLED = "time was up", "the others did not wait"
_SLOWER = "the other call was quicker"
"""Why calls are cancelled, for whoever reads a trace."""


class _Over:
    """Whether a round is over, and why: the first word counts."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.why: str | None = None

    def say(self, why: str) -> None:
        self.why = self.why or why
        self._event.set()

    async def wait(self, clock: asyncio.Timeout, until: float) -> bool:
        """Wait until it is over, by the clock if nobody says so before. Whether `until` has passed then."""
        try:
            async with clock:
                await self._event.wait()
        except TimeoutError:
            late = asyncio.get_running_loop().time() >= until
            self.say(_LATE if late else _STRAGGLED)
            return late
        return False


@contextmanager
def _cancelling(tasks: Iterable[asyncio.Task[Any]]) -> Iterator[None]:
    """Whoever cancels the block cancels these for the same reason: a group would not tell them."""
    try:
        yield
    except asyncio.CancelledError as cancelled:
        for task in tasks:
            task.cancel(*cancelled.args)
        raise


def _quorum(results: Results, settings: Round, counts: Counts) -> bool:
    usable = sum(result is not None and counts(result) for result in results)
    return usable >= settings.min_successful_responses


def _ending(begun: bool, late: bool) -> State:
    if not begun:
        return "not_started"
    return "timed_out" if late else "cancelled"


@dataclass(frozen=True, slots=True)
class _Asking:
    """How one place in a team is asked: whom, after how long once more, and under which limit."""

    ask: Ask
    hedge_after: timedelta | None
    turn: asyncio.Semaphore

    async def hedged(self, draft: Draft) -> Result:
        """Ask; and once more if it takes long. The first usable answer wins, and the other call is cancelled."""
        if self.hedge_after is None:
            return await self.ask(draft)
        async with asyncio.TaskGroup() as group:
            running = {group.create_task(self.ask(draft))}
            with _cancelling(running):
                (first,) = running
                await asyncio.wait(running, timeout=self.hedge_after.total_seconds())
                if first.done():
                    return first.result()
                running.add(group.create_task(self._again(draft)))
                result = await _first_usable(running)
            for loser in running:
                loser.cancel(_SLOWER)
            return result

    async def _again(self, draft: Draft) -> Result:
        async with self.turn:
            return await self.ask(replace(draft, stands_in="hedge"))


async def _first_usable(running: set[asyncio.Task[Result]]) -> Result:
    """The first usable result, else the last one. What is over by then is taken out of `running`."""
    while True:
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        running -= done
        result = min((task.result() for task in done), key=lambda each: each.state != "ok")
        if result.state == "ok" or not running:
            return result


async def _ask_somebody(draft: Draft, asking: _Asking, spare: Sequence[Model]) -> Result:
    """The model that is meant, and if it fails its substitutes in turn: the first usable answer, else the last end."""
    result = await asking.hedged(draft)
    for model in spare:
        if result.state in ("ok", "cancelled") or _spent(result):
            break
        if model.name != draft.model.name:
            result = await asking.hedged(replace(draft.to(model), stands_in="substitute"))
    return result


def _spent(result: Result) -> bool:
    """Whether there is no use in asking anybody else: what failed is the budget."""
    return result.error is not None and result.error.failure is Failure.BUDGET
