"""Runs that wait for the client: what is kept of one, whose it is, and who may go on with it."""

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from decimal import Decimal
from typing import Any

import msgspec

from looper.calling.budget import Amount, Ledger
from looper.errors import (
    OTHER_VERSION,
    StateBusy,
    StateExpired,
    StateMismatch,
    StateOutdated,
    StateUnavailable,
)
from looper.patterns.workflows.pauses.ids import Forged, Ids, is_ours
from looper.patterns.workflows.pauses.state import Identity, StateSettings, Store
from looper.run import Deadline


class Origin(msgspec.Struct, frozen=True):
    """Where a run comes from: what must be the same when it goes on."""

    run: str
    model: str
    recipe: str
    decision: str
    identity: str | None
    """A digest: whose the run is."""
    span: str | None = None
    """As a traceparent: where it began, for traces of what goes on with it."""


class Spent(msgspec.Struct, frozen=True):
    """What a run has taken over its turns."""

    calls: int = 0
    tokens: int = 0
    microusd: str = "0"
    seconds: float = 0.0

    @property
    def amount(self) -> Amount:
        return Amount(self.calls, self.tokens, Decimal(self.microusd))

    def with_turn(self, amount: Amount, seconds: float) -> "Spent":
        """The same with what one more turn has taken."""
        all = self.amount + amount
        return Spent(all.calls, all.tokens, str(all.microusd), self.seconds + seconds)


class Paused(msgspec.Struct, frozen=True):
    """A run that waits: `calls` are the ids that the client has, `work` is the pattern's own."""

    origin: Origin
    spent: Spent
    calls: list[str]
    work: msgspec.Raw


_paused = msgspec.json.Decoder(Paused)


def _read(stored: bytes) -> Paused:
    """Raises StateOutdated for what another version of this program has kept, and this one cannot read."""
    try:
        return _paused.decode(stored)
    except msgspec.DecodeError:
        raise StateOutdated(OTHER_VERSION) from None


class States:
    """The paused runs of a process, or of all that share a store."""

    def __init__(
        self, settings: StateSettings, store: Store, keys: Sequence[bytes] | None = None
    ) -> None:
        self._settings = settings
        self._store = store
        self._ids = Ids(keys or [secrets.token_bytes(32)])
        self._at_work: set[str] = set()

    @property
    def identity(self) -> Identity | None:
        """What tells one client from another."""
        return self._settings.identity

    def pause(self, origin: Origin, before: Spent, ledger: Ledger, deadline: Deadline) -> "Pause":
        """The place where a run that begins, or goes on, may come to wait."""
        return Pause(self._store, self._ids, origin, before, ledger, deadline.now())

    async def find(self, ids: Sequence[str], model: str, owner: str | None) -> "Waiting":
        """The run that waits for just these calls. Raises StateMismatch and StateExpired."""
        state = self._state(ids)
        stored = await self._store.get(state)
        if stored is None:
            raise _expired()
        paused = _read(stored)
        if paused.origin.identity != owner or paused.origin.model != model:
            raise _mismatch()
        if sorted(ids) != sorted(paused.calls):
            raise _mismatch()
        return Waiting(state, stored, paused)

    def _state(self, ids: Sequence[str]) -> str:
        """The one state that all of these ids belong to."""
        if len(set(ids)) != len(ids):
            raise _mismatch()
        try:
            states = {self._ids.read(id) for id in ids}
        except Forged:
            raise _mismatch() from None
        if len(states) != 1:
            raise _mismatch()
        (state,) = states
        if state is None:
            raise _mismatch()
        return state

    async def hold(
        self,
        waiting: "Waiting",
        holder: str,
        work: Callable[[], Coroutine[Any, Any, None]],
        left: Callable[[], Spent | None],
    ) -> None:
        """Do some work while nobody else has the run.

        In the end the run can be had again, with what is `left` of it: what it has spent by then. None says that it has
        answered, or waits for other calls by now, and cannot be had again.
        A client that has its answer may be gone before the work has returned, which then is cancelled. Whoever has the
        name of a holder that has died takes its place. Raises StateBusy and StateExpired, and what the work raises.
        """
        with self._alone(waiting.state):
            await self._claim(waiting, holder)
            try:
                async with asyncio.TaskGroup() as group:
                    renewing = group.create_task(self._renew(waiting.state, holder))
                    await work()
                    renewing.cancel()
            except BaseExceptionGroup as failed:
                raise failed.exceptions[0] from None
            finally:
                await asyncio.shield(self._let_go(waiting, holder, left()))

    @contextmanager
    def _alone(self, state: str) -> Iterator[None]:
        """Raises StateBusy if this very process has the run, which it cannot have died with."""
        if state in self._at_work:
            raise self._held()
        self._at_work.add(state)
        try:
            yield
        finally:
            self._at_work.remove(state)

    async def _claim(self, waiting: "Waiting", holder: str) -> None:
        """Have the run as it was found. Raises StateExpired, and StateBusy if somebody has it or has had it since."""
        as_found = False
        try:
            claim = await self._store.claim(waiting.state, holder)
            now = await self._store.get(waiting.state) if claim == "held" else None
            as_found = now == waiting.stored
        finally:  # a store that was not heard to the end may have given it to us
            if not as_found:
                await asyncio.shield(self._give_back(waiting.state, holder))
        if claim == "busy":
            raise self._held()
        if now is None:
            raise _expired()
        if not as_found:  # a turn that failed in between was not free
            raise _busy(1)

    async def _give_back(self, state: str, holder: str) -> None:
        with suppress(StateUnavailable):  # then the lease ends by itself
            await self._store.release(state, holder)

    async def _renew(self, state: str, holder: str) -> None:
        """Claim it again and again. A lease is short, so that what a dead process held is free soon.

        Raises StateBusy if another one has it: whoever stood still for too long has lost it.
        """
        while True:
            await asyncio.sleep(self._settings.lease.total_seconds() / 3)
            with suppress(StateUnavailable):
                if await self._store.claim(state, holder) == "busy":
                    raise self._held()

    def _held(self) -> StateBusy:
        """Another one has the run: for no longer than a lease, if it is dead."""
        return _busy(round(self._settings.lease.total_seconds()))

    async def _let_go(self, waiting: "Waiting", holder: str, spent: Spent | None) -> None:
        with suppress(StateUnavailable):  # then its lease ends by itself
            if spent is None:
                await self._store.finish(waiting.state, holder)
            else:
                paused = msgspec.structs.replace(waiting.paused, spent=spent)
                await self._store.release(waiting.state, holder, msgspec.json.encode(paused))


