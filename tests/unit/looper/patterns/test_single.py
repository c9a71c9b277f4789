import asyncio
import json
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest

from looper.calling.budget import Budget, Ledger
from looper.calling.calls import CallFailed, Failure
from looper.errors import (
    BudgetExhausted,
    ContextLengthExceeded,
    DeadlineExceeded,
    InvalidRequest,
    LooperError,
    RateLimited,
    UpstreamFailed,
    UpstreamMisconfigured,
)
from looper.patterns.single import SingleConfig
from looper.run import Deadline, Run, seeded
from looper.wire.chat import ChatRequest, Choice, Completion, Reply
from looper.wire.events import Delta, Done, Event, Finish
from tests.fakes.clock import timeless
from tests.fakes.models import (
    USAGE,
    After,
    Hang,
    ScriptedClient,
    Step,
    Stream,
    chunk,
    chunks,
    completion,
    last_chunk,
    model,
    refused,
)

NAMES = ("first", "second", "third")
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
BROKEN = CallFailed(Failure.BROKEN)


@dataclass
class Answered:
    """What a run of `single` said, and how it ended."""

    client: ScriptedClient
    ledger: Ledger
    events: list[Event] = field(default_factory=list)
    error: LooperError | None = None
    took: float = 0.0

    def text(self, kind: str = "content", choice: int = 0) -> str:
        deltas = [event for event in self.events if isinstance(event, Delta)]
        return "".join(
            delta.value for delta in deltas if (delta.kind, delta.choice) == (kind, choice)
        )

    @property
    def done(self) -> Done:
        last = self.events[-1]
        assert isinstance(last, Done)
        return last


