"""What a run may spend, and the ledger that keeps to it: reserved before each call, settled after."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Literal, Protocol

from pydantic import Field

from looper.calling.models import Model
from looper.settings import Setting, SomeTime, Tokens
from looper.wire.chat import Usage
from looper.wire.tokens import at_most

MIN_OUTPUT = 256
"""Tokens below which an answer is not worth its call."""

Usd = Annotated[Decimal, Field(gt=0)]
Limit = Literal["calls", "tokens", "cost_usd", "process", "tenant"]
"""What can be too small for a call: a limit of the run, one of the whole process, or the client's tenant's."""


class Budget(Setting):
    """A decision's limits, for one run. Unset is unlimited, but for the deadline."""

    calls: Annotated[int, Field(ge=1)] | None = None
    tokens: Tokens | None = None
    cost_usd: Usd | None = None
    deadline: SomeTime = timedelta(seconds=240)


class Ceiling(Setting):
    """What all runs of one process together may spend in a stretch of time."""

    calls: Annotated[int, Field(ge=1)] | None = None
    tokens: Tokens | None = None
    cost_usd: Usd | None = None
    per: SomeTime = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Amount:
    """Calls, tokens and micro-USD: what something costs, or at most can. Never less than nothing.

    Nothing that a client or a backend writes can therefore raise what is left to spend. Raises ValueError.
    """

    calls: int = 0
    tokens: int = 0
    microusd: Decimal = Decimal(0)

    def __post_init__(self) -> None:
        if self.calls < 0 or self.tokens < 0 or self.microusd < 0:
            raise ValueError("an amount cannot be negative")

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(
            self.calls + other.calls, self.tokens + other.tokens, self.microusd + other.microusd
        )

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(
            self.calls - other.calls, self.tokens - other.tokens, self.microusd - other.microusd
        )


NOTHING = Amount()


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds. None is no bound."""

    calls: int | None = None
    tokens: int | None = None
    microusd: Decimal | None = None

    @classmethod
    def of(cls, limits: Budget | Ceiling) -> "Limits":
        usd = limits.cost_usd
        return cls(limits.calls, limits.tokens, None if usd is None else usd * 1_000_000)

    def less(self, spent: Amount) -> "Limits":
        """What is left of them."""
        return Limits(
            None if self.calls is None else self.calls - spent.calls,
            None if self.tokens is None else self.tokens - spent.tokens,
            None if self.microusd is None else self.microusd - spent.microusd,
        )

    def exceeded(self, amount: Amount) -> Limit | None:
        """The first bound that `amount` is over."""
        if self.calls is not None and amount.calls > self.calls:
            return "calls"
        if self.tokens is not None and amount.tokens > self.tokens:
            return "tokens"
        if self.microusd is not None and amount.microusd > self.microusd:
            return "cost_usd"
        return None


class Purse:
    """What every run of the process spends from, under a ceiling that begins anew after each stretch of time."""

    def __init__(self, ceiling: Ceiling, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = Limits.of(ceiling)
        self._seconds = ceiling.per.total_seconds()
        self._clock = clock
        self._ends = clock() + self._seconds
        self._spent = NOTHING
        self._reserved = NOTHING

    def limit(self, ceiling: Ceiling) -> None:
        """Another ceiling from now on. What was spent under the last one counts."""
        self._limits = Limits.of(ceiling)
        self._seconds = ceiling.per.total_seconds()
        self._ends = min(self._ends, self._clock() + self._seconds)

    def reserve(self, worst: Amount) -> bool:
        self._turn()
        if self._limits.exceeded(self._spent + self._reserved + worst):
            return False
        self._reserved += worst
        return True

    def settle(self, worst: Amount, real: Amount) -> None:
        self._turn()
        self._reserved -= worst
        self._spent += real

    def _turn(self) -> None:
        if self._clock() >= self._ends:
            self._spent = NOTHING
            self._ends = self._clock() + self._seconds


class Spending(Protocol):
    """What several runs spend from."""

    def reserve(self, worst: Amount) -> bool:
        """Take so much out of it; whether there was room for that."""
        ...

    def settle(self, worst: Amount, real: Amount) -> None:
        """Give back what was reserved, and book what it came to."""
        ...


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave to make one call: the limit on its output to send (None: none), and the retries it may be given."""

    worst: Amount
    max_tokens: int | None
    retries: int
    choices: int = 1
    """How many answers the call asks for, each of which may be so long."""


