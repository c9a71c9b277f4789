"""What tenants have spent, told between processes by way of Redis: each adds its part, and hears of the whole.

Nothing waits for that. For a moment a process may not know what others have just spent, and without Redis it goes on
with what it knows.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import TYPE_CHECKING

import structlog

from extproc.config.secrets import secret
from extproc.process.tenants import Account, Tenants, Window
from looper.calling.budget import NOTHING, Amount
from looper.patterns.workflows.pauses.state import AnyState, RedisState

if TYPE_CHECKING:
    from redis.asyncio import Redis

_log = structlog.get_logger()

_INTERVAL = 0.5
"""Seconds between two times that processes tell each other."""
_AWAKE = 60.0
"""Seconds for which the others' spending is of interest after a tenant's last request."""
_NANO = 1000
"""Parts of a micro-USD, the smallest that is told."""


class Totals:
    """What all processes together have spent: for each tenant and stretch of time a hash of numbers."""

    def __init__(self, settings: RedisState, redis: "Redis") -> None:
        self._prefix = settings.prefix
        self._redis = redis

    async def exchange(self, accounts: Iterable[Account]) -> None:
        """Add what was spent here, and learn what all have spent. Whatever goes wrong, nothing is lost here."""
        told = [(account, *_whole(account)) for account in accounts]
        if not told:
            return
        pipeline = self._redis.pipeline(transaction=False)
        for account, window, amount in told:
            key = f"{self._prefix}tenant:{{{account.name}}}:{window.seconds:g}:{window.number}"
            pipeline.hincrby(key, "calls", amount.calls)
            pipeline.hincrby(key, "tokens", amount.tokens)
            pipeline.hincrby(key, "nano_usd", int(amount.microusd * _NANO))
            pipeline.expire(key, max(60, int(2 * window.seconds)))
        answers = await pipeline.execute()
        for at, (account, window, amount) in enumerate(told):
            calls, tokens, nano, _ = answers[4 * at : 4 * at + 4]
            account.told(window, amount, Amount(calls, tokens, Decimal(nano) / _NANO))


def _whole(account: Account) -> tuple[Window, Amount]:
    """What is to be told, in whole parts: the rest is told later."""
    window, untold = account.untold()
    nano = int(untold.microusd * _NANO)
    return window, Amount(untold.calls, untold.tokens, Decimal(nano) / _NANO)


@asynccontextmanager
async def sharing(
    tenants: Tenants, settings: AnyState, environment: Mapping[str, str]
) -> AsyncIterator[None]:
    """While the context is open, processes with the same Redis spend from the same limits. In the end all is told."""
    if not isinstance(settings, RedisState):
        yield
        return
    from looper.patterns.workflows.pauses.redis_state import connect

    password = None
    if settings.password is not None:
        password = secret(settings.password, environment, "state.password")
    redis = connect(settings, password)
    try:
        totals = Totals(settings, redis)
        async with asyncio.TaskGroup() as group:
            telling = group.create_task(_tell(tenants, totals))
            yield
            telling.cancel()
        await _once(tenants, totals)
    finally:
        await redis.aclose()


async def _tell(tenants: Tenants, totals: Totals) -> None:
    reachable = True
    while True:
        await asyncio.sleep(_INTERVAL)
        was, reachable = reachable, await _once(tenants, totals)
        if was and not reachable:
            _log.error(
                "tenants.alone", why="Redis cannot be reached: what others spend is not known"
            )
        elif reachable and not was:
            _log.info("tenants.together")


async def _once(tenants: Tenants, totals: Totals) -> bool:
    """Whether the others could be told."""
    try:
        await totals.exchange(each for each in tenants if each.is_limited and _is_awake(each))
    except Exception as error:  # of what is no Redis, its client says anything
        _log.debug("tenants.not_told", error=type(error).__name__)
        return False
    return True


def _is_awake(account: Account) -> bool:
    return account.idle < _AWAKE or account.untold()[1] != NOTHING
