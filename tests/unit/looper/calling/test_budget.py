import math
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from looper.calling.budget import MIN_OUTPUT, Amount, Budget, Ceiling, Floor, Grant, Ledger, Purse
from looper.calling.calls import CallFailed, Failure
from looper.calling.heard import Heard
from looper.calling.models import Model
from looper.wire.chat import Usage, WireUsage
from tests.fakes.models import chunk, completion, model

PRICED = model("m", price={"input": "0.15", "output": "0.60"})
FREE = model("f")


def granted(grant: object) -> Grant:
    assert isinstance(grant, Grant)
    return grant


class TestCalls:
    def test_without_a_limit_every_call_is_granted(self) -> None:
        """No limit is no limit, but calls are counted all the same."""
        ledger = Ledger(Budget())
        for _ in range(1000):
            ledger.settle(granted(ledger.reserve(FREE)), FREE)
        assert ledger.calls == 1000

    @pytest.mark.parametrize("limit", [1, 3])
    def test_grants_as_many_as_there_are(self, limit: int) -> None:
        """What is refused is not counted, and says what there was too little of."""
        ledger = Ledger(Budget(calls=limit), planned_calls=limit)
        grants = [ledger.reserve(FREE) for _ in range(5)]
        assert [isinstance(grant, Grant) for grant in grants] == [True] * limit + [False] * (
            5 - limit
        )
        assert set(grants[limit:]) == {"calls"}
        assert ledger.calls == limit

    @pytest.mark.parametrize(("attempts", "calls"), [(0, 1), (1, 1), (2, 2), (5, 5)])
    def test_counts_envoys_attempts(self, attempts: int, calls: int) -> None:
        """Each attempt is a call, and there is at least one."""
        ledger = Ledger(Budget())
        ledger.settle(granted(ledger.reserve(FREE)), FREE, attempts=attempts)
        assert ledger.calls == calls

    def test_retries_are_granted_from_what_the_plan_leaves_over(self) -> None:
        """A plan that needs every call leaves none for Envoy's retries; one call more leaves one."""
        exact = Ledger(Budget(calls=3), planned_calls=3)
        assert granted(exact.reserve(FREE)).retries == 0
        spare = Ledger(Budget(calls=4), planned_calls=3)
        assert [granted(spare.reserve(FREE)).retries for _ in range(3)] == [1, 0, 0]

    def test_a_retry_that_was_not_needed_is_there_for_the_next(self) -> None:
        """What was kept for a retry goes back when the call ends without one."""
        ledger = Ledger(Budget(calls=4), planned_calls=3)
        ledger.settle(granted(ledger.reserve(FREE)), FREE)
        assert granted(ledger.reserve(FREE)).retries == 1

    def test_an_extra_call_gets_only_what_the_plan_leaves_over(self) -> None:
        """A re-ask must not spend the call that a later stage needs."""
        exact = Ledger(Budget(calls=3), planned_calls=3)
        assert exact.reserve(FREE, extra=True) == "calls"
        spare = Ledger(Budget(calls=4), planned_calls=3)
        assert granted(spare.reserve(FREE, extra=True)).retries == 0
        assert spare.reserve(FREE, extra=True) == "calls"
        assert all(isinstance(spare.reserve(FREE), Grant) for _ in range(3))

    def test_an_extra_call_that_was_made_is_not_given_back(self) -> None:
        """What an extra call has spent is gone; only the retries that it did not need come back."""
        ledger = Ledger(Budget(calls=4), planned_calls=3)
        ledger.settle(granted(ledger.reserve(FREE, extra=True)), FREE)
        assert ledger.reserve(FREE, extra=True) == "calls"


def floor(role: str, tokens: int, microusd: int = 0) -> Floor:
    return Floor(role, Amount(1, tokens, Decimal(microusd)))


