import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from extproc.config import parse_config
from extproc.exchange.exchange import Exchange
from extproc.exchange.outlet import Outlet
from extproc.exchange.reply import Answering, Reply, reply_for
from extproc.process.outflow import Outflow
from extproc.process.runtime import Runtime, build
from extproc.protocol.actions import Action, CloseStream, OpenStream, Respond, StreamData
from extproc.protocol.events import BodyMode, Event
from looper.calling.budget import Budget, Ledger
from looper.errors import Overloaded, UpstreamFailed
from looper.run import Deadline, Heartbeat, Run
from looper.wire.chat import ChatRequest, Usage
from looper.wire.events import Delta, Done, Finish, Progress
from looper.wire.sse import DONE, EventReader
from tests.fakes.channel import ScriptedChannel, body, exchange_of, exchanged, opening
from tests.fakes.clock import timeless
from tests.fakes.models import (
    After,
    Hang,
    ScriptedClient,
    Step,
    Stream,
    chunk,
    in_turn,
    refused,
)

FDS, BUFFERED = BodyMode.FULL_DUPLEX, BodyMode.BUFFERED
SECRETS = ("sk-secret", "10.0.0.9", "private question", "private draft")

CONFIG = """
version: 1
egress: unix:/run/egress.sock
heartbeat: 10s
models:
  - name: small
    upstream_model: qwen
    url: "http://10.0.0.9/v1"
    headers: {x-account: sk-secret}
    price: {input: 1, output: 2}
  - {name: large, url: "http://10.0.0.9/v1", price: {input: 10, output: 20}}
recipes:
  team:
    decisions:
      - name: panel
        algorithm: {type: fusion, analysis_models: [small], judge_model: large}
        budget: {deadline: 60s}
entrypoints: {looper/team: team}
"""
JUDGED = '{"winner": 1, "agreement": 1}'
SCRIPT: Mapping[str, Step] = {"small": "private draft", "large": in_turn(JUDGED, "the answer")}
ANSWER = (Delta("content", "hi"), Finish("stop"), Done(Usage(7, 3), "ok", Usage(2, 1)))


def runtime(
    script: Mapping[str, Step] = SCRIPT, *, limits: Any = None, debug: bool = False, **decision: Any
) -> Runtime:
    """The configuration above with some members of its decision changed."""
    config = parse_config(CONFIG, "test.yaml")
    recipe = config.recipes["team"]
    changed = recipe.decisions[0].model_copy(update=decision)
    recipes = {"team": recipe.model_copy(update={"decisions": (changed,)})}
    update: dict[str, Any] = {"recipes": recipes, "debug": debug}
    if limits:
        update["limits"] = config.limits.model_copy(update=limits)
    return build(config.model_copy(update=update), ScriptedClient(script))


def chat(**members: Any) -> list[Event]:
    messages = [{"role": "user", "content": "private question"}]
    return body(json.dumps({"model": "looper/team", "messages": messages, **members}).encode())


async def asked(
    built: Runtime, *, mode: BodyMode = FDS, debug: str | None = None, **members: Any
) -> ScriptedChannel:
    headers = {} if debug is None else {"looper-debug": debug}
    return await exchanged(built, opening(mode=mode, headers=headers), chat(**members))


def frames(sse: bytes) -> list[Any]:
    reader = EventReader()
    events = [event.data for event in reader.feed(sse)]
    reader.close()
    assert events.index(DONE) == len(events) - 1
    return [json.loads(data) for data in events[:-1]]


def said(sse: bytes, kind: str) -> str:
    deltas = [frame["choices"][0]["delta"] for frame in frames(sse) if frame.get("choices")]
    return "".join(delta.get(kind) or "" for delta in deltas)


@dataclass
class Sent:
    """A reply by itself, and all of what it said that went out."""

    channel: ScriptedChannel = field(default_factory=lambda: ScriptedChannel([]))
    outflow: Outflow = field(default_factory=lambda: Outflow(1 << 30))

    def __post_init__(self) -> None:
        self.outlet = Outlet(self.channel, lambda why: None)

    @property
    def actions(self) -> list[Action]:
        return self.channel.sent

    def reply(self, *, live: bool = True, stream: bool = False, **decision: Any) -> Reply:
        data = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": stream}
        made = runtime(**decision).policies["team"].decisions[0]
        run = Run("r", {}, ScriptedClient({}), Ledger(Budget()), Deadline.after(9), Random(1))
        answering = Answering(
            request=ChatRequest.parse(json.dumps(data).encode()),
            run=run,
            decision=made,
            facts={"decision": "panel", "recipe": "team", "algorithm": "fusion"},
            log={},
            outflow=self.outflow,
            max_bytes=1 << 20,
        )
        return reply_for(answering, live=live)


