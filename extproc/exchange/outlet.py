"""The one way out to Envoy: actions, one after the other and each of them whole, whoever is cancelled meanwhile."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

from extproc.errors import Abandoned
from extproc.exchange.channel import Channel
from extproc.protocol.actions import (
    Action,
    CloseStream,
    PassBody,
    PassTrailers,
    Respond,
    Rewrite,
)

OVERDUE = 2.0
"""Seconds after a run's deadline within which its end has to be handed to the transport."""
_ABORTING = 2.0
"""Seconds to wait for an abort, which stands behind whatever flow control holds."""


class _Turn(NamedTuple):
    """What is said in one go, and whoever waits until it has been said."""

    actions: tuple[Action, ...]
    said: asyncio.Future[None]

    def over(self) -> None:
        if not self.said.done():  # whoever waited may have been cancelled
            self.said.set_result(None)

    def give_up(self) -> None:
        self.said.cancel()


class Outlet:
    """All that an exchange says to Envoy, while the context is open.

    At first the exchange's own task is the only one that speaks, and it writes by itself. From `begin` on a run speaks,
    in several tasks that a deadline or a round may cancel at any moment. Then one task that ends only with the stream
    writes what is handed to `send`: it is taken at once, and whoever waits until it is written may be cancelled
    without harm. An end is taken once, and nothing after it. If it cannot be written, or if it is not there
    in time, the stream is aborted: the client sees a broken answer, never silence.
    """

    def __init__(self, channel: Channel, broken_off: Callable[[str], None]) -> None:
        """`broken_off` is told why, before anything that the exchange does is cancelled."""
        self._channel = channel
        self._broken_off = broken_off
        self._group = asyncio.TaskGroup()
        self._turns: asyncio.Queue[_Turn] = asyncio.Queue()
        self._turn: _Turn | None = None
        self._writer: asyncio.Task[None] | None = None
        self.closed = False
        """Whether an answer's end has been taken."""
        self.handed = False
        """Whether the end of what we have to say has been handed to the transport: an answer's, or a request's."""
        self.aborted = False

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.cancel()
        try:
            await self._group.__aexit__(kind, error, trace)
        except BaseExceptionGroup as failed:
            # What happened, without the group that the task put around it.
            raise failed.exceptions[0] from None

    async def begin(self, due: float) -> None:
        """Have Envoy never replay this exchange, and anybody speak from now on. At the latest its end is `due` then."""
        self._writer = self._group.create_task(self._write(due))
        await self._wait_for(())

    async def send(self, *actions: Action) -> None:
        """Say this in one go, after all that was to be said before. Returns when it has been said."""
        if self.closed or not actions:
            return
        self.closed = isinstance(actions[-1], Respond | CloseStream)
        if self._writer is None:
            for action in actions:
                await self._hand(action)
        else:
            await self._wait_for(actions)

    async def _wait_for(self, actions: tuple[Action, ...]) -> None:
        if self._writer is not None and self._writer.done():
            raise asyncio.CancelledError  # as whoever speaks was, and has gone on all the same
        turn = _Turn(actions, asyncio.get_running_loop().create_future())
        self._turns.put_nowait(turn)
        await turn.said

    async def _write(self, due: float) -> None:
        """Write what is handed over, until the end. Raises Abandoned if that does not come, or what a write raises."""
        try:
            async with asyncio.timeout_at(due) as patience:
                await self._channel.begin()
                while not self.handed:
                    await self._take_turn(patience)
        except Exception:
            if patience.expired():
                await self.abort("The answer had no end when it was due.")
                raise Abandoned from None
            await self.abort("The answer could not be written.")
            raise
        finally:
            self._give_up()

    def _give_up(self) -> None:
        """Nothing more is written: have nobody wait for it."""
        if self._turn is not None:
            self._turn.give_up()
        while not self._turns.empty():
            self._turns.get_nowait().give_up()

    async def _take_turn(self, patience: asyncio.Timeout) -> None:
        self._turn = turn = await self._turns.get()
        for action in turn.actions:
            if _is_last(action):
                patience.reschedule(None)  # a client may be slow to read what is there
            await self._hand(action)
        turn.over()

    async def _hand(self, action: Action) -> None:
        """Once the transport has begun with it, Envoy may close before we hear that it is done."""
        ends = _is_last(action)
        self.handed |= ends
        try:
            await self._channel.send(action)
        except Exception:
            if ends:
                self.handed = False
            raise

    async def abort(self, why: str) -> None:
        """Break the stream off, if it is still there. Waits for that, but not for long."""
        if self.aborted:
            return
        try:
            async with asyncio.timeout(_ABORTING):
                await self._channel.abort(why)
        except Abandoned:
            return
        except TimeoutError:
            pass  # it follows when flow control lets go, or never has to
        self.aborted = True
        self._broken_off(why)


def _is_last(action: Action) -> bool:
    """Whether there is nothing more to say then, but about what a backend answers."""
    match action:
        case CloseStream() | Respond() | Rewrite() | PassTrailers():
            return True
        case PassBody():
            return action.end_of_stream
        case _:
            return False