class TestSharing:
    def test_siblings_have_equal_parts(self) -> None:
        """Of what is left behind what is kept for the calls that follow them."""
        floors = [floor("panel", 356)] * 3 + [floor("judge", 400), floor("final", 600)]
        ledger = Ledger(Budget(tokens=7000), floors=floors)
        sent = [
            granted(ledger.reserve(FREE, 100, role="panel", among=among)).max_tokens
            for among in (3, 2, 1)
        ]
        assert sent == [1900, 1900, 1900]
        assert granted(ledger.reserve(FREE, 100, role="judge")).max_tokens == 300
        assert granted(ledger.reserve(FREE, 100, role="final")).max_tokens == 500

    def test_so_do_they_of_money(self) -> None:
        """At the model's own price, beside what the dearer ones that follow need."""
        floors = [floor("panel", 0, 100)] * 2 + [floor("final", 0, 400)]
        ledger = Ledger(Budget(cost_usd=Decimal("0.001")), floors=floors)
        sent = [
            granted(ledger.reserve(PRICED, 100, role="panel", among=among)).max_tokens
            for among in (2, 1)
        ]
        assert sent == [475, 475]  # 300 micro-USD each, 15 of them for the prompt

    def test_what_one_leaves_is_the_others(self) -> None:
        """A part is of what is left when a call begins, however many have ended by then."""
        ledger = Ledger(Budget(tokens=3000))
        first = granted(ledger.reserve(FREE, 100, role="panel", among=2))
        ledger.settle(first, FREE, Usage(100, 100))
        assert granted(ledger.reserve(FREE, 100, role="panel", among=1)).max_tokens == 2700

    def test_who_can_be_paid_is(self) -> None:
        """Where not all have the least, the first do; none is kept from its answer by what may follow."""
        ledger = Ledger(Budget(tokens=800), floors=[floor("final", 600)])
        assert granted(ledger.reserve(FREE, 100, role="panel", among=3)).max_tokens == MIN_OUTPUT
        assert granted(ledger.reserve(FREE, 100, role="panel", among=2)).max_tokens == MIN_OUTPUT
        assert ledger.reserve(FREE, 100, role="panel", among=1) == "tokens"

    def test_a_stage_that_is_past_keeps_nothing(self) -> None:
        """What was planned before a call that is made now, and was not needed, is no more to come."""
        floors = [floor("panel", 300)] * 4 + [floor("final", 300)]
        ledger = Ledger(Budget(tokens=2000), floors=floors)
        ledger.settle(granted(ledger.reserve(FREE, 0, role="panel")), FREE)
        assert granted(ledger.reserve(FREE, 0, role="final")).max_tokens == 2000

    def test_a_plan_that_has_become_smaller_keeps_less(self) -> None:
        """Its last calls are those that are left."""
        ledger = Ledger(Budget(tokens=2000), floors=[floor("worker", 300)] * 5 + [floor("f", 300)])
        ledger.plan(2)
        assert granted(ledger.reserve(FREE, 0, role="worker")).max_tokens == 1700

    def test_what_the_plan_can_do_without_leaves_all_floors(self) -> None:
        """A re-ask has what nobody needs."""
        ledger = Ledger(Budget(tokens=2000), floors=[floor("judge", 300), floor("final", 300)])
        assert granted(ledger.reserve(FREE, 0, role="judge", extra=True)).max_tokens == 1400
        assert granted(ledger.reserve(FREE, 0, role="judge")).max_tokens == 300


class TestTokens:
    @pytest.mark.parametrize(
        ("wanted", "most", "budget", "sent"),
        [
            pytest.param(None, None, None, None, id="nothing-bounds-it"),
            pytest.param(700, None, None, 700, id="the-clients"),
            pytest.param(700, 500, None, 500, id="the-models"),
            pytest.param(700, 500, 400, 300, id="what-is-left"),
            pytest.param(20, None, None, 20, id="a-small-wish-is-no-small-answer"),
            pytest.param(None, 100, None, 100, id="a-small-model"),
        ],
    )
    def test_the_smallest_bound_is_the_limit(
        self, wanted: int | None, most: int | None, budget: int | None, sent: int | None
    ) -> None:
        """Of what the client wants, the model can and the budget leaves, the least is sent."""
        asked = model("m", max_output=most)
        ledger = Ledger(Budget(tokens=budget))
        assert granted(ledger.reserve(asked, 100, wanted)).max_tokens == sent

    @pytest.mark.parametrize(
        ("window", "prompt", "wanted", "sent"),
        [
            pytest.param(8000, 4000, 4096, 3000, id="what-the-prompt-leaves"),
            pytest.param(8000, 1000, 4096, 4096, id="there-is-room"),
            pytest.param(8000, 7000, 4096, MIN_OUTPUT, id="the-least"),
            pytest.param(8000, 7000, 100, 100, id="a-small-wish"),
            pytest.param(400, 200, 4096, 150, id="a-small-window"),
            pytest.param(400, 290, 4096, 100, id="the-least-of-a-small-window"),
            pytest.param(8000, 4000, None, None, id="nothing-else-bounds-it"),
        ],
    )
    def test_prompt_and_answer_share_the_window(
        self, window: int, prompt: int, wanted: int | None, sent: int | None
    ) -> None:
        """An answer has what a prompt leaves, were it a quarter longer than it is taken for; never next to nothing."""
        asked = model("m", context_window=window)
        assert granted(Ledger(Budget()).reserve(asked, prompt, wanted)).max_tokens == sent

    def test_an_answer_that_would_be_too_small_is_not_asked_for(self) -> None:
        """Below the least output a call is not worth its price."""
        ledger = Ledger(Budget(tokens=100 + MIN_OUTPUT - 1))
        assert ledger.reserve(FREE, 100, 5000) == "tokens"
        assert ledger.calls == 0

    def test_money_buys_tokens(self) -> None:
        """With a budget in USD the limit is what the money left buys, after the prompt."""
        ledger = Ledger(Budget(cost_usd=Decimal("0.000615")))
        grant = granted(ledger.reserve(PRICED, 100, None))
        assert grant.max_tokens == 1000
        assert ledger.reserve(PRICED, 100, None) == "cost_usd"

    def test_what_was_not_used_can_be_spent_again(self) -> None:
        """Settling gives back the difference between the worst case and what it was."""
        ledger = Ledger(Budget(tokens=1000))
        grant = granted(ledger.reserve(FREE, 100, 900))
        assert ledger.reserve(FREE, 100, 300) == "tokens"
        ledger.settle(grant, FREE, Usage(100, 50))
        assert granted(ledger.reserve(FREE, 100, 900)).max_tokens == 750


