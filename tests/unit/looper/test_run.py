import asyncio
import json
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel, model_validator

from looper.calling.budget import Amount, Budget, Grant, Ledger
from looper.calling.calls import CallFailed, Failure, Result
from looper.calling.drafts import Draft
from looper.calling.fanout import Round, fan_out
from looper.errors import DeadlineExceeded, LooperError, NothingButThoughts, UpstreamFailed
from looper.run import Deadline, Heartbeat, Run, drive, seeded
from looper.wire.chat import ChatRequest, Completion, Usage, WireUsage
from looper.wire.events import Delta, Done, Event, Finish, Progress
from tests.fakes.clock import timeless
from tests.fakes.models import (
    After,
    Attempts,
    Hang,
    ScriptedClient,
    Step,
    Stream,
    chunk,
    chunks,
    completion,
    in_turn,
    last_chunk,
    model,
    refused,
)

REQUEST = ChatRequest.parse(b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}')
FOREVER = 100_000.0


def run_of(
    client: ScriptedClient | None = None, *, seconds: float = 60, calls: int | None = None
) -> Run:
    ledger = Ledger(Budget(calls=calls), planned_calls=calls or 0)
    models = {"m": model("m")}
    return Run(
        "r", models, client or ScriptedClient({}), ledger, Deadline.after(seconds), Random(1), {"x": "y"}
    )  # fmt: skip


MEMBERS = {"messages": REQUEST.members["messages"]}


def call(name: str = "m") -> Draft:
    return Draft(model(name), "panel", MEMBERS, 1)


def prompted(name: str = "m") -> Draft:
    """A call whose prompt is taken to have forty tokens."""
    return replace(call(name), input_tokens=40)


def now() -> float:
    return asyncio.get_running_loop().time()


class Says:
    """A pattern that waits and speaks in turn, and notices when it is closed."""

    def __init__(self, *steps: float | Event | BaseException, closing: float = 0) -> None:
        self._steps = steps
        self._closing = closing
        self.said = 0
        self.closed = False

    async def run(self, request: ChatRequest, run: Run) -> AsyncGenerator[Event]:
        try:
            for step in self._steps:
                if isinstance(step, float | int):
                    await asyncio.sleep(step)
                elif isinstance(step, BaseException):
                    raise step
                else:
                    self.said += 1
                    yield step
            await asyncio.sleep(self._closing)
        finally:
            self.closed = True


class Listener:
    """Takes what is emitted, each thing in some seconds, and remembers when it came."""

    def __init__(self, seconds: float = 0) -> None:
        self._seconds = seconds
        self._begun = now()
        self.heard: list[tuple[float, Event | Heartbeat]] = []
        self.busy = 0
        self.most = 0

    async def __call__(self, what: Event | Heartbeat) -> None:
        self.heard.append((round(now() - self._begun, 3), what))
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            await asyncio.sleep(self._seconds)
        finally:
            self.busy -= 1

    @property
    def beats(self) -> list[float]:
        return [at for at, what in self.heard if isinstance(what, Heartbeat)]

    @property
    def events(self) -> list[Event]:
        return [what for _, what in self.heard if not isinstance(what, Heartbeat)]


A, B, C = (Delta("content", text) for text in "abc")


