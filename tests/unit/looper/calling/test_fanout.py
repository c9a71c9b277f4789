import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from looper.calling.calls import CallFailed, Failure, Result
from looper.calling.drafts import Draft
from looper.calling.fanout import Patience, Results, Round, fan_out, never
from tests.fakes.clock import timeless
from tests.fakes.models import completion, model

FOREVER = 10_000.0


def calls(count: int) -> list[Draft]:
    return [Draft(model(f"m{number}"), "panel", {}, 0) for number in range(count)]


@dataclass
class Models:
    """Answers each call after its model's number of seconds; a negative number is a failure after as many."""

    seconds: Mapping[str, float]
    started: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    most: int = 0

    async def ask(self, draft: Draft) -> Result:
        name = draft.model.name
        self.started.append(name)
        self.most = max(self.most, len(self.running))
        try:
            await asyncio.sleep(abs(self.seconds[name]))
        finally:
            self.ended.append(name)
        if self.seconds[name] < 0:
            return Result(draft.model, "panel", "failed", error=CallFailed(Failure.BROKEN))
        return Result(draft.model, "panel", "ok", completion(name))

    @property
    def running(self) -> list[str]:
        return [name for name in self.started if name not in self.ended]


def models(*seconds: float) -> Models:
    return Models({f"m{number}": each for number, each in enumerate(seconds)})


def now() -> float:
    return asyncio.get_running_loop().time()


def states(results: Sequence[Result]) -> list[str]:
    return [result.state for result in results]


async def asked_all(
    declared: Sequence[Draft],
    ask: Callable[[Draft], Coroutine[Any, Any, Result]],
    *,
    max_concurrent: int,
    until: float,
    on_error: Literal["skip", "fail"] = "skip",
    stop: Callable[[Results], bool] = never,
) -> list[Result]:
    """A fan-out, called in this one place."""
    settings = Round(max_concurrent=max_concurrent, on_error=on_error)
    return await fan_out(declared, ask, settings, {}, until=until, stop=stop)


def enough(count: int) -> Callable[[Results], bool]:
    return lambda results: sum(result is not None for result in results) >= count


class TestOrder:
    @timeless
    async def test_results_come_in_the_order_of_the_calls(self) -> None:
        """Whoever answers first, results stand as the calls were declared."""
        asked = models(3, 1, 2)
        results = await asked_all(calls(3), asked.ask, max_concurrent=3, until=FOREVER)
        assert [result.text for result in results] == ["m0", "m1", "m2"]
        assert asked.ended == ["m1", "m2", "m0"]

    @timeless
    async def test_calls_start_in_their_order(self) -> None:
        """Where not all can start at once, those declared first do."""
        asked = models(5, 1, 1, 1)
        await asked_all(calls(4), asked.ask, max_concurrent=2, until=FOREVER)
        assert asked.started == ["m0", "m1", "m2", "m3"]

    @timeless
    async def test_each_result_is_of_its_call(self) -> None:
        """A result that was made up for a call that did not end names that call as well."""
        declared = calls(3)
        results = await asked_all(
            declared, models(1, 99, 99).ask, max_concurrent=2, until=now() + 5
        )
        assert [result.model for result in results] == [draft.model for draft in declared]

    @timeless
    async def test_no_calls_give_no_results_at_once(self) -> None:
        """Nothing to wait for is not waited for."""
        begun = now()
        assert await asked_all([], models().ask, max_concurrent=3, until=begun + 50) == []
        assert now() == begun