KINDS: dict[str, dict[str, Any]] = {
    "live": {"stream": True},
    "whole": {},
    "buffered": {"live": False},
    "buffered-stream": {"live": False, "stream": True},
    "patient": {"keepalive": "whitespace"},
}
each_kind = pytest.mark.parametrize("kind", KINDS)


class TestEveryKind:
    @each_kind
    async def test_says_nothing_after_its_answer(self, kind: str) -> None:
        """Envoy has been told that this was all: neither a late silence nor an error follows."""
        sent = Sent()
        reply = sent.reply(**KINDS[kind])
        for event in ANSWER:
            await sent.outlet.send(*reply.add(event))
        before = sent.actions
        await sent.outlet.send(*reply.add(Heartbeat()))
        await sent.outlet.send(*reply.fail(UpstreamFailed("late")))
        assert sent.actions == before

    @each_kind
    @pytest.mark.parametrize("begun", [False, True], ids=["at-once", "after-a-silence"])
    async def test_fails_once(self, kind: str, begun: bool) -> None:
        """A second error, whatever it is, changes nothing."""
        sent = Sent()
        reply = sent.reply(**KINDS[kind])
        if begun:
            await sent.outlet.send(*reply.add(Heartbeat()))
        await sent.outlet.send(*reply.fail(UpstreamFailed("first")))
        before = sent.actions
        await sent.outlet.send(*reply.fail(UpstreamFailed("second")))
        assert sent.actions == before
        assert isinstance(before[-1], Respond | CloseStream)

    @each_kind
    async def test_ends_with_what_it_cost(self, kind: str) -> None:
        """The last message carries the outcome, for statistics."""
        sent = Sent()
        reply = sent.reply(**KINDS[kind])
        for event in (Progress("panel"), Heartbeat(), *ANSWER):
            await sent.outlet.send(*reply.add(event))
        last = sent.actions[-1]
        assert isinstance(last, Respond | CloseStream)
        assert last.metadata["outcome"] == "ok"


class TestProgress:
    async def test_is_not_told_by_default(self) -> None:
        """Who is at work is nobody's business."""
        channel = await asked(runtime(), stream=True)
        assert said(channel.streamed, "reasoning_content") == ""

    async def test_is_told_as_reasoning(self) -> None:
        """Stages, one line each, before the answer, which is the same as without."""
        channel = await asked(runtime(progress="reasoning"), stream=True)
        assert said(channel.streamed, "reasoning_content") == "panel\njudge\nfinal\n"
        assert said(channel.streamed, "content") == "the answer"

    @timeless
    async def test_comes_while_the_stage_is_at_work(self) -> None:
        """Not afterwards: it is there to make waiting easier."""
        built = runtime({**SCRIPT, "small": After(8, "x")}, progress="reasoning")
        exchange, channel = exchange_of(built, opening(), chat(stream=True))
        async with asyncio.TaskGroup() as group:
            group.create_task(exchange.run())
            await asyncio.sleep(4)
            data = b"".join(a.data for a in channel.sent if isinstance(a, StreamData))
            assert b"panel" in data
            assert b"judge" not in data

    async def test_names_no_model(self) -> None:
        """Stages have names of their own."""
        channel = await asked(runtime(progress="reasoning"), stream=True)
        told = said(channel.streamed, "reasoning_content")
        assert not [name for name in ("small", "large", "qwen") if name in told]

    async def test_is_no_part_of_a_whole_answer(self) -> None:
        """There is nobody to wait."""
        answer = json.loads((await asked(runtime(progress="reasoning"))).respond.body)
        assert answer["choices"][0]["message"].get("reasoning_content") is None