class TestHeartbeat:
    @timeless
    async def test_comes_after_each_silence(self) -> None:
        """While the pattern says nothing, a heartbeat comes every so often, and none besides."""
        listener = Listener()
        await drive(Says(35, A, 5, B, 25), REQUEST, run_of(seconds=100), listener, heartbeat=10)
        assert listener.beats == [10, 20, 30, 50, 60]
        assert listener.events == [A, B]

    @timeless
    async def test_does_not_come_while_there_is_something_to_say(self) -> None:
        """A pattern that speaks often enough needs nobody to speak for it."""
        listener = Listener()
        await drive(Says(9, A, 9, B, 9, C, 9), REQUEST, run_of(), listener, heartbeat=10)
        assert listener.beats == []

    @timeless
    async def test_says_nothing_while_something_else_is_being_said(self) -> None:
        """Events and heartbeats never overlap: what is said arrives whole."""
        listener = Listener(seconds=4)
        await drive(Says(11, A, 11, B, 11), REQUEST, run_of(seconds=100), listener, heartbeat=10)
        assert listener.most == 1

    @timeless
    async def test_a_slow_listener_is_no_silence(self) -> None:
        """The silence begins when the last thing said was taken, however long that took."""
        listener = Listener(seconds=25)
        await drive(Says(A, 5, B, 5), REQUEST, run_of(seconds=100), listener, heartbeat=10)
        assert listener.beats == []
        assert listener.events == [A, B]

    @timeless
    async def test_is_not_heard_after_the_end(self) -> None:
        """When the last event was taken, nothing comes behind it."""
        listener = Listener()
        await drive(Says(A), REQUEST, run_of(), listener, heartbeat=10)
        await asyncio.sleep(100)
        assert listener.beats == []

    @timeless
    async def test_is_not_heard_after_done(self) -> None:
        """Done is the last thing a listener hears, also if the pattern takes its time to close."""
        done = Done(Usage(), "ok")
        listener = Listener()
        await drive(Says(A, done, closing=35), REQUEST, run_of(), listener, heartbeat=10)
        assert listener.heard[-1][1] == done

    @timeless
    async def test_that_cannot_be_said_ends_the_run(self) -> None:
        """When nobody can be told any more, there is nothing to go on for."""

        async def emit(what: Event | Heartbeat) -> None:
            raise ConnectionError

        pattern = Says(35, A)
        with pytest.raises(ConnectionError):
            await drive(pattern, REQUEST, run_of(), emit, heartbeat=10)
        assert pattern.closed
        assert pattern.said == 0


class TestNothingButThoughts:
    async def test_is_an_empty_answer(self) -> None:
        """As models that think give it when their tokens are used up: 200, nothing said, and why it ended."""

        class Thinks:
            async def run(self, request: ChatRequest, run: Run) -> AsyncGenerator[Event]:
                yield Progress("panel")
                raise NothingButThoughts("They only thought.")

        listener = Listener()
        await drive(Thinks(), REQUEST, run_of(), listener, heartbeat=10)
        said = [event for event in listener.events if not isinstance(event, Progress)]
        assert said[:2] == [Delta("content", ""), Finish("length")]
        assert isinstance(said[2], Done)
        assert said[2].outcome == "degraded"


