"""What a run may cost at the most, and the least it takes."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from looper.calling.budget import Amount, Budget, Grant, Ledger
from looper.calling.cost import PlannedCall, least, planned_calls, usd, worst_case
from looper.calling.models import Model


def model(name: str, **settings: Any) -> Model:
    return Model.model_validate({"name": name, "url": "http://x/v1", **settings})


def catalogue(*models: Model) -> dict[str, Model]:
    return {each.name: each for each in models}


CHEAP = model("cheap", max_output=1000, price={"input": 1, "output": 2}, retry={"attempts": 0})
DEAR = model("dear", max_output=2000, price={"input": 10, "output": 40}, retry={"attempts": 3})
OPEN = model("open", price={"input": 1, "output": 1})
FREE = model("free", max_output=500)
MODELS = catalogue(CHEAP, DEAR, OPEN, FREE)


class TestWorstCase:
    def test_one_call_is_its_prompt_and_its_longest_answer(self) -> None:
        worst = worst_case([PlannedCall(("cheap",), "single")], MODELS, prompt_tokens=1000)
        assert worst.calls == 1
        assert worst.tokens == 1000 + 1000
        assert worst.microusd == 1000 * 1 + 1000 * 2

    def test_of_several_models_the_dearest_is_asked(self) -> None:
        """Tokens and money each by the model that takes most of them."""
        big = model("big", max_output=9000, price={"input": 0, "output": 1})
        plan = [PlannedCall(("cheap", "dear", "big"), "worker")]
        worst = worst_case(plan, {**MODELS, "big": big}, prompt_tokens=0)
        assert worst.tokens == 9000
        assert worst.microusd == 2000 * 40

    def test_an_answer_that_is_read_is_as_long_as_the_longest_before_it(self) -> None:
        plan = [
            PlannedCall(("cheap",), "panel"),
            PlannedCall(("dear",), "panel"),
            PlannedCall(("cheap",), "final", reads=2),
        ]
        worst = worst_case(plan, MODELS, prompt_tokens=100)
        instructions = 1000
        assert worst.tokens == (100 + 1000) + (100 + 2000) + (100 + 2 * 2000 + instructions + 1000)

    def test_a_prompt_is_no_longer_than_its_readers_window(self) -> None:
        small = model("small", context_window=4000, max_output=100)
        plan = [PlannedCall(("dear",), "panel"), PlannedCall(("small",), "judge", reads=9)]
        assert worst_case(plan, {**MODELS, "small": small}, prompt_tokens=0).tokens == 2000 + 4100

    def test_a_stages_own_limit_holds_where_it_is_smaller(self) -> None:
        plan = [PlannedCall(("cheap",), "judge", output=300)]
        assert worst_case(plan, MODELS, prompt_tokens=0).tokens == 300
        plan = [PlannedCall(("cheap",), "judge", output=3000)]
        assert worst_case(plan, MODELS, prompt_tokens=0).tokens == 1000

    def test_what_nothing_bounds_is_said(self) -> None:
        plan = [PlannedCall(("cheap",), "panel"), PlannedCall(("open",), "final")]
        worst = worst_case(plan, MODELS)
        assert (worst.tokens, worst.microusd, worst.unbounded) == (None, None, ("open",))
        limited = worst_case([PlannedCall(("open",), "judge", output=10)], MODELS)
        assert limited.unbounded == ()

    def test_a_model_without_a_price_costs_nothing_and_is_named(self) -> None:
        worst = worst_case([PlannedCall(("free",), "single")], MODELS)
        assert worst.microusd == 0
        assert worst.unpriced == ("free",)

    def test_spare_calls_cost_but_need_no_room(self) -> None:
        """Re-asks and Envoy's retries are made only from what a budget leaves over."""
        plan = [
            PlannedCall(("cheap",), "judge"),
            PlannedCall(("cheap",), "judge", need="spare"),
            PlannedCall(("dear",), "final", need="perhaps"),
        ]
        worst = worst_case(plan, MODELS, prompt_tokens=0)
        assert (worst.calls, worst.spare) == (2, 1 + 3)
        assert worst.tokens == 1000 + 1000 + 2000
        assert planned_calls(plan) == 2

    @pytest.mark.parametrize(
        ("budget", "over"),
        [
            pytest.param({}, (), id="no limits"),
            pytest.param({"calls": 1, "tokens": 1000, "cost_usd": 0.002}, (), id="just enough"),
            pytest.param({"tokens": 999}, ("tokens",), id="tokens"),
            pytest.param({"cost_usd": 0.001999}, ("cost_usd",), id="money"),
        ],
    )
    def test_is_compared_with_a_budget(self, budget: dict[str, Any], over: tuple[str, ...]) -> None:
        worst = worst_case([PlannedCall(("cheap",), "single")], MODELS, prompt_tokens=0)
        assert worst.over(Budget.model_validate(budget)) == over

    def test_what_nothing_bounds_is_over_every_budget(self) -> None:
        worst = worst_case([PlannedCall(("open",), "single")], MODELS)
        budget = Budget(tokens=10**9, cost_usd=Decimal(10**6))
        assert worst.over(budget) == ("tokens", "cost_usd")


class TestLeast:
    def test_counts_what_every_good_run_makes(self) -> None:
        plan = [
            PlannedCall(("cheap", "dear"), "panel"),
            PlannedCall(("dear",), "final", need="perhaps"),
            PlannedCall(("dear",), "final", need="spare"),
        ]
        assert least(plan, MODELS) == Amount(1, 256, Decimal(2 * 256))

    def test_short_answers_take_less(self) -> None:
        terse = model("terse", max_output=16)
        assert least([PlannedCall(("terse",), "single")], catalogue(terse)).tokens == 16
        assert least([PlannedCall(("dear",), "judge", output=8)], MODELS).tokens == 8


def test_money_is_rounded_up() -> None:
    assert usd(Decimal("0.1")) == Decimal("0.000001")


plans = st.lists(
    st.builds(
        PlannedCall,
        st.sampled_from(["cheap", "dear", "free"]).map(lambda name: (name,)),
        st.just("panel"),
        reads=st.integers(0, 3),
        output=st.none() | st.integers(1, 5000),
    ),
    max_size=8,
)


@given(plans, st.integers(0, 5000), st.data())
def test_a_ledger_never_books_more_than_the_worst_case(
    plan: list[PlannedCall], prompt: int, data: st.DataObject
) -> None:
    """Whatever of a plan is made, with prompts as planned: what the ledger reserves is within the worst case."""
    ledger = Ledger(Budget(), planned_calls=len(plan))
    worst = worst_case(plan, MODELS, prompt_tokens=prompt)
    answers = [0]
    for call in plan:
        if data.draw(st.booleans()):
            continue
        read = sum(data.draw(st.sampled_from(answers)) for _ in range(call.reads))
        asked = MODELS[call.models[0]]
        grant = ledger.reserve(asked, prompt + read, call.output)
        assert isinstance(grant, Grant)
        answers.append(grant.max_tokens or 0)
    assert worst.tokens is not None
    assert worst.microusd is not None
    assert ledger.reserved.tokens <= worst.tokens
    assert ledger.reserved.microusd <= worst.microusd
    assert ledger.reserved.calls <= worst.calls + worst.spare
