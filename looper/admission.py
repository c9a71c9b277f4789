"""How many runs a process has open at once, and whose turn it is when there are more."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from looper.errors import Overloaded


class Admission:
    """Lets `max_runs` runs go on at once. The next wait, a moment at most, and are let in by turns of their recipes.

    One recipe with many requests cannot keep another from its share: each time a run ends, the recipe whose last
    turn is longest ago comes next, with its oldest request.
    """

    def __init__(self, max_runs: int, *, max_waiting: int, patience: float) -> None:
        self._max_runs = max_runs
        self._free = max_runs  # less than none, if fewer are allowed than are open
        self._max_waiting = max_waiting
        self._patience = patience
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}
        self.open = 0

    def resize(self, max_runs: int, *, max_waiting: int, patience: float) -> None:
        """Other limits from now on. Runs that are open go on, and who waits keeps his place and his patience."""
        self._free += max_runs - self._max_runs
        self._max_runs = max_runs
        self._max_waiting = max_waiting
        self._patience = patience
        self._call_up()

    @property
    def waiting(self) -> int:
        return sum(map(len, self._queues.values()))

    @asynccontextmanager
    async def run(self, recipe: str) -> AsyncIterator[None]:
        """One run, from here to the end of the block. Raises Overloaded if its turn does not come."""
        await self._enter(recipe)
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1
            self._leave()

    async def _enter(self, recipe: str) -> None:
        if self._free > 0:
            self._free -= 1
            return
        if self.waiting >= self._max_waiting:
            raise overloaded()
        turn = asyncio.get_running_loop().create_future()
        self._queues.setdefault(recipe, deque()).append(turn)
        try:
            async with asyncio.timeout(self._patience):
                await turn
        except BaseException as error:
            self._give_up(recipe, turn)
            if isinstance(error, TimeoutError):
                raise overloaded() from None
            raise

    def _give_up(self, recipe: str, turn: asyncio.Future[None]) -> None:
        if turn.done() and not turn.cancelled():  # its turn came, just too late to be taken
            self._leave()
            return
        queue = self._queues.get(recipe)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._queues[recipe]

    def _leave(self) -> None:
        self._free += 1
        self._call_up()

    def _call_up(self) -> None:
        while self._free > 0 and self._queues:
            recipe = next(iter(self._queues))
            queue = self._queues.pop(recipe)
            turn = queue.popleft()
            if queue:
                self._queues[recipe] = queue  # behind the others: its turn comes after theirs
            if not turn.done():
                turn.set_result(None)
                self._free -= 1


def overloaded() -> Overloaded:
    return Overloaded("Too many requests are being answered by teams of models.", retry_after=1)
