import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from looper.admission import Admission
from looper.errors import Overloaded
from tests.fakes.clock import timeless


def gate(max_runs: int = 1, *, max_waiting: int = 100, patience: float = 100.0) -> Admission:
    return Admission(max_runs, max_waiting=max_waiting, patience=patience)


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Visitors:
    """Runs that come in, stay a while, and are remembered in the order in which they were let in."""

    gate: Admission
    entered: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    inside: int = 0
    most: int = 0

    async def visit(self, name: str, seconds: float = 1.0) -> None:
        """One run of the recipe that its name begins with."""
        try:
            async with self.gate.run(name[0]):
                self.entered.append(name)
                self.inside += 1
                self.most = max(self.most, self.inside)
                try:
                    await asyncio.sleep(seconds)
                finally:
                    self.inside -= 1
        except Overloaded:
            self.refused.append(name)

    async def all(self, names: Sequence[str], seconds: float = 1.0) -> None:
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(self.visit(name, seconds))

    async def proves_whole(self, max_runs: int) -> None:
        """Nothing was lost and nothing won: exactly so many may come in at once."""
        assert (self.gate.open, self.gate.waiting) == (0, 0)
        again = Visitors(self.gate)
        await again.all([f"z{number}" for number in range(2 * max_runs)])
        assert again.most == max_runs
        assert self.gate.open == 0


class TestLimit:
    @pytest.mark.parametrize("limit", [1, 2, 7])
    def test_never_more_than_max_runs(self, limit: int) -> None:
        """The limit holds at every moment, and is made use of."""

        @timeless
        async def test() -> None:
            visitors = Visitors(gate(limit))
            await visitors.all([f"a{number}" for number in range(20)])
            assert visitors.most == limit
            assert len(visitors.entered) == 20

        test()

    @timeless
    async def test_a_free_place_is_taken_without_waiting(self) -> None:
        """Below the limit nobody notices that there is one."""
        begun = now()
        async with gate().run("a"):
            assert now() == begun

    @timeless
    async def test_a_run_that_fails_frees_its_place(self) -> None:
        """However a run ends, the next one gets in."""
        entrance = gate()
        with pytest.raises(ZeroDivisionError):
            async with entrance.run("a"):
                raise ZeroDivisionError
        await Visitors(entrance).proves_whole(1)

    @timeless
    async def test_counts_what_is_open_and_what_waits(self) -> None:
        """Statistics read both."""
        visitors = Visitors(gate(2))
        async with asyncio.TaskGroup() as group:
            group.create_task(visitors.all(["a1", "a2", "a3", "b1", "b2"]))
            await asyncio.sleep(0.5)
            assert (visitors.gate.open, visitors.gate.waiting) == (2, 3)
        assert (visitors.gate.open, visitors.gate.waiting) == (0, 0)


class TestPatience:
    @timeless
    async def test_a_turn_that_does_not_come_in_time_is_refused(self) -> None:
        """Nobody waits longer than the patience, and then is told to come back."""
        entrance = gate(patience=3)
        async with entrance.run("a"):
            begun = now()
            with pytest.raises(Overloaded) as refused:
                async with entrance.run("b"):
                    pytest.fail("there was no room")
            assert now() == begun + 3
        assert (refused.value.retry_after, refused.value.retry) == (1, True)
        await Visitors(entrance).proves_whole(1)

    @timeless
    async def test_without_patience_nobody_waits(self) -> None:
        """Zero seconds are none."""
        entrance = gate(patience=0)
        async with entrance.run("a"):
            begun = now()
            with pytest.raises(Overloaded):
                async with entrance.run("b"):
                    pytest.fail("there was no room")
            assert now() == begun
        await Visitors(entrance).proves_whole(1)

    @timeless
    async def test_a_timeout_of_the_run_itself_stays_one(self) -> None:
        """What times out inside is no sign of overload."""
        with pytest.raises(TimeoutError):
            async with gate(patience=1).run("a"), asyncio.timeout(5):
                await asyncio.sleep(10)

    @timeless
    async def test_patience_ends_at_the_door(self) -> None:
        """Who is in may stay as long as it takes."""
        visitors = Visitors(gate(patience=2))
        await visitors.all(["a1", "a2"], seconds=1.5)
        assert visitors.entered == ["a1", "a2"]