class TestDrive:
    @timeless
    async def test_hands_over_each_event_in_its_order(self) -> None:
        """What a pattern says is what is heard."""
        events: list[Event] = [Progress("panel"), A, B, Finish("stop"), Done(Usage(1), "ok")]
        listener = Listener()
        await drive(Says(*events), REQUEST, run_of(), listener, heartbeat=10)
        assert listener.events == events

    @timeless
    async def test_does_not_read_ahead_of_its_listener(self) -> None:
        """While what was said is being taken, the pattern waits."""
        pattern = Says(A, B, C)
        seen = []

        async def emit(what: Event | Heartbeat) -> None:
            await asyncio.sleep(3)
            seen.append(pattern.said)

        await drive(pattern, REQUEST, run_of(), emit, heartbeat=10)
        assert seen == [1, 2, 3]

    @pytest.mark.parametrize("listening", [0, 5], ids=["quick", "slow"])
    def test_ends_at_the_deadline(self, listening: float) -> None:
        """At the deadline it is over, whatever the pattern or its listener is doing then."""

        @timeless
        async def test() -> None:
            begun, pattern = now(), Says(8, A, 100, B)
            with pytest.raises(DeadlineExceeded) as caught:
                await drive(pattern, REQUEST, run_of(seconds=10), Listener(listening), heartbeat=30)
            assert now() - begun == pytest.approx(10)
            assert caught.value.status == 504
            assert pattern.closed

        test()

    @timeless
    async def test_a_deadline_that_has_passed_is_a_deadline(self) -> None:
        """Without any time there is no answer."""
        with pytest.raises(DeadlineExceeded):
            await drive(Says(1, A), REQUEST, run_of(seconds=-1), Listener(), heartbeat=10)

    @pytest.mark.parametrize(
        "error", [UpstreamFailed("no"), ZeroDivisionError(), TimeoutError(), KeyError("x")], ids=repr
    )  # fmt: skip
    def test_raises_what_the_pattern_raises(self, error: Exception) -> None:
        """The pattern's own error comes out, not a group that holds it, nor a deadline that did not pass."""

        @timeless
        async def test() -> None:
            with pytest.raises(type(error)) as caught:
                await drive(Says(1, A, error), REQUEST, run_of(), Listener(), heartbeat=10)
            assert caught.value is error

        test()

    @timeless
    async def test_cancellation_closes_the_pattern(self) -> None:
        """Who cancels finds the pattern closed, its heartbeat silent, and no task left."""
        pattern, listener, before = Says(A, 1000), Listener(), asyncio.all_tasks()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(drive(pattern, REQUEST, run_of(), listener, heartbeat=10))
            await asyncio.sleep(25)
            task.cancel()
        assert task.cancelled()
        assert pattern.closed
        assert listener.beats == [10, 20]
        assert asyncio.all_tasks() == before

    @timeless
    async def test_leaves_no_task_behind(self) -> None:
        """After a good end the heartbeat's task is gone."""
        before = asyncio.all_tasks()
        await drive(Says(A), REQUEST, run_of(), Listener(), heartbeat=10)
        assert asyncio.all_tasks() == before


class TestAsk:
    @pytest.mark.parametrize(
        ("step", "state"),
        [
            pytest.param("yes", "ok", id="answer"),
            pytest.param(completion(" "), "unusable", id="blank"),
            pytest.param(completion(None, reasoning_content="hm"), "unusable", id="thoughts"),
            pytest.param(CallFailed(Failure.UNUSABLE), "unusable", id="garbage"),
            pytest.param(CallFailed(Failure.TIMEOUT), "timed_out", id="late"),
            pytest.param(CallFailed(Failure.CONNECT), "failed", id="unreachable"),
            pytest.param(CallFailed(Failure.BROKEN), "failed", id="cut"),
            pytest.param(refused(429), "failed", id="status"),
        ],
    )
    async def test_a_failure_is_a_result(self, step: Step, state: str) -> None:
        """What comes of a call is a value; its error says why there is no answer."""
        result = await run_of(ScriptedClient({"m": step})).ask(call(), until=FOREVER)
        assert result.state == state
        assert (result.error is None) == (state == "ok")
        assert (result.completion is not None) == isinstance(step, str | Completion)

    @timeless
    async def test_until_is_the_calls_deadline(self) -> None:
        """The client is told by when the call must have ended."""
        client, begun = ScriptedClient({"m": Hang()}), now()
        result = await run_of(client).ask(call(), until=begun + 7)
        assert result.state == "timed_out"
        assert now() - begun == pytest.approx(7)

    async def test_the_runs_headers_go_with_it(self) -> None:
        """Tracing headers of the client are those of each call."""
        client = ScriptedClient({"m": "yes"})
        await run_of(client).ask(call(), until=FOREVER)
        assert client.asked[0].headers == {"x": "y"}

    async def test_a_call_over_the_budget_is_not_made(self) -> None:
        """The budget is asked before the model is."""
        client = ScriptedClient({"m": "yes"})
        run = run_of(client, calls=1)
        assert (await run.ask(call(), until=FOREVER)).state == "ok"
        result = await run.ask(call(), until=FOREVER)
        assert result.state == "not_started"
        assert result.error is not None
        assert result.error.failure is Failure.BUDGET
        assert (len(client.asked), run.ledger.calls) == (1, 1)