@pytest.mark.parametrize(
    ("seconds", "states_", "ended", "used"),
    [
        pytest.param((3, 7, 8), ["ok", "timed_out", "timed_out"], 5, False, id="somebody-was-in-time"),
        pytest.param((7, 8, 99), ["ok", "timed_out", "timed_out"], 7, True, id="the-first-one-late"),
        pytest.param((-2, 7, 8), ["failed", "ok", "timed_out"], 7, True, id="a-failure-is-no-answer"),
        pytest.param((99, -6, 8), ["timed_out", "failed", "ok"], 8, True, id="nor-a-late-one"),
        pytest.param((50, 60, 70), ["timed_out"] * 3, 9, True, id="nobody"),
        pytest.param((-1, -2, -3), ["failed"] * 3, 3, False, id="nobody-is-left"),
    ],
)  # fmt: skip
def test_a_round_in_which_nobody_has_answered_goes_on(
    seconds: tuple[float, ...], states_: list[str], ended: float, used: bool
) -> None:
    """Whoever comes behind it has nothing to do without an answer; the first one ends it."""

    @timeless
    async def test() -> None:
        begun, patience = now(), Patience(now() + 9)
        results = await fan_out(
            calls(3), models(*seconds).ask, Round(), {}, until=begun + 5, patience=patience
        )
        assert (states(results), now() - begun) == (states_, ended)
        assert patience.used is used

    test()


class TestConcurrency:
    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
    def test_never_more_than_max_concurrent(self, limit: int) -> None:
        """The limit holds at every moment, and is made use of."""

        @timeless
        async def test() -> None:
            asked = models(3, 1, 2, 2, 1, 3, 1)
            await asked_all(calls(7), asked.ask, max_concurrent=limit, until=FOREVER)
            assert asked.most == min(limit, 7)

        test()

    @timeless
    async def test_the_next_starts_when_one_has_ended(self) -> None:
        """A free place is taken at once: three calls of one second take two, two at a time."""
        begun = now()
        await asked_all(calls(3), models(1, 1, 1).ask, max_concurrent=2, until=FOREVER)
        assert now() - begun == pytest.approx(2)


class TestStop:
    @timeless
    async def test_ends_as_soon_as_there_is_enough(self) -> None:
        """What still runs is cancelled before the results are returned."""
        asked, begun = models(1, 2, 50), now()
        results = await asked_all(
            calls(3), asked.ask, max_concurrent=3, until=FOREVER, stop=enough(2)
        )
        assert states(results) == ["ok", "ok", "cancelled"]
        assert now() - begun == pytest.approx(2)
        assert asked.running == []

    @pytest.mark.parametrize(
        ("limit", "started", "ended"),
        [
            pytest.param(1, ["m0"], ["ok", "not_started", "not_started"], id="one-at-a-time"),
            pytest.param(2, ["m0", "m1"], ["ok", "cancelled", "not_started"], id="two-at-a-time"),
        ],
    )
    def test_what_waits_its_turn_never_starts(
        self, limit: int, started: list[str], ended: list[str]
    ) -> None:
        """The place that becomes free with the last answer needed is not given to the next call."""

        @timeless
        async def test() -> None:
            asked = models(1, 9, 9)
            results = await asked_all(
                calls(3), asked.ask, max_concurrent=limit, until=FOREVER, stop=enough(1)
            )
            assert asked.started == started
            assert states(results) == ended

        test()

    @timeless
    async def test_is_told_of_all_that_has_arrived(self) -> None:
        """The predicate sees a place for each call, filled as answers come, failures included."""
        seen: list[list[str | None]] = []

        def look(results: Results) -> bool:
            seen.append([result.state if result else None for result in results])
            return False

        await asked_all(calls(3), models(2, -1, 3).ask, max_concurrent=3, until=FOREVER, stop=look)
        assert seen[:2] == [[None, "failed", None], ["ok", "failed", None]]

    @timeless
    async def test_by_default_every_call_is_waited_for(self) -> None:
        """Without a predicate nothing is cut short."""
        results = await asked_all(calls(2), models(1, 50).ask, max_concurrent=2, until=FOREVER)
        assert states(results) == ["ok", "ok"]