class TestMaxWaiting:
    @timeless
    async def test_beyond_it_the_refusal_is_at_once(self) -> None:
        """A queue that is full is no place to wait in."""
        visitors = Visitors(gate(max_waiting=2))
        begun = now()
        async with asyncio.TaskGroup() as group:
            group.create_task(visitors.all(["a1", "a2", "b1", "b2", "c1"], seconds=5))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert visitors.refused == ["b2", "c1"]
            assert now() == begun
        assert visitors.entered == ["a1", "a2", "b1"]

    @timeless
    async def test_none_may_wait(self) -> None:
        """Without a queue it is in or out."""
        visitors = Visitors(gate(2, max_waiting=0))
        await visitors.all(["a1", "a2", "a3"])
        assert (visitors.entered, visitors.refused) == (["a1", "a2"], ["a3"])

    @timeless
    async def test_who_gave_up_no_longer_counts(self) -> None:
        """A place in the queue is free again when its owner has left."""
        visitors = Visitors(gate(max_waiting=1, patience=10))
        async with asyncio.TaskGroup() as group:
            group.create_task(visitors.visit("a1", 5))
            await asyncio.sleep(1)
            leaving = group.create_task(visitors.visit("a2"))
            await asyncio.sleep(1)
            leaving.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            group.create_task(visitors.visit("a3"))
        assert visitors.entered == ["a1", "a3"]


class TestFairness:
    @timeless
    async def test_within_a_recipe_the_first_to_come_is_the_first_in(self) -> None:
        """Nobody is overtaken by their own."""
        visitors = Visitors(gate())
        await visitors.all(["a1", "a2", "a3", "a4"])
        assert visitors.entered == ["a1", "a2", "a3", "a4"]

    @timeless
    async def test_recipes_take_turns(self) -> None:
        """A recipe with many requests does not keep one with few from its share."""
        visitors = Visitors(gate())
        await visitors.all(["a0", "a1", "a2", "a3", "a4", "b1", "b2", "c1"])
        assert visitors.entered == ["a0", "a1", "b1", "c1", "a2", "b2", "a3", "a4"]

    @timeless
    async def test_a_newcomer_waits_for_one_turn_of_each_other_recipe_at_most(self) -> None:
        """However long the other queues are."""
        visitors = Visitors(gate())
        async with asyncio.TaskGroup() as group:
            crowd = [f"{recipe}{number}" for recipe in "abc" for number in range(10)]
            group.create_task(visitors.all(crowd))
            await asyncio.sleep(4.5)
            before = len(visitors.entered)
            group.create_task(visitors.visit("n"))
        assert visitors.entered.index("n") - before <= 3

    @timeless
    async def test_nobody_gets_past_those_who_wait(self) -> None:
        """Who comes at the moment when a place becomes free still stands behind the queue."""
        visitors = Visitors(gate())

        async def latecomer() -> None:
            await asyncio.sleep(1)
            await visitors.visit("a3")

        async with asyncio.TaskGroup() as group:
            group.create_task(visitors.all(["a1", "a2"]))
            group.create_task(latecomer())
        assert visitors.entered == ["a1", "a2", "a3"]