@dataclass(frozen=True, slots=True)
class Floor:
    """What is kept for a call that is planned: its prompt, and the shortest answer that is worth it."""

    role: str
    amount: Amount


class _Kept:
    """What is kept for calls that are still to come, in the order of the plan's stages."""

    def __init__(self, floors: Iterable[Floor]) -> None:
        self._floors = list(floors)

    def limit(self, calls: int) -> None:
        """No more than so many are to come: the last ones."""
        self._floors = self._floors[max(0, len(self._floors) - calls) :]

    def behind(self, role: str, among: int) -> Amount:
        """What those need that are neither this call nor, of this role, among those that share what is left."""
        left, total = among, NOTHING
        for floor in self._floors[self._first(role) or 0 :]:
            if floor.role == role and left:
                left -= 1
            else:
                total += floor.amount
        return total

    def begin(self, role: str) -> None:
        """A call of this role is made. What had to come before it, and did not, will not come any more."""
        if (at := self._first(role)) is not None:
            del self._floors[: at + 1]

    def _first(self, role: str) -> int | None:
        return next((at for at, each in enumerate(self._floors) if each.role == role), None)


class Ledger:
    """Counts what one run spends.

    Reserving is one step without awaiting, so stages side by side cannot spend the same money twice. What is reserved
    is the worst case: all of the input as estimated, and all of the output that the call is limited to. `floors` are of
    the planned calls, and no call is granted what these need, as long as it has its own.
    """

    def __init__(
        self,
        budget: Budget,
        purse: Spending | None = None,
        *,
        tenant: Spending | None = None,
        planned_calls: int = 0,
        floors: Iterable[Floor] = (),
        before: Amount = NOTHING,
    ) -> None:
        self._kept = _Kept(floors)
        # What earlier turns of the run have spent is gone, and none of what this one is seen to spend.
        self._before = before
        self._limits = Limits.of(budget).less(before)
        shared: dict[Limit, Spending | None] = {"process": purse, "tenant": tenant}
        self._shared = {name: each for name, each in shared.items() if each is not None}
        self._spent = NOTHING
        self._reserved = NOTHING
        # Calls that the plan does not need may be spent on Envoy's retries, re-asks and repairs.
        calls = self._limits.calls
        self._spare = None if calls is None else max(0, calls - planned_calls)
        self.usage = Usage()
        self.last_usage: Usage | None = None

    @property
    def calls(self) -> int:
        """Calls made, those under way included."""
        return self._spent.calls + self._reserved.calls

    @property
    def all_calls(self) -> int:
        """The same with those of the run's earlier turns."""
        return self._before.calls + self.calls

    @property
    def has_spare_calls(self) -> bool:
        """Whether there is room for a call that the plan does not need."""
        return self._spare is None or self._spare > 0

    def keep_to(self, calls: int) -> None:
        """Make no more calls than this over all turns of the run, whatever else the budget allows."""
        left, limit = calls - self._before.calls, self._limits.calls
        self._limits = replace(self._limits, calls=left if limit is None else min(left, limit))

    def plan(self, calls: int) -> None:
        """Keep room for so many calls more, which is what is now known that the run needs."""
        self._kept.limit(calls)
        if self._limits.calls is not None:
            self._spare = max(0, self._limits.calls - self.calls - calls)

    @property
    def cost(self) -> int:
        """Micro-USD spent, rounded up once."""
        return math.ceil(self._spent.microusd)

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def spent(self) -> Amount:
        return self._spent

    @property
    def reserved(self) -> Amount:
        return self._reserved

    def reserve(
        self,
        model: Model,
        input_tokens: int = 0,
        wanted_output: int | None = None,
        *,
        role: str = "",
        among: int = 1,
        extra: bool = False,
        choices: int = 1,
    ) -> Grant | Limit:
        """Take a call's worst case out of the budget; the name of the limit that has no room for it.

        `wanted_output` is the client's or the stage's own limit on the output of each of the `choices`. So many calls,
        it included, share what is left behind what planned calls of other roles need. An `extra` call is none that the
        plan needs, and gets only what the plan leaves over.
        """
        if extra and self._spare == 0:
            return "calls"
        least = min(_least(model), wanted_output or MIN_OUTPUT)
        kept = self._kept.behind(role, 0 if extra else among)
        share = _Share(kept, among, choices, least)
        output = self._output(model, input_tokens, wanted_output, share)
        if output is not None and output < least:
            return self._short(model, input_tokens, least * choices)
        retries = self._retries(model, int(extra))
        written = (output or 0) * choices
        worst = Amount(1 + retries, input_tokens + written, cost(model, input_tokens, written))
        if short := self._limits.exceeded(self._spent + self._reserved + worst):
            return short
        if (short := self._share(worst)) is not None:
            return short
        self._reserved += worst
        if not extra:
            self._kept.begin(role)
        if self._spare is not None:
            self._spare -= retries + extra
        return Grant(worst, output, retries, choices)

    def settle(
        self, grant: Grant, model: Model, usage: Usage | None = None, *, attempts: int = 1
    ) -> None:
        """Book what a call really took. `attempts` are Envoy's: each one beyond the first is a call of its own."""
        used = usage or Usage()
        real = Amount(
            max(1, attempts),
            used.total_tokens,
            cost(model, used.prompt_tokens, used.completion_tokens),
        )
        self._reserved -= grant.worst
        self._spent += real
        self.usage += used
        self.last_usage = None if used == self.usage else used
        if self._spare is not None:
            self._spare += max(0, grant.worst.calls - max(1, attempts))
        for each in self._shared.values():
            each.settle(grant.worst, real)

    def _share(self, worst: Amount) -> Limit | None:
        """Take it out of what this run shares with others: out of all of that, or of nothing."""
        taken: list[Spending] = []
        for limit, each in self._shared.items():
            if not each.reserve(worst):
                for other in taken:
                    other.settle(worst, NOTHING)
                return limit
            taken.append(each)
        return None

    def _output(
        self, model: Model, input_tokens: int, wanted: int | None, share: "_Share"
    ) -> int | None:
        """For each choice the smallest of what the call wants, what the model can, and what is left buys, as far as
        the prompt leaves room for it in the model's context window.

        None: nothing but the window bounds it, and that the upstream knows.
        """
        bounds = [bound for bound in (wanted, model.max_output) if bound is not None]
        gone = self._spent + self._reserved
        if self._limits.tokens is not None:
            left = self._limits.tokens - gone.tokens
            part = (left - share.kept.tokens) // share.among
            bounds.append(share.of(part - input_tokens, left - input_tokens))
        if self._limits.microusd is not None and model.price is not None and model.price.output > 0:
            money, price = self._limits.microusd - gone.microusd, model.price.output
            prompt = cost(model, input_tokens, 0)
            purse = (money - share.kept.microusd) / share.among
            bounds.append(share.of(int((purse - prompt) / price), int((money - prompt) / price)))
        if bounds and model.context_window is not None:
            bounds.append(max(model.context_window - at_most(input_tokens), _least(model)))
        return min(bounds, default=None)

    def _short(self, model: Model, input_tokens: int, output: int) -> Limit:
        """Which limit has no room for an answer of the least size."""
        least = Amount(1, input_tokens + output, cost(model, input_tokens, output))
        return self._limits.exceeded(self._spent + self._reserved + least) or "tokens"

    def _retries(self, model: Model, extra: int) -> int:
        if self._spare is None or self._limits.calls is None:
            return model.retry.attempts
        spare = min(self._spare - extra, self._limits.calls - self.calls - 1)
        return max(0, min(model.retry.attempts, spare))


@dataclass(frozen=True, slots=True)
class _Share:
    """What is kept for others of what is left, how many share the rest, for how many choices each, and what each choice
    has anyway."""

    kept: Amount
    among: int
    choices: int
    least: int

    def of(self, part: int, all: int) -> int:
        """Its part, in tokens of output; but no less than the least, if that is there at all."""
        return max(part // self.choices, min(self.least, all // self.choices))


def _least(model: Model) -> int:
    """The shortest answer of a model that is worth its call."""
    window = MIN_OUTPUT if model.context_window is None else model.context_window // 4
    return max(1, min(MIN_OUTPUT, model.max_output or MIN_OUTPUT, window))


def cost(model: Model, input_tokens: int, output_tokens: int) -> Decimal:
    """Micro-USD: a price in USD per million tokens is one in micro-USD per token."""
    if model.price is None:
        return Decimal(0)
    return input_tokens * model.price.input + output_tokens * model.price.output
