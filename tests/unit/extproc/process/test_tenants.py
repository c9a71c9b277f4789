"""What each tenant may spend in a stretch of time."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from extproc.process.tenants import Account, Tenants
from looper.calling.budget import NOTHING, Amount, Budget, Ceiling, Ledger, Purse
from looper.errors import TenantLimitReached
from tests.fakes.models import model

HOUR = 3600.0


class Clock:
    """Begins two minutes before an hour is over."""

    now = 100 * HOUR - 120

    def __call__(self) -> float:
        return self.now


def account(clock: Clock, **limits: Any) -> Account:
    return Account("acme", Ceiling(per=timedelta(hours=1), **limits), clock)


@pytest.mark.parametrize(
    ("limits", "spent"),
    [
        ({"calls": 3}, Amount(calls=3)),
        ({"tokens": 100}, Amount(1, 101)),
        ({"cost_usd": Decimal("0.01")}, Amount(1, 1, Decimal(10_000))),
    ],
)
def test_who_has_spent_it_all_waits_for_the_next_stretch_of_time(
    limits: dict[str, Any], spent: Amount
) -> None:
    """Which begins with the hour, whenever the first request was."""
    acme = account(clock := Clock(), **limits)
    acme.check()
    acme.charge(spent)
    with pytest.raises(TenantLimitReached) as refused:
        acme.check()
    assert (refused.value.status, refused.value.retry_after) == (429, 120)
    clock.now += 120
    acme.check()
    assert acme.spent == NOTHING


def test_who_has_no_limit_is_only_counted() -> None:
    acme = account(Clock())
    acme.charge(Amount(10**6, 10**9, Decimal(10**9)))
    acme.check()
    assert not acme.is_limited


def test_calls_side_by_side_cannot_spend_the_same_twice() -> None:
    acme = account(Clock(), tokens=100)
    worst = Amount(1, 60)
    assert acme.reserve(worst)
    assert not acme.reserve(worst)
    acme.settle(worst, Amount(1, 20))
    assert acme.reserve(worst)


def test_a_run_spends_from_its_tenants_account_and_takes_nothing_where_that_is_empty() -> None:
    acme, purse = account(Clock(), calls=1), Purse(Ceiling(calls=2))
    small = model("small", retry={"attempts": 0})
    first, second = (Ledger(Budget(), purse, tenant=acme) for _ in range(2))
    grant = first.reserve(small)
    assert second.reserve(small) == "tenant"
    assert not isinstance(grant, str)
    first.settle(grant, small)
    assert acme.spent.calls == 1
    assert purse.reserve(Amount(calls=1))
    assert not purse.reserve(Amount(calls=1))


def test_what_is_still_reserved_when_a_new_stretch_begins_is_booked_in_that() -> None:
    acme = account(clock := Clock(), calls=2)
    assert acme.reserve(Amount(calls=2))
    clock.now += HOUR
    assert not acme.reserve(Amount(calls=1))
    acme.settle(Amount(calls=2), Amount(calls=1))
    assert acme.spent.calls == 1
    assert acme.reserve(Amount(calls=1))


@pytest.mark.parametrize(
    ("said", "whose"),
    [
        ("acme", "acme"),
        (42.0, "42"),
        (42, "42"),
        ("ACME", "other"),
        ("", "other"),
        (None, "other"),
        (["acme"], "other"),
        ({"acme": 1}, "other"),
        ("x" * 10_000, "other"),
    ],
)
def test_whoever_is_not_on_the_list_is_one_of_the_others(said: object, whose: str) -> None:
    tenants = Tenants({"acme": Ceiling(), "42": Ceiling()}, "other")
    assert tenants.account(said).name == whose


def test_another_list_leaves_what_was_spent() -> None:
    tenants = Tenants({"acme": Ceiling(calls=5), "gone": Ceiling()}, "other", Clock())
    tenants.account("acme").charge(Amount(calls=3))
    tenants.limit({"acme": Ceiling(calls=3), "new": Ceiling()})
    with pytest.raises(TenantLimitReached):
        tenants.account("acme").check()
    assert [each.name for each in tenants] == ["other", "acme", "new"]


def test_what_others_have_spent_counts_too() -> None:
    """Of what all have spent, the part that was told from here is not counted twice."""
    acme = account(clock := Clock(), calls=10)
    acme.charge(Amount(calls=2))
    window, untold = acme.untold()
    acme.charge(Amount(calls=1))  # while it is being told
    acme.told(window, untold, Amount(calls=6))
    assert acme.spent.calls == 7
    assert acme.untold()[1] == Amount(calls=1)
    acme.told(window, NOTHING, NOTHING)  # what they keep was lost
    assert acme.spent.calls == 3
    clock.now += HOUR
    acme.told(window, NOTHING, Amount(calls=9))  # it came too late
    assert acme.spent == NOTHING