class Waiting(msgspec.Struct, frozen=True):
    """A paused run that was found."""

    state: str
    stored: bytes
    paused: Paused


class Pause:
    """Where a run may come to wait: gives out the ids of its calls, and keeps what it needs to go on."""

    def __init__(
        self, store: Store, ids: Ids, origin: Origin, before: Spent, ledger: Ledger, began: float
    ) -> None:
        self._store = store
        self._ids = ids
        self._state = ids.state()
        self._origin = origin
        self._before = before
        self._ledger = ledger
        self._began = began
        self._calls: list[str] = []
        self.kept = False
        """Whether the run waits here now: its client may have heard of the calls."""

    def call(self) -> str:
        """An id for a call of a tool."""
        id = self._ids.make(self._state, len(self._calls))
        self._calls.append(id)
        return id

    @property
    def spent(self) -> Spent:
        """What the run has taken by now."""
        seconds = asyncio.get_running_loop().time() - self._began
        return self._before.with_turn(self._ledger.spent, seconds)

    async def keep(self, work: bytes) -> None:
        """Keep what the run needs to go on. Before that the client must not learn that it may."""
        paused = Paused(self._origin, self.spent, self._calls, msgspec.Raw(work))
        await self._store.put(self._state, msgspec.json.encode(paused))
        self.kept = True

    async def withdraw(self) -> None:
        """Have nobody go on from here: the client is told of an error, and can at most try its turn again."""
        holder = secrets.token_hex(16)
        with suppress(StateUnavailable):  # then it ends with its time
            if self.kept and await self._store.claim(self._state, holder) == "held":
                await self._store.finish(self._state, holder)


def digest(identity: str | None) -> str | None:
    """Enough of an identity to know it again."""
    return None if identity is None else hashlib.sha256(identity.encode()).hexdigest()


def answers_ours(ids: Sequence[str]) -> bool:
    """Whether any of these ids has the form of ours, so that they must all belong to one of our runs."""
    return any(map(is_ours, ids))


def _expired() -> StateExpired:
    return StateExpired("The run that these tools were called for is over or has expired.")


def _busy(seconds: int) -> StateBusy:
    text = "Another request is going on with this run."
    return StateBusy(text, retry_after=max(1, seconds))


def _mismatch() -> StateMismatch:
    return StateMismatch("These are not the answers of tools that a run of yours waits for.")