class TestFanOut:
    async def test_failures_are_results_in_order(self) -> None:
        """A fan-out of a run asks through the run: budget, headers and usage included."""
        client = ScriptedClient({"a": "yes", "b": refused(500), "c": "no"})
        run = run_of(client, calls=2)
        results = await run.fan_out([call(name) for name in "abc"], Round(), until=FOREVER)
        assert [result.state for result in results] == ["ok", "failed", "not_started"]
        assert run.ledger.usage == Usage(10, 5)

    @timeless
    async def test_on_error_fail_is_passed_on(self) -> None:
        """A run ends as its pattern wants it to, at once."""
        client = ScriptedClient({"a": After(1, refused(500)), "b": Hang()})
        began = asyncio.get_running_loop().time()
        with pytest.raises(UpstreamFailed):
            await run_of(client).fan_out(
                [call(name) for name in "ab"], Round(on_error="fail"), until=FOREVER
            )
        assert client.cancelled == ["b"]
        assert asyncio.get_running_loop().time() - began == pytest.approx(1)

    @timeless
    async def test_what_is_late_is_never_called_cancelled(self) -> None:
        """Neither in the results nor in the trace, whichever clock is the first to say so."""

        async def deaf(asked: Draft) -> Result:
            return await run.ask(asked, until=FOREVER)

        for on_error in ("skip", "fail"):
            client = ScriptedClient({"a": Hang(), "b": Hang(), "c": "yes"})
            run = run_of(client)
            until = asyncio.get_running_loop().time() + 5
            drafts, settings = [call(name) for name in "abc"], Round(on_error=on_error)
            results = await fan_out(drafts, deaf, settings, {}, until=until)
            assert [each.state for each in results] == ["timed_out", "timed_out", "ok"]

            run = run_of(client)
            until = asyncio.get_running_loop().time() + 5
            with suppress(LooperError):
                await run.fan_out(drafts, settings, until=until)
            states = [record.state for record in run.trace.calls]
            assert states == ["timed_out", "timed_out", "ok"]