class TestOnError:
    @timeless
    async def test_skip_goes_on_without_the_one_that_failed(self) -> None:
        """A failure is a result like any other."""
        results = await asked_all(calls(3), models(-1, 2, 3).ask, max_concurrent=3, until=FOREVER)
        assert states(results) == ["failed", "ok", "ok"]

    @timeless
    async def test_fail_ends_at_the_first_failure(self) -> None:
        """What runs is cancelled; what had ended before stays."""
        asked = models(1, -2, 50)
        results = await asked_all(
            calls(3), asked.ask, max_concurrent=3, until=FOREVER, on_error="fail"
        )
        assert states(results) == ["ok", "failed", "cancelled"]
        assert asked.running == []

    @timeless
    async def test_fail_starts_nothing_more(self) -> None:
        """The place of the one that failed is not given to the next call."""
        asked = models(-1, 5, 5)
        results = await asked_all(
            calls(3), asked.ask, max_concurrent=1, until=FOREVER, on_error="fail"
        )
        assert asked.started == ["m0"]
        assert states(results) == ["failed", "not_started", "not_started"]

    @timeless
    async def test_fail_does_nothing_while_all_goes_well(self) -> None:
        """Where no call fails, both settings are the same."""
        results = await asked_all(
            calls(3), models(1, 2, 3).ask, max_concurrent=2, until=FOREVER, on_error="fail"
        )
        assert states(results) == ["ok", "ok", "ok"]


class TestUntil:
    @timeless
    async def test_what_is_late_has_timed_out(self) -> None:
        """At the given moment it is over; what has arrived by then counts."""
        asked, begun = models(1, 50, 60), now()
        results = await asked_all(calls(3), asked.ask, max_concurrent=2, until=begun + 5)
        assert states(results) == ["ok", "timed_out", "timed_out"]
        assert now() - begun == pytest.approx(5)
        assert asked.running == []

    @timeless
    async def test_what_waited_its_turn_was_not_started(self) -> None:
        """A call that never began has not timed out."""
        asked = models(50, 1)
        results = await asked_all(calls(2), asked.ask, max_concurrent=1, until=now() + 5)
        assert states(results) == ["timed_out", "not_started"]
        assert asked.started == ["m0"]

    @timeless
    async def test_a_moment_that_has_passed_starts_nothing(self) -> None:
        """Without any time there is no call that could end in it, so none is paid for."""
        asked = models(1, 1)
        results = await asked_all(calls(2), asked.ask, max_concurrent=2, until=now() - 1)
        assert asked.started == []
        assert states(results) == ["not_started", "not_started"]

    @timeless
    async def test_answers_in_the_moment_in_which_the_clock_strikes(self) -> None:
        """Those that straggle until just then come as they come: each counts or is cancelled, and nothing breaks."""

        async def ask(draft: Draft) -> Result:
            await asyncio.sleep(1)
            for _ in range(int(draft.model.name[1:])):
                await asyncio.sleep(0)  # one turn of the loop later than the one before
            return Result(draft.model, draft.role, "ok", completion("said"))

        round_ = Round(max_concurrent=8, straggler_factor=1)
        results = await fan_out(calls(8), ask, round_, {}, until=FOREVER)
        assert states(results)[0] == "ok"
        assert set(states(results)) <= {"ok", "cancelled"}


class TestCancellation:
    @timeless
    async def test_from_outside_ends_everything(self) -> None:
        """Who cancels the fan-out finds nothing of it running, and nothing new begun."""
        asked = models(50, 50, 50)
        before = asyncio.all_tasks()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(
                asked_all(calls(3), asked.ask, max_concurrent=2, until=FOREVER)
            )
            await asyncio.sleep(1)
            task.cancel()
        assert task.cancelled()
        assert asked.started == ["m0", "m1"]
        assert asked.running == []
        assert asyncio.all_tasks() == before

    @timeless
    async def test_from_outside_is_not_taken_for_being_late(self) -> None:
        """A cancellation passes through even at the moment at which time is up."""
        asked = models(50)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(
                asked_all(calls(1), asked.ask, max_concurrent=1, until=now() + 5)
            )
            asyncio.get_running_loop().call_at(now() + 5, task.cancel)
        assert task.cancelled() or states(task.result()) == ["timed_out"]
        assert asked.running == []

    @timeless
    async def test_a_mistake_in_one_call_ends_the_others(self) -> None:
        """What is no result but an exception is raised, and leaves nothing running."""
        asked = models(50, 50)

        async def ask(draft: Draft) -> Result:
            if draft.model.name == "m1":
                await asyncio.sleep(1)
                raise ZeroDivisionError
            return await asked.ask(draft)

        with pytest.raises(ExceptionGroup) as caught:
            await asked_all(calls(2), ask, max_concurrent=2, until=FOREVER)
        assert caught.group_contains(ZeroDivisionError)
        assert asked.running == []


