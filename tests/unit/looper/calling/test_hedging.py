import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from looper.calling.budget import Budget, Ledger
from looper.calling.calls import CallFailed, Failure, Result
from looper.calling.cost import PlannedCall, planned_calls
from looper.calling.drafts import Draft, answering
from looper.calling.fanout import Round, fan_out
from looper.calling.trace import Trace
from looper.errors import UpstreamFailed
from looper.run import Deadline, Run, seeded
from looper.wire.chat import ChatRequest
from tests.fakes.clock import timeless
from tests.fakes.models import (
    After,
    Hang,
    ScriptedClient,
    Step,
    completion,
    in_turn,
    model,
    refused,
)

REQUEST = ChatRequest.parse(b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}')
MODELS = {name: model(name) for name in ("a", "b", "c", "spare", "other")}


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Team:
    """Scripted models behind a run of their own, asked once all together."""

    script: Mapping[str, Step]
    calls: int | None = None
    seconds: float = 100.0
    client: ScriptedClient = field(init=False)
    ledger: Ledger = field(init=False)
    trace: Trace = field(default_factory=Trace)
    took: float = 0.0

    def __post_init__(self) -> None:
        self.client = ScriptedClient(self.script)
        # Envoy's retries have no part in this: each call is one.
        self.ledger = Ledger(Budget(calls=self.calls), planned_calls=self.calls or 0)

    async def ask(self, *names: str, **settings: Any) -> list[Result]:
        begun = now()
        run = Run(
            "r",
            MODELS,
            self.client,
            self.ledger,
            Deadline.after(self.seconds),
            seeded(REQUEST),
            trace=self.trace,
        )
        drafts = [answering(REQUEST, MODELS[name], "panel") for name in names]
        try:
            return await run.fan_out(drafts, Round(**settings), until=run.deadline.at)
        finally:
            self.took = now() - begun


def states(results: Sequence[Result]) -> list[str]:
    return [result.state for result in results]