class TestUsage:
    @pytest.mark.parametrize("mode", [FDS, BUFFERED], ids=["full-duplex", "buffered"])
    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
    @pytest.mark.parametrize("count", ["sum", "final"])
    async def test_counts_what_the_decision_says_and_the_other_beside_it(
        self, count: str, stream: bool, mode: BodyMode
    ) -> None:
        """Every call, or the one that wrote the answer; nothing is lost."""
        options: dict[str, Any] = {"stream_options": {"include_usage": True}} if stream else {}
        channel = await asked(runtime(usage=count), mode=mode, stream=stream, **options)
        if stream:
            sse = channel.streamed if mode is FDS else channel.respond.body
            usage = frames(sse)[-1]["usage"]
        else:
            usage = json.loads(channel.respond.body)["usage"]
        other = {"sum": "final", "final": "sum"}[count]
        totals = (usage["total_tokens"], usage["looper"][other]["total_tokens"])
        assert totals == ((45, 15) if count == "sum" else (15, 45))

    async def test_of_an_answer_that_took_the_finals_place_is_its_own(self) -> None:
        """The call that wrote the answer is the panel's, if the final stage failed."""
        script: dict[str, Step] = {"small": "private draft", "large": in_turn(JUDGED, refused(500))}
        answer = json.loads((await asked(runtime(script, usage="final"))).respond.body)
        assert answer["choices"][0]["message"]["content"] == "private draft"
        assert answer["usage"]["total_tokens"] == 15


class TestKeepalive:
    SLOW: Mapping[str, Step] = {**SCRIPT, "small": After(35, "x")}

    @timeless
    async def test_white_space_goes_before_a_late_answer(self) -> None:
        """A status at the first silence, a blank at each, and then JSON that any client reads."""
        channel = await asked(runtime(self.SLOW, keepalive="whitespace"))
        opened = channel.sent[0]
        assert isinstance(opened, OpenStream)
        assert dict(opened.headers)["content-type"] == "application/json;"
        assert channel.streamed.startswith(b"   {")
        answer = json.loads(channel.streamed)
        assert answer["choices"][0]["message"]["content"] == "the answer"
        assert answer["usage"]["total_tokens"] == 45

    @timeless
    async def test_an_answer_in_time_is_as_without(self) -> None:
        """One response, with its outcome in a header."""
        channel = await asked(runtime(keepalive="whitespace"))
        assert dict(channel.only(Respond).headers)["x-looper-outcome"] == "ok"

    @timeless
    async def test_an_error_in_time_is_a_status(self) -> None:
        """Nothing was said yet that it could contradict."""
        channel = await asked(runtime({"small": refused(500)}, keepalive="whitespace"))
        assert channel.only(Respond).status == 502

    @timeless
    async def test_an_error_after_the_first_blank_is_in_the_body(self) -> None:
        """The status is gone; what went wrong is still told, in OpenAI's shape."""
        built = runtime({"small": After(15, refused(500))}, keepalive="whitespace")
        channel = await asked(built)
        assert json.loads(channel.streamed)["error"]["code"] == "upstream_failed"
        closed = channel.sent[-1]
        assert isinstance(closed, CloseStream)
        assert closed.metadata["outcome"] == "failed"

    @timeless
    async def test_the_deadline_is_kept(self) -> None:
        """White space is no answer."""
        channel = await asked(runtime({"small": Hang()}, keepalive="whitespace"))
        assert json.loads(channel.streamed)["error"]["code"] == "deadline_exceeded"

    @timeless
    async def test_is_off_by_default(self) -> None:
        """Without it an unstreamed answer waits for its status."""
        assert (await asked(runtime(self.SLOW))).only(Respond).status == 200

    @timeless
    async def test_is_not_possible_where_nothing_can_be_streamed(self) -> None:
        """In body mode BUFFERED there is one response."""
        channel = await asked(runtime(self.SLOW, keepalive="whitespace"), mode=BUFFERED)
        assert channel.respond.status == 200

    @timeless
    async def test_a_stream_has_comments_instead(self) -> None:
        """White space is for JSON."""
        channel = await asked(runtime(self.SLOW, keepalive="whitespace"), stream=True)
        assert channel.streamed.count(b": working\n\n") == 3
        assert said(channel.streamed, "content") == "the answer"


DEBUG = ("x-looper-models", "x-looper-calls", "x-looper-cost-microusd", "x-looper-stages")