@settings(deadline=None, max_examples=100)
@given(
    seconds=st.lists(st.integers(-6, 6).filter(bool), min_size=1, max_size=6),
    limit=st.integers(1, 4),
    needed=st.integers(1, 6),
    time=st.integers(1, 12),
    fail=st.booleans(),
)
def test_whatever_happens(
    seconds: list[int], limit: int, needed: int, time: int, fail: bool
) -> None:
    """One result per call, never too many at once, nothing left running, and each state true of its call."""

    @timeless
    async def test() -> None:
        asked, begun = models(*seconds), now()
        before = asyncio.all_tasks()
        results = await asked_all(
            calls(len(seconds)),
            asked.ask,
            max_concurrent=limit,
            until=begun + time + 0.5,
            on_error="fail" if fail else "skip",
            stop=enough(needed),
        )
        assert [result.model.name for result in results] == [*asked.seconds]
        assert asked.most <= limit
        assert asked.running == []
        assert asyncio.all_tasks() == before
        assert now() <= begun + time + 0.5
        for result, wanted in zip(results, seconds, strict=True):
            name = result.model.name
            assert (name not in asked.started) == (result.state == "not_started")
            assert result.state != "ok" or wanted > 0
            assert result.state != "failed" or wanted < 0
        assert not {"timed_out", "cancelled"} <= set(states(results))

    test()


class TestStragglers:
    async def states_after(self, *seconds: float, **settings: Any) -> tuple[list[str], float]:
        began = now()
        results = await fan_out(
            calls(len(seconds)), models(*seconds).ask, Round(**settings), {}, until=FOREVER
        )
        return states(results), round(now() - began, 3)

    @timeless
    async def test_who_takes_far_longer_than_the_quorum_is_cancelled(self) -> None:
        """With a quorum after two seconds and a factor of 1.5, the rest have one second more."""
        ended = await self.states_after(
            1, 2, 2.5, 20, min_successful_responses=2, straggler_factor=1.5
        )
        assert ended == (["ok", "ok", "ok", "cancelled"], 3)

    @pytest.mark.parametrize("factor", [1, 1.5, 4])
    def test_nothing_that_waits_its_turn_starts_behind_the_quorum(self, factor: float) -> None:
        """However long the others may straggle."""

        @timeless
        async def test() -> None:
            asked = models(1, 2, 2.5, 20, 1)
            settings = Round(max_concurrent=4, min_successful_responses=2, straggler_factor=factor)
            # The first answer makes room for the fifth call; the quorum that it is here does not.
            alone = settings.model_copy(update={"min_successful_responses": 1})
            for each, started in ((settings, 5), (alone, 4)):
                asked.started.clear()
                asked.ended.clear()
                await fan_out(calls(5), asked.ask, each, {}, until=FOREVER)
                assert len(asked.started) == started
                assert asked.running == []

        test()

    @timeless
    async def test_a_round_without_stragglers_ends_though_some_never_started(self) -> None:
        """Those who were under way are all there, and nobody waits for those who are not to begin."""
        ended = await self.states_after(1, 2, 9, max_concurrent=2, straggler_factor=3)
        assert ended == (["ok", "ok", "not_started"], 2)

    @timeless
    async def test_without_a_quorum_everybody_is_waited_for(self) -> None:
        """As long as too few have answered, nobody is a straggler."""
        ended = await self.states_after(1, -2, 30, min_successful_responses=2, straggler_factor=1.5)
        assert ended == (["ok", "failed", "ok"], 30)

    @timeless
    async def test_without_a_factor_the_round_waits(self) -> None:
        """Nobody is given up on by default."""
        assert await self.states_after(1, 30) == (["ok", "ok"], 30)