class TestStream:
    async def test_chunks_are_handed_on(self) -> None:
        """Each chunk comes out as it was sent."""
        sent = chunks("hello")
        run = run_of(ScriptedClient({"m": Stream(sent)}))
        assert [piece async for piece in run.stream(call(), until=FOREVER)] == sent

    async def test_usage_is_settled(self) -> None:
        """The usage at the end of a stream is booked like that of a whole answer."""
        run = run_of(ScriptedClient({"m": "hello"}))
        _ = [piece async for piece in run.stream(call(), until=FOREVER)]
        assert (run.ledger.calls, run.ledger.usage) == (1, Usage(10, 5))

    async def test_usage_that_grows_is_settled_once(self) -> None:
        """Where each chunk tells the usage so far, the last one is what the call took."""
        sent = [chunk(text, usage=WireUsage(10, count)) for count, text in enumerate("abc", 1)]
        run = run_of(ScriptedClient({"m": Stream([*sent, last_chunk(WireUsage(10, 3))])}))
        _ = [piece async for piece in run.stream(call(), until=FOREVER)]
        assert run.ledger.usage == Usage(10, 3)

    async def test_usage_that_was_seen_before_a_break_is_settled(self) -> None:
        """A stream that breaks has cost what it said it had."""
        sent = [chunk("a", usage=WireUsage(10, 1))]
        run = run_of(ScriptedClient({"m": Stream(sent, CallFailed(Failure.BROKEN))}))
        with pytest.raises(CallFailed):
            await read(run.stream(call(), until=FOREVER))
        assert run.ledger.usage == Usage(10, 1)

    async def test_what_only_began_like_something_of_ours_is_said_before_a_break(self) -> None:
        """It was held back, as the rest might have been the rest of a mark."""
        told = "[candidate 1 f00f]\nyes\n[end of candidate 1 f00f]"
        ours = (msgspec.Raw(msgspec.json.encode({"role": "user", "content": told})),)
        run = run_of(ScriptedClient({"m": Stream([chunk("half")], CallFailed(Failure.BROKEN))}))
        said: list[str] = []
        with suppress(CallFailed):
            async for piece in run.stream(replace(call(), ours=ours), until=FOREVER):
                said += [choice.delta.content or "" for choice in piece.choices if choice.delta]
        assert (len(said), "".join(said)) == (2, "half")

    @pytest.mark.parametrize("word", ["error", "network_error", "insufficient_system_resource"])
    async def test_an_end_that_is_a_break_is_a_failure(self, word: str) -> None:
        """Whole or streamed; what the backend says of its usage is booked all the same."""
        run = run_of(ScriptedClient({"m": completion("hello", finish=word)}))
        result = await run.ask(call(), until=FOREVER)
        assert (result.state, result.text) == ("failed", "")
        sent = [chunk("hel"), chunk("lo", finish=word), last_chunk()]
        streaming = run_of(ScriptedClient({"m": Stream(sent)}))
        with pytest.raises(CallFailed):
            await read(streaming.stream(call(), until=FOREVER))
        assert run.ledger.usage == streaming.ledger.usage == Usage(10, 5)

    @pytest.mark.parametrize("failure", [Failure.BROKEN, Failure.TIMEOUT, Failure.UNUSABLE])
    async def test_a_break_before_its_usage_is_settled_as_an_estimate(
        self, failure: Failure
    ) -> None:
        """The prompt, and what was seen of the answer: four characters are a token."""
        sent = [chunk("a" * 10), chunk("b" * 10)]
        run = run_of(ScriptedClient({"m": Stream(sent, CallFailed(failure))}))
        with pytest.raises(CallFailed):
            await read(run.stream(prompted(), until=FOREVER))
        assert run.ledger.usage == Usage(40, 5, estimated=45)
        (record,) = run.trace.to_dict()["calls"]
        assert (record["usage"]["total_tokens"], record["estimated"]) == (45, True)

    @pytest.mark.parametrize(
        "called",
        [
            {"function": {"name": "look", "arguments": '{"a": 1}'}},
            {"type": "custom", "custom": {"name": "look", "input": '{"a": 1}'}},
        ],
        ids=["function", "custom"],
    )
    async def test_thoughts_and_tool_calls_are_seen_as_well(self, called: dict[str, Any]) -> None:
        """Whatever a model writes is paid for."""
        call_ = {"index": 0, **called}
        sent = [chunk(reasoning_content="hmmm"), chunk(tool_calls=[call_])]
        run = run_of(ScriptedClient({"m": Stream(sent, CallFailed(Failure.BROKEN))}))
        with pytest.raises(CallFailed):
            await read(run.stream(prompted(), until=FOREVER))
        assert run.ledger.usage == Usage(40, 4, estimated=44)

    async def test_an_estimate_is_no_more_than_was_reserved(self) -> None:
        sent = [chunk("long " * 1000)]
        run = run_of(ScriptedClient({"m": Stream(sent, CallFailed(Failure.BROKEN))}))
        short = replace(prompted(), wanted_output=7)
        with pytest.raises(CallFailed):
            await read(run.stream(short, until=FOREVER))
        assert run.ledger.usage == Usage(40, 7, estimated=47)

    async def test_a_break_before_any_chunk_is_a_call_and_no_more(self) -> None:
        run = run_of(ScriptedClient({"m": Stream([], CallFailed(Failure.BROKEN))}))
        with pytest.raises(CallFailed):
            await read(run.stream(prompted(), until=FOREVER))
        assert (run.ledger.calls, run.ledger.usage) == (1, Usage())
        assert "usage" not in run.trace.to_dict()["calls"][0]

    async def test_who_stops_reading_has_used_what_came(self) -> None:
        """A reader that leaves, and one that is cancelled, are the same to the bill."""
        run = run_of(ScriptedClient({"m": Stream([chunk("a" * 8), chunk("b")])}))
        async with aclosing(run.stream(prompted(), until=FOREVER)) as pieces:
            await anext(pieces)
        assert run.ledger.usage == Usage(40, 2, estimated=42)
        assert run.trace.to_dict()["calls"][0]["state"] == "cancelled"

    @timeless
    async def test_one_that_is_cancelled_has_used_what_came(self) -> None:
        run = run_of(ScriptedClient({"m": Stream([chunk("a" * 8)], Hang())}))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await read(run.stream(prompted(), until=FOREVER))
        assert (run.ledger.calls, run.ledger.usage) == (1, Usage(40, 2, estimated=42))
        assert run.ledger.reserved == Amount()

    async def test_an_answer_whose_usage_is_not_told_is_an_estimate(self) -> None:
        """Whole or streamed."""
        for step in (completion("a" * 8, usage=None), Stream([chunk("a" * 8), last_chunk(None)])):
            run = run_of(ScriptedClient({"m": step}))
            if isinstance(step, Stream):
                await read(run.stream(prompted(), until=FOREVER))
            else:
                await run.ask(prompted(), until=FOREVER)
            assert run.ledger.usage == Usage(40, 2, estimated=42)

    async def test_over_the_budget_it_is_not_begun(self) -> None:
        """A stream counts as a call, and is refused as one."""
        client = ScriptedClient({"m": "yes"})
        run = run_of(client, calls=1)
        assert isinstance(run.ledger.reserve(model("m")), Grant)
        with pytest.raises(CallFailed) as caught:
            await read(run.stream(call(), until=FOREVER))
        assert caught.value.failure is Failure.BUDGET
        assert client.asked == []

    async def test_closing_it_closes_the_backends(self) -> None:
        """Who stops reading stops the backend."""
        client = ScriptedClient({"m": Stream([chunk("a"), chunk("b")])})
        async with aclosing(run_of(client).stream(call(), until=FOREVER)) as pieces:
            await anext(pieces)
        assert client.cancelled == ["m"]