class TestHedging:
    @timeless
    async def test_a_quick_answer_is_asked_for_once(self) -> None:
        """What comes within the time needs no second call."""
        team = Team({"a": After(1.9, "x")})
        assert states(await team.ask("a", hedge_after="2s")) == ["ok"]
        assert team.client.names == ["a"]

    @timeless
    async def test_without_it_nobody_is_asked_twice(self) -> None:
        """By default a call may take as long as the round."""
        team = Team({"a": After(90, "x")})
        assert states(await team.ask("a")) == ["ok"]
        assert (team.client.names, team.took) == (["a"], 90)

    @timeless
    async def test_the_second_call_may_win(self) -> None:
        """The first usable answer is the result, and the slow call is broken off."""
        team = Team({"a": in_turn(Hang(), After(3, "second"))})
        (result,) = await team.ask("a", hedge_after="2s")
        assert (result.state, result.text, team.took) == ("ok", "second", 5)
        assert team.client.cancelled == ["a"]
        assert team.client.running == []

    @timeless
    async def test_the_first_call_may_still_win(self) -> None:
        """A call that is only a little late beats the one that was made in its place."""
        team = Team({"a": in_turn(After(3, "first"), Hang())})
        (result,) = await team.ask("a", hedge_after="2s")
        assert (result.text, team.took) == ("first", 3)
        assert team.client.cancelled == ["a"]

    @pytest.mark.parametrize(
        "failing",
        [
            pytest.param(refused(500), id="refused"),
            pytest.param(CallFailed(Failure.CONNECT), id="down"),
            pytest.param(completion("  "), id="blank"),
            pytest.param(After(1, completion(None)), id="empty"),
        ],
    )
    def test_a_failure_does_not_beat_a_slow_good_answer(self, failing: Step) -> None:
        """Whichever of the two fails, the other is waited for."""

        @timeless
        async def test() -> None:
            team = Team(
                {
                    "a": in_turn(After(10, "slow"), failing),
                    "b": in_turn(After(3, failing), After(10, "hedge")),
                }
            )
            results = await team.ask("a", "b", hedge_after="2s")
            assert [result.text for result in results] == ["slow", "hedge"]

        test()  # fmt: skip

    @timeless
    async def test_a_quick_failure_is_not_hedged(self) -> None:
        """Hedging is against slowness; failures have their substitutes."""
        team = Team({"a": refused(500)})
        assert states(await team.ask("a", hedge_after="2s")) == ["failed"]
        assert team.client.names == ["a"]

    @timeless
    async def test_both_may_fail(self) -> None:
        """Then the call has failed, with a reason."""
        team = Team({"a": After(3, refused(429, 7))})
        (result,) = await team.ask("a", hedge_after="2s")
        assert result.state == "failed"
        assert result.error is not None
        assert result.error.status == 429

    @timeless
    async def test_there_are_never_more_than_two(self) -> None:
        """One hedge, however long it takes."""
        team = Team({"a": Hang()}, seconds=50)
        assert states(await team.ask("a", hedge_after="2s")) == ["timed_out"]
        assert team.client.names == ["a", "a"]

    @timeless
    async def test_both_calls_are_counted(self) -> None:
        """The call that lost was made as well, and what it may have cost is booked."""
        team = Team({"a": in_turn(Hang(), "second")}, calls=2)
        await team.ask("a", hedge_after="2s")
        assert team.ledger.calls == 2
        assert team.ledger.reserved.calls == 0

    @timeless
    async def test_what_the_budget_does_not_hold_is_not_made(self) -> None:
        """Without room for a second call the first is waited for."""
        team = Team({"a": After(10, "slow")}, calls=1)
        (result,) = await team.ask("a", hedge_after="2s")
        assert (result.text, team.client.names) == ("slow", ["a"])

    @timeless
    async def test_a_cancelled_round_ends_both(self) -> None:
        """Nobody goes on when the client has left."""
        team = Team({"a": Hang()})
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(team.ask("a", hedge_after="2s"))
            await asyncio.sleep(5)
            assert team.client.running == ["a", "a"]
            asking.cancel()
        assert (team.client.running, team.client.cancelled) == ([], ["a", "a"])

    @timeless
    async def test_the_end_of_the_round_ends_both(self) -> None:
        """At the first failure of another, if that is what ends the round."""
        team = Team({"a": Hang(), "b": in_turn(After(5, refused(500)), After(3, refused(500)))})
        with pytest.raises(UpstreamFailed):
            await team.ask("a", "b", hedge_after="2s", on_error="fail")
        assert team.client.cancelled == ["a", "a"]
        assert (team.client.running, team.took) == ([], 5)

    @timeless
    async def test_none_is_made_behind_the_quorum(self) -> None:
        """Not even one that waits for its turn: who is left may straggle, and nobody else begins."""
        team = Team({"a": After(3, "yes"), "b": Hang()})
        results = await team.ask("a", "b", hedge_after="2s", max_concurrent=2, straggler_factor=1.5)
        assert states(results) == ["ok", "cancelled"]
        assert team.client.names == ["a", "b"]
        assert team.took == 4.5

    @timeless
    async def test_a_mistake_in_a_call_is_not_hidden(self) -> None:
        """What no call may raise ends the round, not only its own call."""

        async def ask(draft: Draft) -> Result:
            await asyncio.sleep(3)
            raise ZeroDivisionError

        drafts = [answering(REQUEST, MODELS["a"], "panel")]
        settings = Round.model_validate({"hedge_after": "2s"})
        with pytest.raises(ExceptionGroup):
            await fan_out(drafts, ask, settings, MODELS, until=now() + 50)


class TestMaxConcurrent:
    @timeless
    async def test_holds_for_hedges_as_well(self) -> None:
        """A hedge is a call: never are more under way than are allowed at once."""
        team = Team({name: in_turn(After(9, name), After(4, name)) for name in "abc"})
        results = await team.ask("a", "b", "c", hedge_after="2s", max_concurrent=2)
        assert states(results) == ["ok", "ok", "ok"]
        assert team.client.most_at_once <= 2

    @timeless
    async def test_a_substitute_takes_the_turn_of_the_one_that_failed(self) -> None:
        """It starts neither beside others nor behind them."""
        team = Team({"a": After(1, refused(500)), "b": After(3, "b"), "spare": After(5, "spare")})
        results = await team.ask("a", "b", substitutes=("spare",), max_concurrent=1)
        assert team.client.names == ["a", "spare", "b"]
        assert team.client.most_at_once == 1
        assert [result.text for result in results] == ["spare", "b"]