class TestCancellation:
    @timeless
    async def test_who_leaves_the_queue_frees_nothing(self) -> None:
        """There was no place to give back."""
        visitors = Visitors(gate())
        async with asyncio.TaskGroup() as group:
            group.create_task(visitors.visit("a1", 5))
            await asyncio.sleep(1)
            waiting = group.create_task(visitors.visit("a2"))
            await asyncio.sleep(1)
            waiting.cancel()
            await asyncio.sleep(1)
            assert (visitors.gate.open, visitors.gate.waiting) == (1, 0)
        await visitors.proves_whole(1)

    @timeless
    async def test_a_run_that_is_cancelled_frees_its_place_once(self) -> None:
        """The next one comes in, and only one."""
        visitors = Visitors(gate())
        async with asyncio.TaskGroup() as group:
            running = group.create_task(visitors.visit("a1", 50))
            group.create_task(visitors.all(["a2", "a3"]))
            await asyncio.sleep(1)
            running.cancel()
        assert (visitors.entered, visitors.most) == (["a1", "a2", "a3"], 1)
        await visitors.proves_whole(1)

    @timeless
    async def test_a_turn_that_comes_too_late_to_be_taken_is_passed_on(self) -> None:
        """A place that is granted to one who is just leaving goes to the next."""
        entrance = gate()
        visitors = Visitors(entrance)
        async with asyncio.TaskGroup() as group:
            async with entrance.run("a"):
                leaving = group.create_task(visitors.visit("b1"))
                group.create_task(visitors.visit("c1"))
                await asyncio.sleep(1)
            leaving.cancel()  # in the same step in which its turn came
        assert visitors.entered == ["c1"]
        await visitors.proves_whole(1)

    @timeless
    async def test_leaving_first_and_then_being_granted_loses_nothing(self) -> None:
        """The same the other way round: who is leaving is not given a place."""
        entrance = gate()
        visitors = Visitors(entrance)
        async with asyncio.TaskGroup() as group, entrance.run("a"):
            leaving = group.create_task(visitors.visit("b1"))
            group.create_task(visitors.visit("c1"))
            await asyncio.sleep(1)
            leaving.cancel()
        assert visitors.entered == ["c1"]
        await visitors.proves_whole(1)

    @timeless
    async def test_patience_that_ends_as_the_turn_comes_loses_nothing(self) -> None:
        """At the same moment a place becomes free and whoever waits gives up."""
        visitors = Visitors(gate(patience=2))
        async with asyncio.TaskGroup() as group:
            group.create_task(visitors.visit("a1", 2))
            group.create_task(visitors.visit("b1", 2))
        assert len(visitors.entered) + len(visitors.refused) == 2
        await visitors.proves_whole(1)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    max_runs=st.integers(1, 4),
    max_waiting=st.integers(0, 6),
    patience=st.integers(0, 4),
)
def test_no_course_of_events_loses_or_wins_a_place(
    seed: int, max_runs: int, max_waiting: int, patience: int
) -> None:
    """Runs come, stay, give up, fail and are cancelled in any order; in the end every place is there, once."""

    @timeless
    async def test() -> None:
        random = Random(seed)
        visitors = Visitors(gate(max_runs, max_waiting=max_waiting, patience=patience))

        async def comes_and_goes(number: int) -> None:
            # Whole seconds, so that much of it happens at the same moment.
            await asyncio.sleep(random.randint(0, 6))
            name = f"{random.choice('abc')}{number}"
            async with asyncio.TaskGroup() as group:
                visit = group.create_task(visitors.visit(name, random.randint(0, 4)))
                if random.random() < 0.4:
                    await asyncio.sleep(random.randint(0, 5))
                    for _ in range(random.randint(0, 3)):
                        await asyncio.sleep(0)
                    visit.cancel()

        async with asyncio.TaskGroup() as group:
            for number in range(25):
                group.create_task(comes_and_goes(number))
        assert visitors.most <= max_runs
        assert (visitors.gate.open, visitors.gate.waiting) == (0, 0)
        patient = Visitors(visitors.gate)
        await patient.all([f"z{number}" for number in range(max_runs)], seconds=0)
        assert patient.most == max_runs
        assert patient.refused == []

    test()


class TestOtherLimits:
    @timeless
    async def test_more_let_in_those_who_wait(self) -> None:
        """Who waits does not wait for a run to end once there is room."""
        visitors = Visitors(gate(1))
        async with asyncio.TaskGroup() as group:
            group.create_task(visitors.all(["a1", "a2", "a3"], seconds=10))
            await asyncio.sleep(1)
            visitors.gate.resize(3, max_waiting=100, patience=100)
            await asyncio.sleep(1)
            assert visitors.inside == 3
        await visitors.proves_whole(3)

    @timeless
    async def test_fewer_let_nobody_in_until_enough_have_left(self) -> None:
        """Runs that are open go on; the next begins when fewer than allowed are left."""
        visitors = Visitors(gate(3))
        async with asyncio.TaskGroup() as group:
            for name, seconds in (("a1", 2.0), ("a2", 4.0), ("a3", 6.0), ("a4", 1.0)):
                group.create_task(visitors.visit(name, seconds))
            await asyncio.sleep(1)
            visitors.gate.resize(1, max_waiting=100, patience=100)
            await asyncio.sleep(4)
            assert visitors.entered == ["a1", "a2", "a3"]
        assert visitors.entered == ["a1", "a2", "a3", "a4"]
        await visitors.proves_whole(1)

    @timeless
    async def test_fewer_may_wait(self) -> None:
        """Nobody is sent away who waits already, and nobody more comes in."""
        visitors = Visitors(gate(1))
        async with asyncio.TaskGroup() as group:
            group.create_task(visitors.all(["a1", "a2"], seconds=10))
            await asyncio.sleep(1)
            visitors.gate.resize(1, max_waiting=0, patience=100)
            await visitors.visit("b1")
        assert (visitors.entered, visitors.refused) == (["a1", "a2"], ["b1"])