class TestCost:
    def test_adds_up_usage_and_cost(self) -> None:
        """Cost is that of each model's own price; what has no price costs nothing."""
        ledger = Ledger(Budget())
        for asked, usage in (
            (PRICED, Usage(100, 10)),
            (FREE, Usage(1000, 1000)),
            (model("n", price={"input": 1, "output": 2}), Usage(3, 4)),
        ):
            ledger.settle(granted(ledger.reserve(asked)), asked, usage)
        assert ledger.usage == Usage(1103, 1014)
        assert ledger.cost == 15 + 6 + 3 + 8

    def test_is_rounded_once(self) -> None:
        """Many small calls cost what one large one does."""
        ledger = Ledger(Budget())
        for _ in range(1000):
            ledger.settle(granted(ledger.reserve(PRICED)), PRICED, Usage(1, 1))
        assert ledger.cost == 750


class TestPurse:
    def test_is_shared_by_runs(self) -> None:
        """What one run has reserved another cannot: the ceiling is the process's."""
        purse = Purse(Ceiling(calls=3), lambda: 0.0)
        one = Ledger(Budget(calls=2), purse, planned_calls=2)
        other = Ledger(Budget(calls=2), purse, planned_calls=2)
        assert all(isinstance(one.reserve(FREE), Grant) for _ in range(2))
        assert isinstance(other.reserve(FREE), Grant)
        assert other.reserve(FREE) == "process"

    def test_is_filled_again_after_its_time(self) -> None:
        """A new stretch of time begins with nothing spent."""
        now = 0.0
        purse = Purse(Ceiling(calls=1), lambda: now)
        ledger = Ledger(Budget(calls=9), purse, planned_calls=9)
        ledger.settle(granted(ledger.reserve(FREE)), FREE)
        assert ledger.reserve(FREE) == "process"
        now = 3600.0
        assert isinstance(ledger.reserve(FREE), Grant)

    def test_keeps_what_was_spent_under_another_ceiling(self) -> None:
        """A new ceiling is no new purse: what is gone is gone, until the time is over by the new one's measure."""
        now = 0.0
        purse = Purse(Ceiling(calls=2), lambda: now)
        ledger = Ledger(Budget(calls=9), purse, planned_calls=9)
        ledger.settle(granted(ledger.reserve(FREE)), FREE)
        purse.limit(Ceiling(calls=1, per=timedelta(minutes=1)))
        assert ledger.reserve(FREE) == "process"
        purse.limit(Ceiling(calls=2, per=timedelta(minutes=1)))
        ledger.settle(granted(ledger.reserve(FREE)), FREE)
        assert ledger.reserve(FREE) == "process"
        now = 60.0
        assert isinstance(ledger.reserve(FREE), Grant)


Held = tuple[Ledger, Grant, Model, int] | MultipleResults[tuple[Ledger, Grant, Model, int]]