async def single(
    script: Mapping[str, Step],
    *,
    stream: bool = False,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    calls: int | None = None,
    tokens: int | None = None,
    seconds: float = 60.0,
    **members: Any,
) -> Answered:
    """Ask the models of the script, the later ones being the fallbacks of the first."""
    names = list(script)
    body = {"model": "x", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    request = ChatRequest.parse(json.dumps({**body, **members}).encode())
    client = ScriptedClient(script)
    ledger = Ledger(Budget(calls=calls, tokens=tokens), planned_calls=calls or 0)
    models = {name: model(name, **(settings or {}).get(name, {})) for name in names}
    run = Run("r", models, client, ledger, Deadline.after(seconds), seeded(request))
    pattern = SingleConfig(type="single", model=names[0], fallbacks=tuple(names[1:])).build()
    answered = Answered(client, ledger)
    begun = asyncio.get_running_loop().time()
    try:
        async with aclosing(pattern.run(request, run)) as events:
            async for event in events:
                answered.events.append(event)
    except LooperError as error:
        answered.error = error
    answered.took = asyncio.get_running_loop().time() - begun
    return answered


class TestFallbacks:
    @both_ways
    async def test_nobody_else_is_asked_if_the_first_answers(self, stream: bool) -> None:
        """Fallbacks cost nothing as long as they are not needed."""
        answered = await single({"first": "hello", "second": "no"}, stream=stream)
        assert (answered.text(), answered.done.outcome) == ("hello", "ok")
        assert answered.client.names == ["first"]

    @pytest.mark.parametrize(
        "step",
        [
            pytest.param(refused(500), id="500"),
            pytest.param(refused(429, 3), id="rate-limited"),
            pytest.param(refused(400), id="refused"),
            pytest.param(CallFailed(Failure.CONNECT), id="down"),
            pytest.param(CallFailed(Failure.TIMEOUT), id="timed-out"),
            pytest.param(CallFailed(Failure.UNUSABLE), id="garbage"),
        ],
    )
    @both_ways
    async def test_the_next_answers_if_one_fails(self, step: Step, stream: bool) -> None:
        """Whatever the failure, the client reads the answer of the first that has one."""
        answered = await single({"first": step, "second": step, "third": "hi"}, stream=stream)
        assert (answered.text(), answered.done.outcome) == ("hi", "fallback")
        assert answered.client.names == list(NAMES)

    @both_ways
    @pytest.mark.parametrize("text", ["", " \n\t "], ids=["empty", "white-space"])
    async def test_a_blank_answer_is_none(self, text: str, stream: bool) -> None:
        """Nothing of it reaches the client, and the next is asked."""
        answered = await single({"first": text, "second": "hi"}, stream=stream)
        assert (answered.text(), answered.done.outcome) == ("hi", "fallback")

    async def test_a_stream_that_breaks_before_its_first_word_is_replaced(self) -> None:
        """The role and white space commit to nothing."""
        broken = Stream([chunk("", role="assistant"), chunk("  \n")], BROKEN)
        answered = await single({"first": broken, "second": "hi"}, stream=True)
        assert (answered.text(), answered.done.outcome) == ("hi", "fallback")

    @pytest.mark.parametrize(
        "word",
        [
            pytest.param(chunk("Half"), id="content"),
            pytest.param(chunk(refusal="No"), id="refusal"),
            pytest.param(chunk(tool_calls=[{"index": 0, "id": "c"}]), id="a-tool-call"),
        ],
    )
    async def test_a_stream_that_breaks_after_its_first_word_is_not(self, word: Completion) -> None:
        """What the client has read cannot be taken back, nor continued by somebody else."""
        answered = await single({"first": Stream([word], BROKEN), "second": "hi"}, stream=True)
        assert isinstance(answered.error, UpstreamFailed)
        assert answered.client.names == ["first"]

    async def test_thoughts_commit_to_nothing(self) -> None:
        """Another model may answer what the first has only thought about."""
        thinking = Stream([chunk(reasoning_content="Hm. ")], BROKEN)
        answered = await single({"first": thinking, "second": "hi"}, stream=True)
        assert (answered.text("reasoning_content"), answered.text()) == ("Hm. ", "hi")
        assert answered.done.outcome == "fallback"

    async def test_thoughts_without_an_answer_are_none(self) -> None:
        """A model that only thinks is replaced as well."""
        thinking = Stream([chunk(reasoning_content="Hm."), chunk(finish="stop"), last_chunk()])
        answered = await single({"first": thinking, "second": "hi"}, stream=True)
        assert answered.text() == "hi"

    @both_ways
    async def test_one_that_is_unsuitable_is_not_asked(self, stream: bool) -> None:
        """The first that can take the request answers it."""
        lacks: dict[str, dict[str, Any]] = {
            "first": {"capabilities": []},
            "second": {"context_window": 1},
        }
        answered = await single(
            {"first": "no", "second": "no", "third": "hi"},
            stream=stream,
            settings=lacks,
            tools=[{"type": "function", "function": {"name": "f"}}],
        )  # fmt: skip
        assert answered.client.names == ["third"]
        assert answered.ledger.calls == 1
        assert answered.text() == "hi"


class TestErrors:
    @pytest.mark.parametrize(
        ("steps", "error"),
        [
            pytest.param([refused(500), BROKEN], UpstreamFailed, id="down"),
            pytest.param([refused(429, 7), refused(429, 3)], RateLimited, id="rate-limited"),
            pytest.param([refused(429), refused(500)], UpstreamFailed, id="mixed"),
            pytest.param([refused(400), refused(422)], InvalidRequest, id="refused"),
            pytest.param([refused(401), refused(404)], UpstreamMisconfigured, id="misconfigured"),
            pytest.param([Hang(), Hang()], DeadlineExceeded, id="hanging"),
            pytest.param(["", " "], UpstreamFailed, id="blank"),
        ],
    )
    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
    def test_if_all_fail_the_client_reads_why(
        self, steps: list[Step], error: type[LooperError], stream: bool
    ) -> None:
        """One error that says what went wrong with all of them."""

        @timeless
        async def test() -> None:
            answered = await single(dict(zip(NAMES, steps, strict=False)), stream=stream)
            assert type(answered.error) is error
            assert answered.events == []

        test()

    async def test_the_shortest_wait_is_the_clients(self) -> None:
        """As soon as one of them can answer."""
        answered = await single({"first": refused(429, 7), "second": refused(429, 3)})
        assert answered.error is not None
        assert answered.error.retry_after == 3

    @both_ways
    async def test_if_none_can_take_it_the_request_is_to_blame(self, stream: bool) -> None:
        """Nobody was asked, and the client may mend it."""
        lacks = {name: {"context_window": 1} for name in NAMES}
        answered = await single(dict.fromkeys(NAMES, "no"), stream=stream, settings=lacks)
        assert isinstance(answered.error, ContextLengthExceeded)
        assert answered.client.names == []

    async def test_unsuitable_here_and_refused_there_is_to_blame_as_well(self) -> None:
        """Each has said in its way that it cannot take this request."""
        lacks = {"first": {"context_window": 1}}
        answered = await single({"first": "no", "second": refused(400)}, settings=lacks)
        assert isinstance(answered.error, ContextLengthExceeded)

    async def test_a_budget_without_room_for_a_call_is_exhausted(self) -> None:
        """Nothing was asked, and the client reads that it was for the money."""
        answered = await single({"first": "no", "second": "no"}, tokens=5)
        assert isinstance(answered.error, BudgetExhausted)
        assert answered.client.names == []

    async def test_what_was_spent_on_failures_is_gone(self) -> None:
        """A fallback that the budget has no room for is not asked."""
        answered = await single({"first": refused(500), "second": "hi"}, calls=1)
        assert isinstance(answered.error, UpstreamFailed | BudgetExhausted)
        assert answered.client.names == ["first"]


class TestDeadline:
    @timeless
    async def test_each_has_its_share(self) -> None:
        """A first model that hangs leaves time for the others, and the last one has all that is left."""
        answered = await single(
            {"first": Hang(), "second": Hang(), "third": After(19, "hi")}, seconds=60
        )
        assert (answered.text(), answered.took) == ("hi", 59)
        begun = answered.client.asked[0].deadline - 20
        assert [round(asked.deadline - begun) for asked in answered.client.asked] == [20, 40, 60]  # fmt: skip

    @timeless
    async def test_what_one_does_not_use_the_others_have(self) -> None:
        """A quick failure costs no share."""
        answered = await single(
            {"first": refused(500), "second": After(29, "hi"), "third": "no"}, seconds=60
        )
        assert answered.client.names == ["first", "second"]
        assert answered.took == 29  # fmt: skip

    @timeless
    async def test_alone_it_has_all(self) -> None:
        """Without fallbacks nothing is kept back."""
        answered = await single({"first": After(59, "hi")}, seconds=60)
        assert answered.text() == "hi"

    @timeless
    async def test_hanging_ends_in_time(self) -> None:
        """However many there are."""
        answered = await single(dict.fromkeys(NAMES, Hang()), seconds=60)
        assert answered.took == 60
        assert answered.client.running == []

    @timeless
    async def test_a_stream_that_stalls_before_a_word_is_replaced(self) -> None:
        """Silence is a failure when its share is over."""
        stalled = Stream([chunk("", role="assistant")], Hang())
        answered = await single({"first": stalled, "second": "hi"}, stream=True, seconds=60)
        assert (answered.text(), answered.took) == ("hi", 30)


class TestStreaming:
    @pytest.mark.parametrize(
        "text", ["hello", "  indented\n", "\n\nlate", "a" * 100], ids=["plain", "spaces", "lines", "long"]
    )  # fmt: skip
    async def test_says_the_same_as_a_whole(self, text: str) -> None:
        """Streamed or not, the text, its finish and its usage are the same."""
        whole = await single({"first": BROKEN, "second": text})
        streamed = await single({"first": BROKEN, "second": text}, stream=True)
        assert whole.text() == streamed.text() == text
        finishes = [[e for e in said.events if isinstance(e, Finish)] for said in (whole, streamed)]
        assert finishes[0] == finishes[1] == [Finish("stop")]
        assert whole.done == streamed.done

    @timeless
    async def test_each_chunk_goes_on_as_it_comes(self) -> None:
        """The client reads while the model still writes."""
        slow = Stream(chunks("abcdef"), apart=1.0)
        answered = await single({"first": slow}, stream=True)
        contents = [
            e.value for e in answered.events if isinstance(e, Delta) and e.kind == "content"
        ]
        assert contents == ["abc", "def"]  # fmt: skip

    @pytest.mark.parametrize("reason", ["length", "content_filter", "tool_calls"])
    @both_ways
    async def test_the_finish_is_the_models(self, reason: str, stream: bool) -> None:
        """Why an answer ended is the client's to know."""
        step: Step = (
            Stream(chunks("a", finish=reason)) if stream else completion("a", finish=reason)
        )
        answered = await single({"first": step}, stream=stream)
        assert Finish(reason) in answered.events


class TestChoices:
    def whole(self) -> Completion:
        said = [Reply(role="assistant", content=text) for text in ("one", "two")]
        choices = [
            Choice(index=at, message=reply, finish_reason="stop") for at, reply in enumerate(said)
        ]
        return Completion(choices=choices, usage=USAGE)  # fmt: skip

    def streamed(self) -> Stream:
        deltas = [(0, "on"), (1, "tw"), (0, "e"), (1, "o")]
        bits = [
            Completion(choices=[Choice(index=at, delta=Reply(content=text))]) for at, text in deltas
        ]
        ends = [Completion(choices=[Choice(index=at, finish_reason="stop")]) for at in (1, 0)]
        return Stream([*bits, *ends, last_chunk()])

    @both_ways
    async def test_several_are_all_there(self, stream: bool) -> None:
        """`single` is one of the two that give several choices."""
        step: Step = self.streamed() if stream else self.whole()
        answered = await single({"first": BROKEN, "second": step}, stream=stream, n=2)
        assert [answered.text(choice=at) for at in (0, 1)] == ["one", "two"]
        assert [e for e in answered.events if isinstance(e, Finish)] == [
            Finish("stop", 0),
            Finish("stop", 1),
        ]
        assert all(asked.body["n"] == 2 for asked in answered.client.asked)


class TestWhatIsAsked:
    async def test_each_hears_the_request_in_its_own_dialect(self) -> None:
        """The client's wishes hold for whoever answers."""
        answered = await single(
            {"first": BROKEN, "second": "hi"},
            settings={"first": {"dialect": "openai"}, "second": {"dialect": "vllm"}},
            max_tokens=99,
            top_k=5,
            temperature=0.3,
        )
        first, second = (asked.body for asked in answered.client.asked)
        assert (first["max_completion_tokens"], second["max_tokens"]) == (99, 99)
        assert ("top_k" in first, second["top_k"]) == (False, 5)
        assert first["temperature"] == second["temperature"] == 0.3

    async def test_tools_and_logprobs_pass(self) -> None:
        """One model stands for itself: nothing of the request is kept from it."""
        tools = [{"type": "function", "function": {"name": "f"}}]
        answered = await single({"first": "hi"}, tools=tools, tool_choice="auto", logprobs=True)
        body = answered.client.asked[0].body
        assert (body["tools"], body["tool_choice"], body["logprobs"]) == (tools, "auto", True)

    async def test_usage_is_of_all_that_reported_it(self) -> None:
        """A blank answer was paid for as well."""
        answered = await single({"first": completion(""), "second": "hi"})
        assert answered.done.usage.total_tokens == 30
        assert answered.done.final is not None
        assert answered.done.final.total_tokens == 15