class TestSubstitutes:
    @timeless
    async def test_one_that_fails_is_replaced(self) -> None:
        """The result is the substitute's, in the place of the call, and says who gave it."""
        team = Team({"a": refused(500), "b": "b", "spare": "spare"})
        results = await team.ask("a", "b", substitutes=("spare",))
        assert [(result.model.name, result.text) for result in results] == [
            ("spare", "spare"),
            ("b", "b"),
        ]

    @timeless
    async def test_they_are_asked_in_turn(self) -> None:
        """The next only when the one before has failed as well."""
        team = Team({"a": refused(500), "spare": After(1, refused(503)), "other": "other"})
        (result,) = await team.ask("a", substitutes=("spare", "other"))
        assert team.client.names == ["a", "spare", "other"]
        assert result.text == "other"

    @timeless
    async def test_an_answer_needs_none(self) -> None:
        """Nobody else is asked as soon as there is a usable answer."""
        team = Team({"a": refused(500), "spare": "spare", "other": "other"})
        await team.ask("a", substitutes=("spare", "other"))
        assert team.client.names == ["a", "spare"]

    @pytest.mark.parametrize(
        "step",
        [
            pytest.param(refused(400), id="refused"),
            pytest.param(completion(""), id="blank"),
            pytest.param(CallFailed(Failure.BROKEN), id="broken"),
            pytest.param(CallFailed(Failure.TIMEOUT), id="timed-out"),
        ],
    )
    def test_whatever_is_no_answer_is_replaced(self, step: Step) -> None:
        """A blank answer is as good as none."""

        @timeless
        async def test() -> None:
            team = Team({"a": step, "spare": "spare"})
            assert [result.text for result in await team.ask("a", substitutes=("spare",))] == [
                "spare"
            ]

        test()  # fmt: skip

    @timeless
    async def test_a_model_is_no_substitute_for_itself(self) -> None:
        """What it could not do once, it is not asked again."""
        team = Team({"a": refused(500), "spare": refused(503)})
        (result,) = await team.ask("a", substitutes=("a", "spare"))
        assert team.client.names == ["a", "spare"]
        assert result.error is not None
        assert result.error.status == 503

    @timeless
    async def test_there_is_none_for_a_budget(self) -> None:
        """Where there is no room for a call, there is none for another's."""
        team = Team({"a": "a", "b": "b", "spare": "spare"}, calls=1)
        results = await team.ask("a", "b", substitutes=("spare", "other"), max_concurrent=1)
        assert states(results) == ["ok", "not_started"]
        assert team.client.names == ["a"]

    @timeless
    async def test_they_stop_when_the_budget_does(self) -> None:
        """A substitute that cannot be afforded is not made, and the call has failed."""
        team = Team({"a": refused(500), "spare": "spare"}, calls=1)
        (result,) = await team.ask("a", substitutes=("spare", "other"))
        assert result.text == ""
        assert team.client.names == ["a"]

    @timeless
    async def test_an_unsuitable_one_costs_nothing(self) -> None:
        """A model that cannot take the request is replaced without being asked."""
        models = {**MODELS, "a": model("a", context_window=1)}
        client = ScriptedClient({"spare": "spare"})
        ledger = Ledger(Budget(calls=1), planned_calls=1)
        run = Run("r", models, client, ledger, Deadline.after(10), seeded(REQUEST))
        settings = Round.model_validate({"substitutes": ["spare"]})
        draft = answering(REQUEST, models["a"], "panel")
        (result,) = await run.fan_out([draft], settings, until=run.deadline.at)
        assert (result.text, client.names, ledger.calls) == ("spare", ["spare"], 1)

    @timeless
    async def test_on_error_fails_only_when_all_have(self) -> None:
        """A call that a substitute saved has not failed."""
        team = Team({"a": refused(500), "b": After(5, "b"), "spare": "spare"})
        results = await team.ask("a", "b", substitutes=("spare",), on_error="fail")
        assert states(results) == ["ok", "ok"]

    @timeless
    async def test_on_error_ends_the_round_when_substitutes_fail_too(self) -> None:
        """Then at once."""
        team = Team({"a": refused(500), "b": Hang(), "spare": After(1, refused(500))})
        with pytest.raises(UpstreamFailed):
            await team.ask("a", "b", substitutes=("spare",), on_error="fail")
        assert (team.client.cancelled, team.took) == (["b"], 1)

    @timeless
    async def test_none_starts_after_the_end(self) -> None:
        """When the round's time is up, no call of it begins any more."""
        team = Team({"a": Hang(), "spare": "late"}, seconds=10)
        (result,) = await team.ask("a", substitutes=("spare",))
        assert (result.state, team.took) == ("timed_out", 10)
        assert team.client.names == ["a"]

    @timeless
    async def test_each_is_hedged_like_the_one_it_stands_for(self) -> None:
        """A slow substitute is asked a second time as well."""
        team = Team({"a": refused(500), "spare": in_turn(Hang(), "second")})
        (result,) = await team.ask("a", substitutes=("spare",), hedge_after="2s")
        assert (result.text, team.took) == ("second", 2)
        assert team.client.names == ["a", "spare", "spare"]


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        pytest.param({}, 3, id="plain"),
        pytest.param({"hedge_after": "1s"}, 6, id="hedged"),
        pytest.param({"substitutes": ["b", "c"]}, 9, id="substituted"),
        pytest.param({"hedge_after": "1s", "substitutes": ["b", "c"]}, 18, id="both"),
    ],
)
def test_the_most_calls_of_a_round_are_known_before(settings: dict[str, Any], most: int) -> None:
    """A budget is compared with the worst case, in which every call is slow and fails."""
    plan = Round.model_validate(settings).in_round([PlannedCall(("a",), "panel", reads=2)] * 3)
    assert planned_calls(plan) == len(plan) == most
    assert [call.need for call in plan].count("always") == 3
    assert {call.models for call in plan} == {
        ("a",),
        *((n,) for n in settings.get("substitutes", ())),
    }
    assert {call.reads for call in plan} == {2}