class TestDebug:
    @pytest.mark.parametrize(
        ("allowed", "wanted", "shown"),
        [
            pytest.param(True, "1", True, id="allowed-and-asked"),
            pytest.param(True, None, False, id="not-asked"),
            pytest.param(True, "0", False, id="asked-not-to"),
            pytest.param(False, "1", False, id="not-allowed"),
        ],
    )
    async def test_is_shown_only_if_allowed_and_asked_for(
        self, allowed: bool, wanted: str | None, shown: bool
    ) -> None:
        """Facts of a run are for those who operate it."""
        whole = await asked(runtime(debug=allowed), debug=wanted)
        streamed = await asked(runtime(debug=allowed), debug=wanted, stream=True)
        headers = dict(whole.respond.headers)
        assert [name in headers for name in DEBUG] == [shown] * 4
        assert any("looper" in frame for frame in frames(streamed.streamed)) is shown

    async def test_headers_say_who_was_asked_and_what_it_cost(self) -> None:
        """Of an unstreamed answer."""
        headers = dict((await asked(runtime(debug=True), debug="1")).respond.headers)
        assert headers["x-looper-models"] == "small, large"
        assert headers["x-looper-calls"] == "3"
        assert headers["x-looper-cost-microusd"] == str(10 + 10 + 2 * (100 + 100))
        assert headers["x-looper-outcome"] == "ok"
        assert [part.partition(";")[0] for part in headers["x-looper-stages"].split(", ")] == [
            "panel",
            "judge",
            "final",
        ]

    @pytest.mark.parametrize("named", ["mine", "n\xf6", "tab\t"])
    async def test_headers_say_by_which_names_others_know_the_request(self, named: str) -> None:
        """As far as they can be said in a header."""
        known = {"x-request-id": named, "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
        opened = opening(headers={"looper-debug": "1", **known})
        headers = dict((await exchanged(runtime(debug=True), opened, chat())).respond.headers)
        assert headers["x-looper-trace-id"] == "a" * 32
        assert headers.get("x-looper-request-id") == (named if named == "mine" else None)

    async def test_a_streams_are_one_chunk_before_the_end(self) -> None:
        """Without choices, so that clients skip it."""
        channel = await asked(runtime(debug=True), debug="1", stream=True)
        *before, last = frames(channel.streamed)
        assert not [frame for frame in before if "looper" in frame]
        assert last["choices"] == []
        facts = last["looper"]
        assert (facts["outcome"], facts["calls"], facts["cost_microusd"]) == ("ok", 3, 420)

    async def test_the_chunk_tells_how_each_call_ended(self) -> None:
        """The one that was streamed to the client no less than the others."""
        channel = await asked(runtime(debug=True), debug="1", stream=True)
        text = json.dumps(frames(channel.streamed)[-1]["looper"])
        assert text.count('"state": "ok"') == 3

    async def test_a_stream_in_one_piece_has_them_as_well(self) -> None:
        """In body mode BUFFERED the whole is one response, whose headers say it."""
        channel = await asked(runtime(debug=True), debug="1", stream=True, mode=BUFFERED)
        assert dict(channel.respond.headers)["x-looper-calls"] == "3"

    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
    async def test_tells_no_secrets(self, stream: bool) -> None:
        """Neither words of the conversation nor of drafts, no address, no key."""
        channel = await asked(runtime(debug=True), debug="1", stream=stream)
        told = frames(channel.streamed)[-1] if stream else channel.respond.headers
        text = json.dumps(told)
        assert not [secret for secret in SECRETS if secret in text]


class TestSecrets:
    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
    @pytest.mark.parametrize("small", [refused(500), refused(401), refused(429), ""], ids=str)
    async def test_are_in_no_error(self, small: Step, stream: bool) -> None:
        """Errors are in words of ours."""
        channel = await asked(runtime({"small": small}, debug=True), debug="1", stream=stream)
        text = str(channel.respond)
        assert not [secret for secret in (*SECRETS, "qwen") if secret in text]

    async def test_are_in_no_metadata(self) -> None:
        """What statistics and logs are made of has names and numbers only."""
        channel = await asked(runtime(), stream=True)
        metadata = [a.metadata for a in channel.sent if isinstance(a, OpenStream | CloseStream)]
        assert not [secret for secret in (*SECRETS, "the answer") if secret in str(metadata)]


class TestLargeAnswers:
    LARGE = "x" * 50_000

    def built(self, **limits: int) -> Runtime:
        pieces = [chunk("x" * 1000) for _ in range(50)]
        return runtime(
            {"small": "x", "large": in_turn(JUDGED, Stream([*pieces, chunk(finish="stop")]))},
            limits=limits,
        )

    def whole(self, **limits: int) -> Runtime:
        return runtime({"small": "x", "large": in_turn(JUDGED, self.LARGE)}, limits=limits)

    @pytest.mark.parametrize(
        ("limits", "code"),
        [
            pytest.param({"max_answer_bytes": 20_000}, "answer_too_large", id="of-one"),
            pytest.param({"max_inflight_bytes": 20_000}, "overloaded", id="of-all"),
        ],
    )
    async def test_a_stream_ends_with_an_error_event(
        self, limits: dict[str, int], code: str
    ) -> None:
        """What was said stays; the rest is not even asked for."""
        built = self.built(**limits)
        channel = await asked(built, stream=True)
        assert frames(channel.streamed)[-1]["error"]["code"] == code
        assert 10_000 < len(channel.streamed) < 20_500
        assert built.outflow.total == 0

    @pytest.mark.parametrize("mode", [FDS, BUFFERED], ids=["full-duplex", "buffered"])
    @pytest.mark.parametrize(
        ("limits", "status", "code"),
        [
            pytest.param({"max_answer_bytes": 20_000}, 502, "answer_too_large", id="of-one"),
            pytest.param({"max_inflight_bytes": 20_000}, 503, "overloaded", id="of-all"),
        ],
    )
    async def test_a_whole_is_a_status(
        self, limits: dict[str, int], status: int, code: str, mode: BodyMode
    ) -> None:
        """As nothing was said, the client gets an error instead, and is not to pay once more."""
        built = self.whole(**limits)
        response = (await asked(built, mode=mode)).respond
        assert (response.status, json.loads(response.body)["error"]["code"]) == (status, code)
        assert dict(response.headers)["x-should-retry"] == "false"
        assert (built.outflow.total, built.admission.open) == (0, 0)

    @timeless
    async def test_a_patient_one_is_an_error_in_the_body(self) -> None:
        """After white space was sent."""
        script: dict[str, Step] = {"small": After(15, "x"), "large": in_turn(JUDGED, self.LARGE)}
        built = runtime(script, limits={"max_answer_bytes": 20_000}, keepalive="whitespace")
        channel = await asked(built)
        assert json.loads(channel.streamed)["error"]["code"] == "answer_too_large"
        assert built.outflow.total == 0

    async def test_up_to_the_limit_is_an_answer(self) -> None:
        """The limit itself is allowed."""
        size = len((await asked(self.whole())).respond.body)
        # Ids have the same length, and times for some centuries.
        assert (await asked(self.whole(max_answer_bytes=size))).respond.status == 200
        assert (await asked(self.whole(max_answer_bytes=size - 1))).respond.status == 502

    @timeless
    async def test_all_under_way_are_counted_together(self) -> None:
        """One client that does not read may use up what others need; they are told so."""
        slow = Stream([chunk("x" * 10_000)], Hang())
        built = runtime(
            {"small": "x", "large": in_turn(JUDGED, slow, JUDGED, "y" * 15_000)},
            limits={"max_inflight_bytes": 20_000},
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(asked(built, stream=True))
            await asyncio.sleep(1)
            assert 10_000 < built.outflow.total < 20_000
            assert (await asked(built)).respond.status == 503
        assert built.outflow.total == 0

    @timeless
    async def test_what_was_handed_over_counts_until_envoy_is_done(self) -> None:
        """Envoy keeps what its client has not read: sent is not delivered."""

        class Unread(ScriptedChannel):
            """Envoy, whose client is slow: the exchange is not over for a while."""

            async def receive(self) -> Event | None:
                event = await super().receive()
                if event is None:
                    await asyncio.sleep(30)
                return event

        built = self.whole()
        channel = Unread(chat())
        exchange = Exchange(built, channel, opening())
        async with asyncio.TaskGroup() as group:
            group.create_task(exchange.run())
            await asyncio.sleep(1)
            assert len(channel.only(Respond).body) > 50_000
            assert built.outflow.total > 50_000
        assert built.outflow.total == 0

    @timeless
    async def test_a_client_that_leaves_takes_its_bytes_along(self) -> None:
        """Whatever way an exchange ends, nothing stays counted."""
        slow = Stream([chunk("x" * 10_000)], Hang())
        built = runtime({"small": "x", "large": in_turn(JUDGED, slow)})
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(asked(built, stream=True))
            await asyncio.sleep(1)
            assert built.outflow.total > 10_000
            asking.cancel()
        assert (built.outflow.total, built.admission.open) == (0, 0)


class TestOutflow:
    def test_refuses_what_is_over_the_limit_and_keeps_count(self) -> None:
        """What was refused was not handed over."""
        outflow = Outflow(100)
        outflow.add(60)
        with pytest.raises(Overloaded):
            outflow.add(41)
        outflow.add(40)
        assert outflow.total == 100
        outflow.remove(100)
        assert outflow.total == 0