async def read(pieces: AsyncGenerator[Completion]) -> None:
    async for _ in pieces:
        pass


class TestMoney:
    async def test_a_blank_answer_is_paid_for(self) -> None:
        """What was not used has cost all the same."""
        run = run_of(ScriptedClient({"m": completion(" ")}))
        await run.ask(call(), until=FOREVER)
        assert (run.ledger.calls, run.ledger.usage) == (1, Usage(10, 5))

    async def test_half_an_answer_is_an_estimate(self) -> None:
        """What breaks off in the midst of one body was written, and is paid for."""
        torn = CallFailed(Failure.BROKEN, seen=80)
        run = run_of(ScriptedClient({"m": torn}))
        assert (await run.ask(prompted(), until=FOREVER)).state == "failed"
        assert run.ledger.usage == Usage(40, 20, estimated=60)

    @timeless
    async def test_who_is_left_has_read_the_prompt(self) -> None:
        """Early stops do not make the ledger smaller than the bill: stragglers and hedging's losers count."""
        client = ScriptedClient({"a": After(1, "yes"), "b": Hang()})
        run = run_of(client)
        results = await run.fan_out(
            [prompted("a"), prompted("b")],
            Round(),
            until=FOREVER,
            stop=lambda results: any(results),
        )
        assert [result.state for result in results] == ["ok", "cancelled"]
        assert (run.ledger.calls, run.ledger.usage) == (2, Usage(50, 5, estimated=40))

    @timeless
    @pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
    async def test_so_has_who_is_late(self, streams: bool) -> None:
        run = run_of(ScriptedClient({"m": Hang()}))
        until = asyncio.get_running_loop().time() + 5
        if streams:
            with pytest.raises(CallFailed):
                await read(run.stream(prompted(), until=until))
        else:
            assert (await run.ask(prompted(), until=until)).state == "timed_out"
        assert (run.ledger.calls, run.ledger.usage) == (1, Usage(40, 0, estimated=40))

    async def test_what_was_never_sent_has_cost_nothing(self) -> None:
        """A call whose time was over before it began reached nobody."""
        late = CallFailed(Failure.TIMEOUT, attempts=0)
        run = run_of(ScriptedClient({"m": late}))
        await run.ask(prompted(), until=FOREVER)
        assert run.ledger.usage == Usage()

    async def test_a_failed_call_counts(self) -> None:
        """A call that came to nothing was a call."""
        run = run_of(ScriptedClient({"m": refused(500)}))
        await run.ask(call(), until=FOREVER)
        assert (run.ledger.calls, run.ledger.usage) == (1, Usage())

    async def test_attempts_of_an_answer_count(self) -> None:
        """What Envoy says of its attempts reaches the ledger."""
        run = run_of(ScriptedClient({"m": Attempts(3, "yes")}))
        await run.ask(call(), until=FOREVER)
        assert run.ledger.calls == 3

    async def test_what_a_model_cannot_take_is_not_sent(self) -> None:
        """A model without a capability that the request needs is not asked, and nothing is spent."""
        client = ScriptedClient({"m": "yes"})
        run = run_of(client)
        blind = Draft(model("m", capabilities=[]), "panel", MEMBERS, 1, needs=frozenset({"vision"}))
        result = await run.ask(blind, until=FOREVER)
        assert result.state == "not_started"
        assert result.error is not None
        assert (result.error.failure, result.error.reason) == (Failure.UNSUITABLE, "vision")
        assert (client.asked, run.ledger.calls) == ([], 0)

    async def test_the_token_limit_is_sent(self) -> None:
        """What the ledger grants is what the call is limited to, under the dialect's one name."""
        client = ScriptedClient({"m": "yes"})
        small = model("m", max_output=1000, dialect="openai")
        await run_of(client).ask(
            Draft(small, "panel", MEMBERS, 1, wanted_output=5000), until=FOREVER
        )
        assert client.asked[0].body["max_completion_tokens"] == 1000
        assert "max_tokens" not in client.asked[0].body


