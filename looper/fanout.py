"""Several calls at once: the one way in which any pattern asks more than one model."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

from looper.calls import Call, Result

Ask = Callable[[Call], Awaitable[Result]]
Results = Sequence[Result | None]


def never(results: Results) -> bool:
    """The `stop` predicate that waits for every call."""
    return False


async def fan_out(
    calls: Sequence[Call],
    ask: Ask,
    *,
    max_concurrent: int,
    until: float,
    on_error: Literal["skip", "fail"] = "skip",
    stop: Callable[[Results], bool] = never,
) -> list[Result]:
    """Ask all, at most `max_concurrent` at a time, and return one result for each call, in the order of `calls`.

    It is over when every call is, when `stop` says of what has arrived that it is enough, at the first failure if
    `on_error` is `fail`, or at `until` (in the loop's time). What still runs then is cancelled before this returns,
    and what waits its turn never starts.
    """
    results: list[Result | None] = [None] * len(calls)
    started = [False] * len(calls)
    over = asyncio.Event()
    turn = asyncio.Semaphore(max_concurrent)

    async def work(index: int) -> None:
        async with turn:
            if over.is_set():  # the one before us ended it all
                return
            started[index] = True
            result = results[index] = await ask(calls[index])
            failed = on_error == "fail" and result.state != "ok"
            if failed or None not in results or stop(results):
                over.set()

    late = asyncio.get_running_loop().time() >= until
    if calls and not late:
        try:
            async with asyncio.timeout_at(until), asyncio.TaskGroup() as group:
                tasks = [group.create_task(work(index)) for index in range(len(calls))]
                await over.wait()
                for task in tasks:
                    task.cancel()
        except TimeoutError:
            late = True
    return [
        result or Result(call, _ending(begun, late))
        for call, result, begun in zip(calls, results, started, strict=True)
    ]


def _ending(begun: bool, late: bool) -> Literal["not_started", "timed_out", "cancelled"]:
    if not begun:
        return "not_started"
    return "timed_out" if late else "cancelled"