@pytest.mark.parametrize(
    ("script", "settings", "told"),
    [
        (
            {"a": in_turn(Hang(), "x")},
            {"hedge_after": "2s"},
            [("a", None, "cancelled", "the other call was quicker"), ("a", "hedge", "ok", None)],
        ),
        (
            {"a": refused(500), "spare": "x"},
            {"substitutes": ("spare",)},
            [("a", None, "failed", "status"), ("spare", "substitute", "ok", None)],
        ),
        (
            {"a": "x", "b": After(9, "x")},
            {"straggler_factor": 2, "hedge_after": "20s"},
            [("a", None, "ok", None), ("b", None, "cancelled", "the others did not wait")],
        ),
        (
            {"a": After(1, refused(500)), "b": After(9, "x")},
            {"on_error": "fail", "hedge_after": "20s"},
            [("a", None, "failed", "status"), ("b", None, "cancelled", "another call failed")],
        ),
    ],
    ids=["hedged", "substituted", "straggled", "failed"],
)
@timeless
async def test_a_trace_says_why_a_call_was_made_and_why_it_was_given_up(
    script: Mapping[str, Step], settings: dict[str, Any], told: list[tuple[Any, ...]]
) -> None:
    """In words of ours: what was asked beside or in place of another, and what the cancelled ones were too slow for."""
    team = Team(script)
    with suppress(UpstreamFailed):
        await team.ask(*(name for name in script if name != "spare"), **settings)
    calls = team.trace.to_dict()["calls"]
    keys = ("model", "stands_in", "state", "reason")
    assert [tuple(call.get(key) for key in keys) for call in calls] == told