class TestDeadline:
    @timeless
    async def test_share_is_a_part_of_what_is_left(self) -> None:
        """A stage gets its part of the time that those before it have left."""
        begun = now()
        deadline = Deadline.after(100)
        assert deadline.share(0.6) == pytest.approx(begun + 60)
        await asyncio.sleep(50)
        assert deadline.share(0.6) == pytest.approx(begun + 80)
        assert deadline.share(1) == pytest.approx(deadline.at)

    @timeless
    async def test_share_of_nothing_is_now(self) -> None:
        """After the deadline a stage has no time, never less."""
        deadline = Deadline.after(1)
        await asyncio.sleep(5)
        assert deadline.share(0.5) == now()

    def test_a_budget_without_a_deadline_has_one(self) -> None:
        """No run is without an end."""
        assert Budget().deadline == timedelta(seconds=240)


def request_with(**members: object) -> ChatRequest:
    messages = [{"role": "user", "content": "x"}]
    return ChatRequest.parse(json.dumps({"model": "m", "messages": messages, **members}).encode())


def rolls(request: ChatRequest) -> list[float]:
    random = seeded(request)
    return [random.random() for _ in range(3)]


class TestSeeded:
    def test_the_same_request_rolls_the_same(self) -> None:
        """A replay makes the same choices."""
        assert rolls(request_with(user="a")) == rolls(request_with(user="a"))

    def test_another_request_rolls_otherwise(self) -> None:
        """Without a seed, anything in the body makes a difference."""
        assert rolls(request_with(user="a")) != rolls(request_with(user="b"))

    def test_the_seed_decides_alone(self) -> None:
        """With the client's seed, nothing else matters."""
        assert rolls(request_with(seed=7, user="a")) == rolls(request_with(seed=7, user="b"))
        assert rolls(request_with(seed=7)) != rolls(request_with(seed=8))

    def test_a_null_seed_is_none(self) -> None:
        """A member that is null counts as absent: else all such requests would roll the same."""
        assert rolls(request_with(seed=None, user="a")) != rolls(request_with(seed=None, user="b"))


