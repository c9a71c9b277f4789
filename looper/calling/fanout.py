"""Several calls at once: the one way in which any pattern asks more than one model."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
        default="skip",
        description="fail: the first member that fails, its substitutes too, fails the request",
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

    def idle(self, calls: int) -> Iterator[str]:
        """The settings that do nothing in rounds of at most so many calls, each with the reason behind a colon."""
        given = self.model_fields_set
        if "below_quorum" in given and self.min_successful_responses == 1:
            yield "below_quorum: does nothing: one answer is enough, and without any the request fails anyway"
        if self.straggler_factor is not None and self.min_successful_responses >= calls:
            yield "straggler_factor: does nothing: nobody is left behind `min_successful_responses`"
        hedge, timeout = self.hedge_after, self.round_timeout
        if hedge is not None and timeout is not None and hedge >= timeout:
            yield "hedge_after: does nothing: the round is over by then, by `round_timeout`"

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
            yield replace(call, need=need, stands_in=True)
        for name in self.substitutes:
            for _ in range(again):
                yield replace(call, models=(name,), need=need, stands_in=True)


@dataclass(slots=True)
class Patience:
    """How long a round may go on in which nobody has answered when its time is up, and whether it has: the first answer
    ends it then. That is the time of the stages behind it, which have nothing to do as long as there is no answer.
    """

    until: float
    used: bool = False


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
    patience: Patience | None = None,
) -> list[Result]:
    """Ask all, at most `max_concurrent` at a time, and return one result for each draft, in the order of `drafts`.

    It is over when every call is, when `stop` says of what has arrived that it is enough, when those that are left
    straggle, at the first failure if `on_error` is `fail`, or at `until` (in the loop's time). What still runs then is
    cancelled before this returns, and what waits its turn never starts; nor does it behind the quorum, where others
    may straggle. With `patience` a round in which nobody has answered at `until` goes on.
    """
    spare = [models[name] for name in settings.substitutes]
    asked = _UnderWay(drafts, settings, until, stop, counts, patience)
    if drafts and asked.began < until:
        await asked.ask_all(_Asking(ask, settings, asked.closed, spare))
    late = is_late(until)
    return [
        result or Result(draft.model, draft.role, _ending(begun, late))
        for draft, result, begun in zip(drafts, asked.results, asked.started, strict=True)
    ]


class _UnderWay:
    """A round while it goes on: what has come, and whether anything more may begin."""

    def __init__(
        self,
        drafts: Sequence[Draft],
        settings: Round,
        until: float,
        stop: Stop,
        counts: Counts,
        patience: Patience | None,
    ) -> None:
        self._patience = patience
        self._drafts = drafts
        self._settings = settings
        self._until = until
        self._stop = stop
        self._counts = counts
        self._now = asyncio.get_running_loop().time
        self._clock = asyncio.timeout_at(until)
        self._waiting = set(range(len(drafts)))
        self._over = _Over()
        self.began = self._now()
        self.closed = asyncio.Event()
        self.results: list[Result | None] = [None] * len(drafts)
        self.started = [False] * len(drafts)

    async def ask_all(self, asking: "_Asking") -> None:
        async with asyncio.TaskGroup() as group:
            numbers = range(len(self._drafts))
            tasks = [group.create_task(self._work(index, asking)) for index in numbers]
            with _cancelling(tasks):
                await self._wait()
            self.closed.set()
            for task in tasks:
                task.cancel(self._over.why)

    async def _wait(self) -> None:
        """Until it is over, by the clock if nobody says so before."""
        if await self._over.within(self._clock):
            return
        late, patience = is_late(self._until), self._patience
        if late and patience is not None and not self._anybody_has_answered():
            patience.used = True
            if await self._over.within(asyncio.timeout_at(patience.until)):
                return
        self._over.say(LATE if late else _STRAGGLED)

    def _anybody_has_answered(self) -> bool:
        return any(result is not None and is_usable(result) for result in self.results)

    async def _work(self, index: int, asking: "_Asking") -> None:
        waits = asking.turn.locked()
        async with asking.turn:
            if not self.closed.is_set():  # the one before us may have ended it all
                # Who begins shares what the budget has with those who have not.
                among = self.started.count(False)
                queued = self._now() - self.began if waits else 0.0
                draft = replace(self._drafts[index], among=among, queued=queued)
                self.started[index] = True
                result = self.results[index] = await asking.somebody(draft)
                self._look_at(result)
        self._waiting.discard(index)
        if not self._waiting:
            self._over.say(_ENOUGH)

    def _look_at(self, latest: Result) -> None:
        if self._settings.on_error == "fail" and is_failure(latest):
            self._end(_FAILED)
        elif self._patience is not None and self._patience.used and is_usable(latest):
            self._end(LATE)
        elif None not in self.results:
            pass  # nothing is left to be stopped
        elif self._stop(self.results):
            self._end(_ENOUGH)
        elif self._settings.straggler_factor and self._has_quorum():
            self.closed.set()
            # How long the quorum took is the measure for the rest.
            patience = (self._now() - self.began) * self._settings.straggler_factor
            ends = min(self._until, self.began + patience, self._clock.when() or self._until)
            # An answer may come in the very moment in which the clock has struck: then nothing is left to be set.
            if self._over.why is None and not self._clock.expired():
                self._clock.reschedule(ends)

    def _end(self, why: str) -> None:
        self.closed.set()
        self._over.say(why)

    def _has_quorum(self) -> bool:
        usable = sum(result is not None and self._counts(result) for result in self.results)
        return usable >= self._settings.min_successful_responses


_ENOUGH, _FAILED = "enough was said", "another call failed"
LATE, _STRAGGLED = "time was up", "the others did not wait"
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

    async def within(self, clock: asyncio.Timeout) -> bool:
        """Whether somebody says so before the clock strikes."""
        try:
            async with clock:
                await self._event.wait()
        except TimeoutError:
            pass
        return self.why is not None


@contextmanager
def _cancelling(tasks: Iterable[asyncio.Task[Any]]) -> Iterator[None]:
    """Whoever cancels the block cancels these for the same reason: a group would not tell them."""
    try:
        yield
    except asyncio.CancelledError as cancelled:
        for task in tasks:
            task.cancel(*cancelled.args)
        raise


_MOMENT = 0.01
"""Seconds by which clocks may differ: Envoy's, which ends a call, and ours, which ends its round."""


def is_late(until: float) -> bool:
    """Whether what ends now does so because its time is over, in the loop's time."""
    return asyncio.get_running_loop().time() >= until - _MOMENT


def is_lost(result: Result) -> bool:
    """Whether somebody's word is missing: who failed or refused, could not take the request or not be paid, and was not
    replaced. Who was cancelled or never started because enough had been said is not missing.
    """
    refuses = result.message is not None and bool(result.message.refusal)
    return result.error is not None or result.state == "timed_out" or refuses


def is_failure(result: Result) -> bool:
    """Whether somebody was asked and did not answer, or could not be paid. Who cannot take the request is not asked,
    and who is cancelled has not failed.
    """
    if result.state == "not_started":
        return result.error is not None and result.error.failure is not Failure.UNSUITABLE
    return result.state in ("failed", "timed_out", "unusable")


def _ending(begun: bool, late: bool) -> State:
    if not begun:
        return "not_started"
    return "timed_out" if late else "cancelled"


class _Asking:
    """How one place in a team is asked: whom, after how long once more, and whom else if that is in vain."""

    def __init__(
        self, ask: Ask, settings: Round, closed: asyncio.Event, spare: Sequence[Model]
    ) -> None:
        self._ask = ask
        self._hedge_after = settings.hedge_after
        self._closed = closed
        self._spare = spare
        self.turn = asyncio.Semaphore(settings.max_concurrent)

    async def somebody(self, draft: Draft) -> Result:
        """The model that is meant, and if it fails its substitutes in turn: the first usable answer, else the last
        end.
        """
        result = await self._hedged(draft)
        for model in self._spare:
            if result.state in ("ok", "cancelled") or _spent(result):
                break
            if model.name != draft.model.name:
                result = await self._hedged(replace(draft.to(model), stands_in="substitute"))
        return result

    async def _hedged(self, draft: Draft) -> Result:
        """Ask; and once more if it takes long. The first usable answer wins, and the other call is cancelled."""
        if self._hedge_after is None:
            return await self._ask(draft)
        async with asyncio.TaskGroup() as group:
            running = {group.create_task(self._ask(draft))}
            with _cancelling(running):
                (first,) = running
                await asyncio.wait(running, timeout=self._hedge_after.total_seconds())
                if first.done():
                    return first.result()
                running.add(group.create_task(self._again(draft, first)))
                result = await _first_usable(running)
            for loser in running:
                loser.cancel(_SLOWER)
            return result

    async def _again(self, draft: Draft, first: asyncio.Task[Result]) -> Result:
        """The second call when its turn comes, unless by then nothing starts any more."""
        async with self.turn:
            if not self._closed.is_set():
                return await self._ask(replace(draft, stands_in="hedge"))
        return await first


async def _first_usable(running: set[asyncio.Task[Result]]) -> Result:
    """The first usable result, else the last one. What is over by then is taken out of `running`."""
    while True:
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        running -= done
        result = min((task.result() for task in done), key=lambda each: each.state != "ok")
        if result.state == "ok" or not running:
            return result


def _spent(result: Result) -> bool:
    """Whether there is no use in asking anybody else: what failed is the budget, and not for a model's own price."""
    error = result.error
    return error is not None and error.failure is Failure.BUDGET and error.reason != "cost_usd"