class Spending(RuleBasedStateMachine):
    """Stages that reserve and settle in any order, each using no more than it was granted."""

    grants: Bundle[tuple[Ledger, Grant, Model, int]] = Bundle("grants")

    @initialize(
        calls=st.integers(1, 12),
        tokens=st.integers(500, 20_000),
        micro=st.integers(100, 9_000),
        planned=st.integers(0, 12),
        shared=st.integers(1, 15),
    )
    def begin(self, calls: int, tokens: int, micro: int, planned: int, shared: int) -> None:
        usd = Decimal(micro) / 1_000_000
        self.limits = (calls, tokens, micro)
        self.shared = shared
        self.estimated = 0
        purse = Purse(Ceiling(calls=shared), lambda: 0.0)
        budget = Budget(calls=calls, tokens=tokens, cost_usd=usd)
        self.ledgers = [Ledger(budget, purse, planned_calls=planned) for _ in range(2)]

    @rule(
        target=grants,
        which=st.integers(0, 1),
        priced=st.booleans(),
        prompt=st.integers(0, 3000),
        wanted=st.none() | st.integers(1, 5000),
        extra=st.booleans(),
    )
    def reserve(
        self, which: int, priced: bool, prompt: int, wanted: int | None, extra: bool
    ) -> Held:
        asked = PRICED if priced else FREE
        ledger = self.ledgers[which]
        grant = ledger.reserve(asked, prompt, wanted, extra=extra)
        return (ledger, grant, asked, prompt) if isinstance(grant, Grant) else multiple()

    @rule(
        held=consumes(grants),
        part=st.floats(0, 1),
        failed=st.booleans(),
        attempts=st.integers(1, 2),
    )
    def settle(
        self, held: tuple[Ledger, Grant, Model, int], part: float, failed: bool, attempts: int
    ) -> None:
        ledger, grant, asked, prompt = held
        assert grant.max_tokens is not None
        usage = None if failed else Usage(prompt, int(grant.max_tokens * part))
        ledger.settle(grant, asked, usage, attempts=min(attempts, 1 + grant.retries))

    @rule(held=consumes(grants), counts=st.tuples(*[st.none() | st.integers()] * 2))
    def report(
        self, held: tuple[Ledger, Grant, Model, int], counts: tuple[int | None, int | None]
    ) -> None:
        """A backend says that it has used so much, whatever that is; if it cannot be, it is estimated."""
        ledger, grant, asked, prompt = held
        heard = Heard(prompt, grant, asked)
        heard.add(completion("x" * 400, usage=WireUsage(*counts)))
        usage = heard.usage
        assert usage is not None
        # What is more than was granted can be, and is not what this machine is about.
        usage = Usage(
            min(usage.prompt_tokens, prompt),
            min(usage.completion_tokens, grant.max_tokens or 0),
            estimated=0,
        )
        before = ledger.spent
        ledger.settle(grant, asked, usage)
        assert ledger.spent.tokens >= before.tokens
        assert ledger.spent.microusd >= before.microusd

    @rule(held=consumes(grants), said=st.lists(st.text(max_size=3000), max_size=4))
    def break_off(self, held: tuple[Ledger, Grant, Model, int], said: list[str]) -> None:
        """A stream is cut, or its reader leaves, before its usage is known."""
        ledger, grant, asked, prompt = held
        heard = Heard(prompt, grant, asked)
        for text in said:
            heard.add(chunk(text))
        ledger.settle(grant, asked, heard.usage)
        self.estimated += heard.usage.total_tokens if heard.usage is not None else 0
        assert (heard.usage is None) == (not said)

    @invariant()
    def what_is_booked_is_what_is_told(self) -> None:
        """Ledger and usage agree, and the part of it that is estimated is known."""
        if not hasattr(self, "ledgers"):
            return
        assert all(each.spent.tokens == each.usage.total_tokens for each in self.ledgers)
        assert sum(ledger.usage.estimated for ledger in self.ledgers) == self.estimated

    @invariant()
    def nothing_is_overspent(self) -> None:
        """What is spent and what is reserved never exceed the budget, alone or together."""
        if not hasattr(self, "ledgers"):
            return
        calls, tokens, micro = self.limits
        for ledger in self.ledgers:
            both = ledger.spent + ledger.reserved
            assert both.calls <= calls
            assert both.tokens <= tokens
            assert math.floor(both.microusd) <= micro
        assert sum(ledger.calls for ledger in self.ledgers) <= self.shared