class Verdict(BaseModel):
    """What a private stage is asked for."""

    good: bool


class TestAskingForJson:
    async def test_json_is_read(self) -> None:
        """An answer that fits is what the caller gets, after one call."""
        client = ScriptedClient({"m": '{"good": true}'})
        assert await run_of(client).ask_json(call(), Verdict, until=FOREVER) == Verdict(good=True)
        assert len(client.asked) == 1

    @pytest.mark.parametrize(
        ("first", "roles", "why"),
        [
            pytest.param("Well, it depends.", ["user", "assistant", "user"], "it is not JSON", id="prose"),
            pytest.param('{"good": 7}', ["user", "assistant", "user"], "good: ", id="wrong-value"),
            pytest.param("", ["user"], "it has no content", id="blank"),
            pytest.param("no " * 50_000, ["user"], "it is longer than 131072", id="endless"),
            pytest.param("<think>{}</think>", ["user"], "it has no content", id="thoughts-only"),
        ],
    )  # fmt: skip
    async def test_what_is_no_json_is_asked_for_once_more(
        self, first: str, roles: list[str], why: str
    ) -> None:
        """The model sees what it said and what is wrong with it."""
        client = ScriptedClient({"m": in_turn(first, '{"good": true}')})
        assert await run_of(client).ask_json(call(), Verdict, until=FOREVER) == Verdict(good=True)
        _, again = client.asked
        assert [message["role"] for message in again.body["messages"]] == roles
        assert why in again.prompt

    async def test_long_json_holds_nobody_up(self) -> None:
        """What may take long to read is read in a thread: whatever a model writes, others go on."""
        threads: list[int] = []

        class Noted(BaseModel):
            good: bool

            @model_validator(mode="before")
            @classmethod
            def note(cls, value: Any) -> Any:
                threads.append(threading.get_ident())
                return value

        many = json.dumps({f"k{number}": number for number in range(1_000)})
        client = ScriptedClient({"m": in_turn(many, '{"good": true}')})
        assert await run_of(client).ask_json(call(), Noted, until=FOREVER) == Noted(good=True)
        aside, here = threads[0], threads[-2]
        assert here == threading.get_ident() != aside

    @pytest.mark.parametrize(
        ("steps", "calls"),
        [
            pytest.param(("prose", "prose again"), 2, id="prose-twice"),
            pytest.param((refused(500),), 1, id="failed"),
            pytest.param(("prose", refused(500)), 2, id="failed-later"),
        ],
    )
    async def test_there_may_be_no_answer(self, steps: tuple[Step, ...], calls: int) -> None:
        """After one re-ask it is over; a call that failed is not asked again at all."""
        client = ScriptedClient({"m": in_turn(*steps)})
        assert await run_of(client).ask_json(call(), Verdict, until=FOREVER) is None
        assert len(client.asked) == calls

    async def test_a_budget_without_a_spare_call_has_no_reask(self) -> None:
        """The call that a later stage needs is not spent on asking again."""
        client = ScriptedClient({"m": "prose"})
        run = run_of(client, calls=2)  # both are planned
        assert await run.ask_json(call(), Verdict, until=FOREVER) is None
        assert len(client.asked) == 1


async def test_a_score_is_found_in_the_trace() -> None:
    """A result knows its call, and how it was judged is noted there."""
    run = run_of(ScriptedClient({"m": "yes"}))
    await run.ask(call(), until=FOREVER)
    result = await run.ask(call(), until=FOREVER)
    run.trace.score(result, 0.25, "escalated")
    first, second = run.trace.to_dict()["calls"]
    assert "score" not in first
    assert (second["score"], second["verdict"]) == (0.25, "escalated")
