"""An event loop whose clock jumps to the next timer, for work that only waits: recorded hours take moments."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
A = TypeVarTuple("A")


class _Selector(selectors.SelectSelector):
    """Never waits: the time that it should have waited has passed at once."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits for something that cannot come any more")
        self.now += timeout
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that lives in its selector's time."""

    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*A], T], *args: *A
    ) -> asyncio.Future[T]:
        """At once: a thread works in real time, which does not pass here."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, in time that passes only while everything waits."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(work)
