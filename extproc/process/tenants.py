"""What each tenant may spend in a stretch of time, and what it has spent: by this process, or by all of them."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from looper.calling.budget import NOTHING, Amount, Ceiling, Limits
from looper.errors import TenantLimitReached

ONE_CALL = Amount(calls=1)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time, by a clock that all processes have: the `number`th of so many seconds since 1970."""

    seconds: float
    number: int

    @classmethod
    def at(cls, now: float, seconds: float) -> "Window":
        return cls(seconds, int(now // seconds))

    @property
    def ends(self) -> float:
        return (self.number + 1) * self.seconds


class Account:
    """What one tenant spends. Nothing in here awaits: what others have spent is told by whoever hears of it."""

    def __init__(self, name: str, ceiling: Ceiling, clock: Callable[[], float] = time.time) -> None:
        self.name = name
        self._clock = clock
        self._reserved = NOTHING
        self._asked = -math.inf
        self.limit(ceiling)
        self._now = self.window
        self._elsewhere = self._told = self._untold = NOTHING

    def limit(self, ceiling: Ceiling) -> None:
        """Another ceiling from now on. What was spent in this stretch of time counts, if it is as long."""
        self._limits = Limits.of(ceiling)
        self._seconds = ceiling.per.total_seconds()

    @property
    def is_limited(self) -> bool:
        return self._limits != Limits()

    @property
    def idle(self) -> float:
        """Seconds since somebody wanted to spend."""
        return self._clock() - self._asked

    @property
    def window(self) -> Window:
        return Window.at(self._clock(), self._seconds)

    @property
    def spent(self) -> Amount:
        """By all of whom is known, in this stretch of time."""
        self._turn()
        return self._elsewhere + self._told + self._untold

    def check(self) -> None:
        """Raises TenantLimitReached if there is nothing left."""
        self._asked = self._clock()
        left = self._limits.less(self.spent)
        if any(
            limit is not None and limit <= 0 for limit in (left.calls, left.tokens, left.microusd)
        ):
            wait = max(1, math.ceil(self._now.ends - self._clock()))
            raise TenantLimitReached(
                "What may be spent in this stretch of time is spent.", retry_after=wait
            )

    def reserve(self, worst: Amount) -> bool:
        if self._limits.exceeded(self.spent + self._reserved + worst):
            return False
        self._reserved += worst
        return True

    def settle(self, worst: Amount, real: Amount) -> None:
        self._reserved -= worst
        self.charge(real)

    def charge(self, real: Amount) -> None:
        """Book what was spent without asking."""
        self._turn()
        self._untold += real

    # What processes tell each other...

    def untold(self) -> tuple[Window, Amount]:
        """What nobody has been told yet of what was spent here."""
        self._turn()
        return self._now, self._untold

    def told(self, window: Window, amount: Amount, total: Amount) -> None:
        """That has been told, and all processes together have spent so much by then."""
        self._turn()
        if window == self._now:
            self._untold -= amount
            self._told += amount
            self._elsewhere = _rest(total, self._told)

    # ... and when a new stretch of time begins.

    def _turn(self) -> None:
        if self._now != (now := self.window):
            self._now = now
            self._elsewhere = self._told = self._untold = NOTHING


def _rest(total: Amount, ours: Amount) -> Amount:
    """What others have of it; nothing if what they keep has been lost."""
    return Amount(
        max(0, total.calls - ours.calls),
        max(0, total.tokens - ours.tokens),
        max(NOTHING.microusd, total.microusd - ours.microusd),
    )


class Tenants:
    """Who is on the list, each with an account. Whoever is not on it is one of the `other`."""

    def __init__(
        self, ceilings: Mapping[str, Ceiling], other: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._other = other
        self._clock = clock
        self._accounts: dict[str, Account] = {}
        self.limit(ceilings)

    def __iter__(self) -> Iterator[Account]:
        return iter(self._accounts.values())

    def limit(self, ceilings: Mapping[str, Ceiling]) -> None:
        """Another list from now on. Whoever stays on it has spent what it has."""
        accounts: dict[str, Account] = {}
        for name, ceiling in {self._other: Ceiling(), **ceilings}.items():
            account = self._accounts.get(name) or Account(name, ceiling, self._clock)
            account.limit(ceiling)
            accounts[name] = account
        self._accounts = accounts

    def account(self, name: object) -> Account:
        """That of whoever is called so; a number is what it is written as."""
        if isinstance(name, float) and name.is_integer():
            name = int(name)  # as Envoy tells every number
        known = str(name) if isinstance(name, int | float | str) else self._other
        return self._accounts.get(known) or self._accounts[self._other]