numbers = st.integers(-3, 3)


@given(numbers, numbers, numbers)
def test_no_amount_is_less_than_nothing(calls: int, tokens: int, microusd: int) -> None:
    """So nothing that is reserved, settled or taken back can raise what is left."""
    if min(calls, tokens, microusd) >= 0:
        Amount(calls, tokens, Decimal(microusd))
        return
    with pytest.raises(ValueError, match="negative"):
        Amount(calls, tokens, Decimal(microusd))


@pytest.mark.parametrize("wanted", [-1, -1_000_000])
def test_a_negative_limit_reserves_nothing(wanted: int) -> None:
    """It is a mistake of ours if one comes so far, and costs nobody any money."""
    ledger = Ledger(Budget(tokens=1000))
    with pytest.raises(ValueError, match="negative"):
        ledger.reserve(FREE, 0, wanted)
    assert ledger.reserved == Amount()


def test_each_choice_is_reserved() -> None:
    """A client that asks for several answers may be given all of them."""
    ledger = Ledger(Budget(tokens=10_000))
    grant = granted(ledger.reserve(FREE, 100, 500, choices=4))
    assert (grant.max_tokens, grant.worst.tokens) == (500, 2100)
    assert granted(ledger.reserve(FREE, 100, None, choices=4)).max_tokens == (10_000 - 2200) // 4


REPORTS = {
    "as-it-is": ({"prompt_tokens": 90, "completion_tokens": 30}, Usage(90, 30)),
    "absent": (None, Usage(100, 25, estimated=125)),
    "empty": ({}, Usage(100, 25, estimated=125)),
    "nulls": ({"prompt_tokens": None, "completion_tokens": None}, Usage(100, 25, estimated=125)),
    "one-null": ({"prompt_tokens": 90, "completion_tokens": None}, Usage(90, 25, estimated=25)),
    "negative": ({"prompt_tokens": -5, "completion_tokens": 30}, Usage(100, 30, estimated=100)),
    "both-negative": ({"prompt_tokens": -5, "completion_tokens": -9}, Usage(100, 25, estimated=125)),
    "zeros": ({"prompt_tokens": 0, "completion_tokens": 0}, Usage(100, 25, estimated=125)),
    "too-large": ({"prompt_tokens": 10**30, "completion_tokens": 30}, Usage(100, 30, estimated=100)),
    "over-the-window": ({"prompt_tokens": 8001, "completion_tokens": 30}, Usage(100, 30, estimated=100)),
    "fills-the-window": ({"prompt_tokens": 8000, "completion_tokens": 30}, Usage(8000, 30)),
    "parts": (
        {"prompt_tokens": 90, "completion_tokens": 30, "completion_tokens_details": {"a": 7, "b": -1, "c": 31}},
        Usage(90, 30, {}, {"a": 7}),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("said", "booked"), REPORTS.values(), ids=REPORTS.keys())
def test_usage_that_cannot_be_is_estimated(said: dict[str, Any] | None, booked: Usage) -> None:
    """As that which is not reported: each of its numbers by itself."""
    asked = model("m", context_window=8000)
    heard = Heard(100, Grant(Amount(), None, 0), asked)
    usage = None if said is None else WireUsage(**said)
    heard.add(completion("x" * 100, usage=usage))
    assert heard.usage == booked


def test_the_last_report_that_says_something_counts() -> None:
    """A chunk with nulls behind it takes nothing back."""
    heard = Heard(100, Grant(Amount(), None, 0), FREE)
    for usage in (WireUsage(90, 10), WireUsage(90, 30), WireUsage(None, None), None):
        heard.add(completion("x" * 100, usage=usage))
    assert heard.usage == Usage(90, 30)


@pytest.mark.parametrize(
    ("asked", "granted_tokens", "most"),
    [
        (model("m"), None, 128_000),
        (model("m", max_output=500), None, 500),
        (model("m", context_window=4000), None, 4000),
        (model("m", max_output=500), 300, 300),
    ],
)
def test_a_broken_answer_is_no_more_than_an_answer(
    asked: Model, granted_tokens: int | None, most: int
) -> None:
    """However much came of it that nobody can read."""
    heard = Heard(10, Grant(Amount(), granted_tokens, 0), asked)
    heard.failed(CallFailed(Failure.UNUSABLE, seen=32 << 20))
    assert heard.usage == Usage(10, most, estimated=10 + most)


TestSpending = Spending.TestCase
TestSpending.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
