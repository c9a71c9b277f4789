"""The egress client over real sockets, against backends that misbehave in every way that is known."""

import asyncio
import json
import re
import time
import tracemalloc
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pytest

from looper.calling.calls import TOO_LARGE, Call, CallFailed, Failure
from looper.calling.client import MAX_ANSWER, EgressClient
from looper.calling.refusals import MAX_BODY
from looper.simulate.server import (
    AnyFault,
    Blank,
    Comments,
    Cut,
    EarlyFinish,
    EmptyFirst,
    Ending,
    ErrorObject,
    Framing,
    FunctionCall,
    Garbage,
    GzipBomb,
    Hang,
    Huge,
    Length,
    OtherMode,
    ReasoningOnly,
    Refusal,
    Reset,
    RoleInEach,
    SimulatedModel,
    Simulator,
    Status,
    ToolDeltas,
    Torn,
    Trickle,
    UsageHabit,
)
from looper.wire.chat import Reply, WireUsage
from looper.wire.deltas import Gathering
from tests.fakes.models import model

ANSWER = "Ottawa is the capital of Canada."
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def a_call(*, stream: bool = False, retries: int = 0, choices: int = 1) -> Call:
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    body |= {"stream": stream, "n": choices}
    return Call(model("m"), "panel", json.dumps(body).encode(), retries)


def soon(seconds: float = 100.0) -> float:
    """A deadline, in the loop's time."""
    return asyncio.get_running_loop().time() + seconds


@dataclass
class Heard:
    """What a call brought, or why it brought nothing."""

    pieces: list[str] = field(default_factory=list)
    failed: CallFailed | None = None
    attempts: set[int] = field(default_factory=set)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def failure(self) -> Failure | None:
        return None if self.failed is None else self.failed.failure


async def heard(
    client: EgressClient,
    *,
    stream: bool,
    seconds: float = 100.0,
    retries: int = 0,
    headers: Mapping[str, str] | None = None,
    dialect: dict[str, Any] | None = None,
) -> Heard:
    """Make one call, and gather all of its content."""
    result = Heard()
    call, deadline = a_call(stream=stream, retries=retries), soon(seconds)
    if dialect is not None:
        call = replace(call, model=model("m", dialect=dialect))
    try:
        if stream:
            async with aclosing(client.stream(call, headers or {}, deadline=deadline)) as chunks:
                async for chunk, attempts, _ in chunks:
                    result.attempts.add(attempts)
                    for choice in chunk.choices:
                        said = choice.delta or choice.message
                        result.pieces.append((said and said.content) or "")
        else:
            whole, attempts, _ = await client.complete(call, headers or {}, deadline=deadline)
            result.attempts.add(attempts)
            for choice in whole.choices:
                result.pieces.append((choice.message and choice.message.content) or "")
    except CallFailed as error:
        result.failed = error
    return result


@asynccontextmanager
async def backend(
    fault: AnyFault | None = None, *, latency: float = 0.0
) -> AsyncIterator[tuple[EgressClient, Simulator]]:
    """A client, and in place of Envoy a simulated model that fails like this, and else says ANSWER."""
    simulator = Simulator([SimulatedModel(name="m", fault=fault, latency=latency)])
    simulator.script("m", ANSWER)
    async with simulator.serve() as address, EgressClient(address.url) as client:
        yield client, simulator


@dataclass
class Speaker:
    """A server that says the same bytes to everybody, and keeps what it was told."""

    says: bytes
    hold: bool = False
    """Whether the connection then stays open until the client leaves."""
    told: list[bytes] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        self.told.append(head + await reader.readexactly(int(length or b"0")))
        writer.write(self.says)
        await writer.drain()
        if self.hold:
            await reader.read()
        writer.close()
        self.closed.set()


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@asynccontextmanager
async def speaking(
    says: bytes, *, hold: bool = False
) -> AsyncIterator[tuple[EgressClient, Speaker, str]]:
    """A client, and in place of Envoy a server that says exactly these bytes."""
    speaker = Speaker(says, hold)
    server = await asyncio.start_server(speaker, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        async with EgressClient(url) as client:
            yield client, speaker, url
        if hold:
            await speaker.closed.wait()


FUNCTION = {"name": "f", "arguments": '{"x": 1}'}
CALLED = {"id": "c", "type": "function", "function": FUNCTION}
EVENTS = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream; charset=utf-8\r\n\r\n"
CUT = b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'
CHUNK = CUT + b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
GOOD = b'{"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}'


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "whole", "streamed"),
        [
            pytest.param(Reset(), Failure.BROKEN, Failure.BROKEN, id="reset"),
            pytest.param(Reset(after_chunks=0), Failure.BROKEN, Failure.BROKEN, id="reset-after-headers"),
            pytest.param(Reset(after_chunks=2), Failure.BROKEN, Failure.BROKEN, id="reset-midway"),
            pytest.param(Status(status=400), Failure.STATUS, Failure.STATUS, id="400"),
            pytest.param(Status(status=429), Failure.STATUS, Failure.STATUS, id="429"),
            pytest.param(Status(status=500), Failure.STATUS, Failure.STATUS, id="500"),
            pytest.param(Status(status=504), Failure.TIMEOUT, Failure.TIMEOUT, id="504"),
            pytest.param(Cut(after_chunks=0), Failure.UNUSABLE, Failure.BROKEN, id="cut-at-once"),
            pytest.param(Cut(after_chunks=3), Failure.UNUSABLE, Failure.BROKEN, id="cut"),
            pytest.param(Torn(), Failure.BROKEN, Failure.BROKEN, id="torn"),
            pytest.param(Garbage(), Failure.UNUSABLE, Failure.UNUSABLE, id="bytes"),
            pytest.param(Garbage(after_chunks=2), Failure.UNUSABLE, Failure.UNUSABLE, id="bytes-midway"),
            pytest.param(Garbage(kind="html"), Failure.UNUSABLE, Failure.BROKEN, id="html"),
            pytest.param(Garbage(kind="html", status=502), Failure.STATUS, Failure.STATUS, id="html-502"),
            pytest.param(ErrorObject(), Failure.UNUSABLE, Failure.UNUSABLE, id="error-object"),
            pytest.param(ErrorObject(shape="text"), Failure.UNUSABLE, Failure.UNUSABLE, id="error-text"),
            pytest.param(ErrorObject(shape="flat"), Failure.UNUSABLE, Failure.UNUSABLE, id="error-flat"),
            pytest.param(
                ErrorObject(after_chunks=3, done=False), Failure.UNUSABLE, Failure.UNUSABLE, id="error-midway"
            ),
            pytest.param(GzipBomb(), Failure.UNUSABLE, Failure.UNUSABLE, id="gzip-bomb"),
            pytest.param(Huge(size=MAX_ANSWER + 1), Failure.UNUSABLE, Failure.UNUSABLE, id="over-the-limit"),
        ],
    )  # fmt: skip
    @both_ways
    async def test_what_is_no_answer_fails(
        self, fault: AnyFault, whole: Failure, streamed: Failure, stream: bool
    ) -> None:
        """Whatever a backend does instead of answering, the call fails, in words of ours, and soon."""
        began = time.monotonic()
        async with backend(fault) as (client, _):
            failed = await heard(client, stream=stream)
        assert failed.failure is (streamed if stream else whole)
        assert time.monotonic() - began < 30

    @both_ways
    async def test_an_answer_may_be_as_large_as_is_said(self, stream: bool) -> None:
        """And no larger: what comes then is read no further."""
        simulator = Simulator([SimulatedModel(name="m", fault=Huge(size=50_000))])
        async with simulator.serve() as address:
            for most, reason in ((8_000_000, None), (40_000, TOO_LARGE)):
                async with EgressClient(address.url, most) as client:
                    said = await heard(client, stream=stream)
                assert (said.failed and said.failed.reason) == reason

    @pytest.mark.parametrize(
        "fault",
        [
            pytest.param(None, id="none"),
            pytest.param(Garbage(kind="content_type"), id="not-called-json"),
            pytest.param(Trickle(pace=0.0), id="all-at-once"),
            pytest.param(Comments(count=50_000), id="many-comments"),
            pytest.param(Ending(kind="done_twice"), id="done-twice"),
            pytest.param(Ending(kind="chunks_after_done"), id="chunks-after-done"),
            pytest.param(Ending(kind="without_done"), id="without-done"),
            pytest.param(EmptyFirst(), id="empty-first"),
            pytest.param(UsageHabit(kind="twice"), id="usage-twice"),
            pytest.param(UsageHabit(kind="missing"), id="no-usage"),
            pytest.param(UsageHabit(kind="nulls"), id="usage-of-nulls"),
            pytest.param(RoleInEach(), id="role-in-each"),
            pytest.param(ToolDeltas(), id="tool-deltas"),
            pytest.param(FunctionCall(), id="function-call"),
            pytest.param(EarlyFinish(), id="early-finish"),
            pytest.param(Framing(kind="crlf"), id="crlf"),
            pytest.param(Framing(kind="cr"), id="cr"),
            pytest.param(Framing(kind="no_space"), id="no-space"),
        ],
    )
    @both_ways
    async def test_habits_cost_nobody_the_answer(
        self, fault: AnyFault | None, stream: bool
    ) -> None:
        """What says all that it should is read, however it is said."""
        async with backend(fault) as (client, _):
            result = await heard(client, stream=stream)
        assert (result.failed, result.text) == (None, ANSWER)

    @pytest.mark.parametrize(
        ("fault", "text"),
        [
            *(pytest.param(Blank(kind=kind), "", id=f"blank-{kind}") for kind in ("empty", "null_content")),
            *(pytest.param(Blank(kind=kind), "", id=f"blank-{kind}") for kind in ("null_message", "no_choices")),
            pytest.param(ReasoningOnly(), "", id="thoughts"),
            pytest.param(Refusal(), "", id="refusal"),
            pytest.param(Refusal(kind="content_filter", text="I"), "I", id="filtered"),
            pytest.param(Length(tokens=1), "Ottawa", id="cut-for-length"),
            pytest.param(Huge(size=1_000_000), "x" * 1_000_000, id="large"),
        ],
    )  # fmt: skip
    @both_ways
    async def test_what_an_answer_is_worth_is_judged_elsewhere(
        self, fault: AnyFault, text: str, stream: bool
    ) -> None:
        """A complete answer that says little is handed on as it is."""
        async with backend(fault) as (client, _):
            result = await heard(client, stream=stream)
        assert (result.failed, result.text) == (None, text)

    @pytest.mark.parametrize(
        ("habit", "reply", "stream"),
        [
            pytest.param(FunctionCall(), {"tool_calls": [CALLED]}, False, id="whole"),
            pytest.param(FunctionCall(), {"tool_calls": [CALLED]}, True, id="streamed"),
            pytest.param(OtherMode(), {"function_call": FUNCTION}, True, id="whole-for-a-stream"),
        ],
    )
    async def test_a_call_of_a_function_is_one_of_a_tool(
        self, habit: AnyFault, reply: dict[str, Any], stream: bool
    ) -> None:
        """A backend that answers in the older API is understood."""
        gathering = Gathering()
        async with backend(habit) as (client, simulator):
            simulator.reset()
            simulator.script("m", reply)
            if stream:
                chunks = client.stream(a_call(stream=True), {}, deadline=soon())
                async with aclosing(chunks) as arriving:
                    async for chunk, *_ in arriving:
                        gathering.add(chunk)
            else:
                gathering.add((await client.complete(a_call(), {}, deadline=soon())).completion)
        (choice,) = gathering.completion().choices
        assert choice.message is not None
        [call] = choice.message.tool_calls or []
        assert call["function"] == FUNCTION
        assert re.fullmatch(r"call_[0-9a-f]{24}", call["id"])

    async def test_a_stream_where_none_was_asked_for_is_an_answer(self) -> None:
        """Who always streams has answered all the same, with every choice and what they took."""
        async with backend(OtherMode()) as (client, _):
            answer = await client.complete(a_call(choices=2), {}, deadline=soon())
        said = answer.completion
        assert [choice.index for choice in said.choices] == [0, 1]
        assert all(each.message and each.message.content == ANSWER for each in said.choices)
        assert all(choice.finish_reason == "stop" for choice in said.choices)

    async def test_a_stream_unasked_says_what_it_has_used(self) -> None:
        """Once, whatever stands in its other chunks."""
        used = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}'
        nulls = b'{"choices":[],"usage":{"prompt_tokens":null}}'
        sent = EVENTS + CHUNK + b"".join(b"data: " + each + b"\n\n" for each in (used, nulls))
        async with speaking(sent) as (client, _, _):
            answer = await client.complete(a_call(), {}, deadline=soon())
        assert answer.completion.usage == WireUsage(3, 1)

    @pytest.mark.parametrize(
        ("sent", "failure"),
        [
            pytest.param(CHUNK + b"data: [DONE]\n\n", None, id="whole"),
            pytest.param(b"\n\n" + CHUNK + b"data: [DONE]\n\n", None, id="blank-first"),
            pytest.param(CHUNK[:-2], None, id="no-blank-line"),
            pytest.param(b'{"choices":[{"message":{"content":"Hi"}}]}', None, id="an-object"),
            pytest.param(CUT, Failure.BROKEN, id="cut"),
            pytest.param(CUT + b'data: {"error":{"message":"x"}}\n\n', Failure.UNUSABLE, id="error"),
            pytest.param(CUT + b"event: error\ndata: {}\n\n", Failure.UNUSABLE, id="event-error"),
            pytest.param(CUT + b"data: \x00\n\n" + CUT, Failure.UNUSABLE, id="broken-chunk"),
            pytest.param(b"data: " + b"x" * 100_000, Failure.UNUSABLE, id="too-large"),
            pytest.param(b"nothing", Failure.BROKEN, id="no-event"),
            pytest.param(b"", Failure.BROKEN, id="empty"),
        ],
    )  # fmt: skip
    async def test_a_stream_unasked_fails_as_one_that_was_asked_for(
        self, sent: bytes, failure: Failure | None
    ) -> None:
        """With the same bounds; and what had been said is known, as it is paid for."""
        async with speaking(EVENTS + sent) as (_, _, url), EgressClient(url, 50_000) as client:
            result = await heard(client, stream=False)
        assert (result.failure, result.text) == (failure, "" if failure else "Hi")
        if failure and sent.startswith(CUT):
            assert result.failed is not None
            assert result.failed.said is not None
            assert result.failed.said.choices[0].message == Reply("assistant", "Hi")

    async def test_a_whole_where_a_stream_was_asked_for_is_an_answer(self) -> None:
        """Who cannot stream has answered all the same."""
        async with backend(OtherMode()) as (client, _):
            result = await heard(client, stream=True)
        assert (result.failed, result.text) == (None, ANSWER)

    @pytest.mark.parametrize(
        ("kind", "dialect", "failure"),
        [
            ("without_finish", {}, Failure.BROKEN),
            ("without_finish", {"finish_reason": False}, None),
            ("without_both", {}, Failure.BROKEN),
            ("without_both", {"finish_reason": False}, Failure.BROKEN),
            ("without_done", {"finish_reason": False}, None),
        ],
    )
    async def test_a_stream_that_does_not_say_how_it_ended_was_cut(
        self,
        kind: Literal["without_finish", "without_both", "without_done"],
        dialect: dict[str, Any],
        failure: Failure | None,
    ) -> None:
        """A server that is interrupted says [DONE] as well: it is an end only of those that never say another."""
        async with backend(Ending(kind=kind)) as (client, _):
            result = await heard(client, stream=True, dialect=dialect)
        assert (result.failure, result.text) == (failure, ANSWER)

    async def test_nor_is_one_an_answer_that_was_not_asked_for(self) -> None:
        """What comes as a stream unasked is held to the same."""
        answered = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
        half = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\ndata: [DONE]\n\n'
        async with speaking(answered + half) as (client, _, _):
            result = await heard(client, stream=False)
        assert result.failure is Failure.BROKEN

    async def test_what_came_before_a_break_was_handed_on(self) -> None:
        """Chunks are not held back: the caller has had those that came before the end."""
        async with backend(Cut(after_chunks=3)) as (client, _):
            result = await heard(client, stream=True)
        assert result.text
        assert ANSWER.startswith(result.text)

    @both_ways
    async def test_nobody_listening_is_a_failure_to_connect(self, stream: bool) -> None:
        """A call that reached nobody says so."""
        async with speaking(b"") as (_, _, url):
            pass
        async with EgressClient(url) as client:
            assert (await heard(client, stream=stream)).failure is Failure.CONNECT

    @both_ways
    async def test_one_failure_is_not_the_next_calls(self, stream: bool) -> None:
        """After each kind of break the client is as good as new."""
        async with backend() as (client, simulator):
            for fault in (Reset(after_chunks=1), Torn(), Status(), GzipBomb(), Hang(times=1)):
                simulator.fault("m", fault)
                assert (await heard(client, stream=stream, seconds=0.3)).failed
            simulator.fault("m", None)
            simulator.script("m", ANSWER)
            assert (await heard(client, stream=stream)).failed is None


class TestAnswers:
    @pytest.mark.parametrize(
        "logprobs", ['{"content": [{"token": "hi", "logprob": -0.5}]}', "null", "[1]"]
    )
    @both_ways
    async def test_probabilities_are_kept_as_they_came(self, logprobs: str, stream: bool) -> None:
        """Whatever they are: no answer is lost over them."""
        choice = f'"message": {{"content": "hi"}}, "finish_reason": "stop", "logprobs": {logprobs}'
        said = http(
            f'{{"choices": [{{{choice}}}]}}'.encode(), "200 OK", "content-type: application/json"
        )
        async with speaking(said) as (client, _, _):
            if stream:
                async with aclosing(
                    client.stream(a_call(stream=True), {}, deadline=soon())
                ) as chunks:
                    (answer,) = [answer.completion async for answer in chunks]
            else:
                answer = (await client.complete(a_call(), {}, deadline=soon())).completion
        assert bytes(answer.choices[0].logprobs).decode() == logprobs

    @pytest.mark.parametrize("told", [True, False], ids=["cut", "hanging"])
    async def test_of_a_body_that_breaks_off_it_is_known_how_much_came(self, told: bool) -> None:
        """It was written, and is paid for, whether or not anybody can read it."""
        half = http(GOOD, "200 OK", "content-type: application/json")[:-30]
        async with speaking(half, hold=not told) as (client, _, _):
            failed = (await heard(client, stream=False, seconds=0.3)).failed
        assert failed is not None
        assert failed.failure is (Failure.BROKEN if told else Failure.TIMEOUT)
        assert failed.seen == len(GOOD) - 30


class TestRefusals:
    @pytest.mark.parametrize("status", [201, 204, 400, 401, 404, 429, 500, 502, 503])
    @both_ways
    async def test_only_200_is_success(self, status: int, stream: bool) -> None:
        """Any other status fails, with a good answer in its body too."""
        body = b"" if status == 204 else GOOD
        async with speaking(http(body, f"{status} X")) as (client, _, _):
            failed = (await heard(client, stream=stream)).failed
        assert failed is not None
        assert (failed.failure, failed.status) == (Failure.STATUS, status)

    @pytest.mark.parametrize(
        ("flags", "failure"),
        [
            pytest.param("UF", Failure.CONNECT, id="no-connection"),
            pytest.param("URX,UF", Failure.CONNECT, id="nor-at-another-try"),
            pytest.param("UH", Failure.CONNECT, id="nobody-healthy"),
            pytest.param("DF", Failure.CONNECT, id="no-address"),
            pytest.param("UO", Failure.STATUS, id="too-many-at-once"),
            pytest.param("NC", Failure.STATUS, id="no-cluster"),
            pytest.param("UC", Failure.STATUS, id="broke-off"),
            pytest.param("-", Failure.STATUS, id="none"),
        ],
    )
    @both_ways
    async def test_envoy_says_that_nobody_is_there(
        self, flags: str, failure: Failure, stream: bool
    ) -> None:
        """A dead upstream is told from one that answers with the same status."""
        gone = http(b"", "503 X", f"x-looper-flags: {flags}")
        async with speaking(gone) as (client, _, _):
            failed = (await heard(client, stream=stream)).failed
        assert failed is not None
        assert (failed.failure, failed.status) == (failure, 503)

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    @both_ways
    async def test_a_redirect_is_not_followed(self, status: int, stream: bool) -> None:
        """An upstream cannot send a conversation elsewhere, past Envoy."""
        async with speaking(http(GOOD)) as (_, elsewhere, url):
            moved = http(b"", f"{status} Moved", f"location: {url}/v1/chat/completions")
            async with speaking(moved) as (client, _, _):
                failed = (await heard(client, stream=stream)).failed
        assert elsewhere.told == []
        assert failed is not None
        assert (failed.failure, failed.status) == (Failure.STATUS, status)

    @pytest.mark.parametrize(
        ("said", "read"),
        [
            pytest.param("7", 7, id="seconds"),
            pytest.param("0", 0, id="at-once"),
            pytest.param("0.5", 1, id="a-fraction"),
            pytest.param("-1", None, id="negative"),
            pytest.param("999999", 999_999, id="days"),
            pytest.param("9" * 400, None, id="eternities"),
            pytest.param("Wed, 21 Oct 2015 07:28:00 GMT", 0, id="a-date-gone-by"),
            pytest.param("Wed, 21 Oct 2015 07:28:00 -0000", 0, id="a-date-without-a-zone"),
            pytest.param("Wed, 99 Oct 2026 07:28:00 GMT", None, id="no-date"),
            pytest.param("soon", None, id="a-word"),
            pytest.param("", None, id="empty"),
            pytest.param("²", None, id="a-digit-that-is-no-number"),
        ],
    )
    async def test_retry_after_is_read_if_it_says_when(self, said: str, read: int | None) -> None:
        """How long an upstream wants to be left alone; nonsense there changes nothing."""
        busy = http(b"", "429 Too Many Requests", f"retry-after: {said}")
        async with speaking(busy) as (client, _, _):
            failed = (await heard(client, stream=False)).failed
        assert failed is not None
        assert (failed.status, failed.retry_after) == (429, read)

    async def test_retry_after_may_be_a_date(self) -> None:
        """As HTTP has it: the seconds until then, rounded up."""
        busy = Status(status=429, retry_after=30.0, retry_after_date=True)
        async with backend(busy) as (client, _):
            failed = (await heard(client, stream=False)).failed
        assert failed is not None
        assert failed.retry_after in (29, 30)

    @both_ways
    async def test_why_a_request_is_refused_is_kept_as_a_word(self, stream: bool) -> None:
        too_long = Status(status=400, code="context_length_exceeded", message="secret")
        async with backend(too_long) as (client, _):
            failed = (await heard(client, stream=stream)).failed
        assert failed is not None
        assert (failed.status, failed.refusal) == (400, "context_length_exceeded")
        assert "secret" not in repr(failed)

    @both_ways
    async def test_an_error_with_status_200_may_say_why_as_well(self, stream: bool) -> None:
        async with backend(ErrorObject(code="content_filter")) as (client, _):
            failed = (await heard(client, stream=stream)).failed
        assert failed is not None
        assert (failed.failure, failed.refusal) == (Failure.UNUSABLE, "content_filter")

    @both_ways
    async def test_of_a_long_error_only_the_beginning_is_read(self, stream: bool) -> None:
        late = b" " * MAX_BODY + b"content_filter"
        async with speaking(http(late, "400 Bad Request")) as (client, _, _):
            failed = (await heard(client, stream=stream)).failed
        assert failed is not None
        assert failed.refusal == "invalid_request"

    @pytest.mark.parametrize("seconds", [0.1, 100])
    @both_ways
    async def test_an_error_whose_body_hangs_is_an_error_soon(
        self, seconds: float, stream: bool
    ) -> None:
        """Within the deadline, and within a moment where that is far away; what has come is read."""
        hangs = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 100\r\n\r\ncontent policy"
        began = time.monotonic()
        async with speaking(hangs, hold=True) as (client, _, _):
            failed = (await heard(client, stream=stream, seconds=seconds)).failed
        assert time.monotonic() - began < 10
        assert failed is not None
        assert (failed.status, failed.refusal) == (400, "content_filter")

    @both_ways
    async def test_nothing_of_what_the_upstream_says_is_in_the_error(self, stream: bool) -> None:
        """An upstream's words, address and exceptions stay where they are."""
        async with backend(Status(status=500, message="secret")) as (client, _):
            failed = (await heard(client, stream=stream)).failed
        assert repr(failed) == "CallFailed('status 500')"
        assert failed is not None
        assert failed.__cause__ is None


class TestHostileBodies:
    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(b"", id="nothing"),
            pytest.param(b"null", id="null"),
            pytest.param(b"[]", id="a-list"),
            pytest.param(b'"text"', id="a-text"),
            pytest.param(b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="deep"),
        ],
    )  # fmt: skip
    @both_ways
    async def test_what_cannot_be_read_is_unusable(self, body: bytes, stream: bool) -> None:
        """A backend's nonsense is its own failure, never a mistake of ours."""
        said = b"data: " + body + b"\n\ndata: [DONE]\n\n" if stream else body
        async with speaking(http(said)) as (client, _, _):
            result = await heard(client, stream=stream)
        if stream and b"{" not in body:  # an event that is no chunk
            assert (result.failed, result.text) == (None, "")
        else:
            assert result.failure is Failure.UNUSABLE

    @pytest.mark.parametrize(
        ("body", "text"),
        [
            pytest.param(b'{"choices": 5}', "", id="choices-that-are-none"),
            pytest.param(b'{"choices": [{"message": "x"}]}', "", id="a-message-that-is-none"),
            pytest.param(b'{"choices": [{"message": {"content": 1}}]}', "", id="content-that-is-no-text"),
            pytest.param(b'{"choices": [{"message": {"content": "\xff"}}]}', "\ufffd", id="not-utf-8"),
            pytest.param(b'{"choices": [{"message": {"content": "\\ud800"}}]}', "\ufffd", id="half-a-character"),
            pytest.param(b'{"usage": {"prompt_tokens": 1e99}}', "", id="a-number-too-large"),
        ],
    )  # fmt: skip
    @both_ways
    async def test_what_can_be_read_is_judged_elsewhere(
        self, body: bytes, text: str, stream: bool
    ) -> None:
        """What is not understood is left out, and what is left may be nothing."""
        said = b"data: " + body + b"\n\n" + END + DONE_EVENT if stream else body
        async with speaking(http(said)) as (client, _, _):
            result = await heard(client, stream=stream)
        assert (result.failed, result.text) == (None, text)


CHUNKS = (
    b'data: {"choices": [{"delta": {"content": "h"}}]}\n\n',
    b'data: {"choices": [{"delta": {"content": "i"}}]}\n\n',
    b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n',
    b"data: [DONE]\n\n",
)
ONE, TWO, END, DONE_EVENT = CHUNKS
NO_CHUNKS = {
    "keepalive": b"data: : keepalive\n\n",
    "null": b"data: null\n\n",
    "a-list": b"data: []\n\n",
    "a-number": b"data: 1\n\n",
    "a-text": b'data: "ping"\n\n',
    "empty": b"data:\n\n",
    "empty-twice": b"data:\ndata: \n\n",
    "named": b'event: ping\ndata: {"type": "ping"}\n\n',
    "a-word": b"data: OPENROUTER PROCESSING\n\n",
    "choices-null": b'data: {"choices": null}\n\n',
    "id": b"id: 3\n\n",
}


class TestEvents:
    @pytest.mark.parametrize("noise", NO_CHUNKS.values(), ids=NO_CHUNKS.keys())
    async def test_what_is_no_chunk_does_not_end_a_stream(self, noise: bytes) -> None:
        """Wherever it stands."""
        said = noise + ONE + noise + TWO + noise + END + noise + DONE_EVENT
        async with speaking(http(said)) as (client, _, _):
            result = await heard(client, stream=True)
        assert (result.failed, result.text) == (None, "hi")

    @pytest.mark.parametrize(
        "end",
        [
            pytest.param(END + b"data:  [DONE]  \n\n", id="done-with-spaces"),
            pytest.param(END + b"data: [DONE]", id="no-line-end"),
            pytest.param(END + b"data: [DONE]\n", id="no-blank-line"),
            pytest.param(END, id="end-alone"),
            pytest.param(END[:-1], id="end-without-blank-line"),
            pytest.param(END[:-2], id="end-without-line-end"),
            pytest.param(END + b"data: {torn", id="torn-behind-the-end"),
            pytest.param(END + b"data: \x00\xff{]\n\n", id="garbage-behind-the-end"),
            pytest.param(END + b"<html>", id="html-behind-the-end"),
        ],
    )
    async def test_an_answer_that_is_complete_stands(self, end: bytes) -> None:
        """Whatever follows it."""
        async with speaking(http(ONE + TWO + end)) as (client, _, _):
            result = await heard(client, stream=True)
        assert (result.failed, result.text) == (None, "hi")

    async def test_a_break_behind_the_end_changes_nothing(self) -> None:
        """The connection is lost before the length that was promised has come."""
        said = http(ONE + TWO + END + b" " * 100)[:-50]
        async with speaking(said) as (client, _, _):
            result = await heard(client, stream=True)
        assert (result.failed, result.text) == (None, "hi")

    async def test_silence_behind_the_end_is_not_waited_for(self) -> None:
        """Until the deadline, or for some seconds, and the answer is there."""
        said = http(ONE + TWO + END + b" " * 100)[:-100]
        async with speaking(said, hold=True) as (client, _, _):
            result = await heard(client, stream=True, seconds=0.3)
        assert (result.failed, result.text) == (None, "hi")

    @pytest.mark.parametrize(
        ("end", "failure"),
        [
            pytest.param(b"event: error\ndata: {}\n\n" + DONE_EVENT, Failure.UNUSABLE, id="error-event"),
            pytest.param(b"event: error\ndata: oops\n\n", Failure.UNUSABLE, id="error-in-words"),
            pytest.param(END + b"event: error\ndata: oops\n\n", Failure.UNUSABLE, id="error-behind-the-end"),
            pytest.param(b'data: {"error": "oops"}\n\n' + DONE_EVENT, Failure.UNUSABLE, id="error-object"),
            pytest.param(
                b'data: {"choices": [{"delta": {}, "error": {"code": 502}}]}\n\n', Failure.UNUSABLE, id="choice"
            ),
            pytest.param(b"data: {torn\n\n" + END, Failure.UNUSABLE, id="broken-chunk"),
            pytest.param(b"data: {torn", Failure.BROKEN, id="torn"),
            pytest.param(b"", Failure.BROKEN, id="cut"),
        ],
    )  # fmt: skip
    async def test_an_answer_that_breaks_off_fails(self, end: bytes, failure: Failure) -> None:
        """Whatever of it has come."""
        async with speaking(http(ONE + TWO + end)) as (client, _, _):
            assert (await heard(client, stream=True)).failure is failure

    async def test_every_choice_has_to_end(self) -> None:
        """Where one has said how it ended, and another has not, the stream was cut."""
        other = b'data: {"choices": [{"index": 1, "delta": {"content": "o"}}]}\n\n'
        async with speaking(http(ONE + other + END)) as (client, _, _):
            assert (await heard(client, stream=True)).failure is Failure.BROKEN

    @pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate", "x"])
    @both_ways
    async def test_compression_that_nobody_asked_for_is_unusable(
        self, encoding: str, stream: bool
    ) -> None:
        """What says that it is compressed is not even looked at."""
        said = http(GOOD, "200 OK", f"content-encoding: {encoding}")
        async with speaking(said) as (client, _, _):
            assert (await heard(client, stream=stream)).failure is Failure.UNUSABLE

    @both_ways
    async def test_a_bomb_is_not_unpacked(self, stream: bool) -> None:
        """An answer that unpacks to a gigabyte costs no memory."""
        async with backend(GzipBomb()) as (client, _):
            tracemalloc.start()
            try:
                await heard(client, stream=stream)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert peak < 20 * 2**20

    async def test_a_million_comments_are_read_past(self) -> None:
        """What counts for nothing is not kept, and does not take long."""
        async with backend(Comments(count=1_000_000)) as (client, _):
            began = time.monotonic()
            result = await heard(client, stream=True)
        assert result.text == ANSWER
        assert time.monotonic() - began < 30

    async def test_comments_without_end_are_ended(self) -> None:
        """What is not kept is still counted: a stream cannot go on for ever."""
        async with backend(Comments(count=3_000_000)) as (client, _):
            assert (await heard(client, stream=True)).failure is Failure.UNUSABLE

    @both_ways
    async def test_a_header_without_end_is_a_break(self, stream: bool) -> None:
        """Headers are bounded as well."""
        said = http(GOOD, "200 OK", f"x: {'y' * 200_000}")
        async with speaking(said) as (client, _, _):
            assert (await heard(client, stream=stream)).failure is Failure.BROKEN


class TestDeadline:
    @pytest.mark.parametrize(
        "fault",
        [
            pytest.param(Hang(), id="before-headers"),
            pytest.param(Hang(after_chunks=0), id="after-headers"),
            pytest.param(Hang(after_chunks=2), id="midway"),
            pytest.param(Trickle(pace=0.01), id="a-trickle"),
        ],
    )
    @both_ways
    async def test_is_kept(self, fault: AnyFault, stream: bool) -> None:
        """However slowly something comes, or nothing at all, the call ends when its time is up."""
        async with backend(fault) as (client, simulator):
            began = time.monotonic()
            failed = await heard(client, stream=stream, seconds=0.2)
            took = time.monotonic() - began
            await simulator.wait_for(lambda: simulator.running() == 0)
        assert failed.failure is Failure.TIMEOUT
        assert 0.19 < took < 5
        assert simulator.calls[0].outcome == "disconnected"

    @both_ways
    async def test_that_has_passed_makes_no_call(self, stream: bool) -> None:
        """What is too late is not sent, and so costs nothing."""
        async with backend() as (client, simulator):
            failed = await heard(client, stream=stream, seconds=0)
        assert failed.failure is Failure.TIMEOUT
        assert simulator.calls == []

    async def test_that_passes_while_nobody_reads_ends_the_stream(self) -> None:
        """A caller that takes its time does not make more of the call's."""
        async with (
            backend(Hang(after_chunks=3)) as (client, _),
            aclosing(client.stream(a_call(stream=True), {}, deadline=soon(0.2))) as chunks,
        ):
            await anext(chunks)
            await asyncio.sleep(0.3)
            with pytest.raises(CallFailed) as failed:
                [chunk async for chunk in chunks]
        assert failed.value.failure is Failure.TIMEOUT


class TestCancellation:
    @pytest.mark.parametrize(
        "fault",
        [
            pytest.param(Hang(), id="before-headers"),
            pytest.param(Hang(after_chunks=0), id="after-headers"),
            pytest.param(Hang(after_chunks=2), id="midway"),
        ],
    )
    @both_ways
    async def test_closes_the_socket_at_once(self, fault: AnyFault, stream: bool) -> None:
        """A call that nobody waits for any more costs its backend nothing more."""
        async with backend(fault) as (client, simulator):
            async with asyncio.TaskGroup() as group:
                asking = group.create_task(heard(client, stream=stream))
                await simulator.wait_for(lambda: simulator.running() == 1)
                await asyncio.sleep(0.02)
                left = time.monotonic()
                asking.cancel()
            await simulator.wait_for(lambda: simulator.running() == 0)
        (call,) = simulator.calls
        assert call.outcome == "disconnected"
        assert call.finished_at is not None
        assert call.finished_at - left < 5

    async def test_a_stream_that_is_closed_closes_its_socket(self) -> None:
        """Whoever has heard enough closes the stream, and the backend stops."""
        async with backend(Hang(after_chunks=3)) as (client, simulator):
            async with aclosing(client.stream(a_call(stream=True), {}, deadline=soon())) as chunks:
                await anext(chunks)
            left = time.monotonic()
            await simulator.wait_for(lambda: simulator.running() == 0)
        assert time.monotonic() - left < 5


class TestProbabilities:
    @pytest.mark.parametrize(
        ("logprobs", "content"),
        [
            pytest.param('{"content": [{"token": "hi", "logprob": -0.1}]}', b'"hi"', id="there"),
            pytest.param("null", b"null", id="null"),
        ],
    )
    async def test_of_tokens_arrive(self, logprobs: str, content: bytes) -> None:
        """An answer that has them is an answer, and they are what the backend sent."""
        says = '{"choices": [{"message": {"content": "hi"}, "logprobs": %s}]}' % logprobs  # noqa: UP031
        async with speaking(http(says.encode())) as (client, _, _):
            answer = await client.complete(a_call(), {}, deadline=soon())
        assert content in bytes(answer.completion.choices[0].logprobs)


class TestWhatIsSent:
    @both_ways
    async def test_headers_for_envoy(self, stream: bool) -> None:
        """Envoy is told the model, the role, the time that is left, and how often it may try again."""
        async with backend() as (client, simulator):
            await heard(client, stream=stream, seconds=5, retries=2)
        sent = simulator.calls[0].headers
        assert sent["x-looper-model"] == "m"
        assert sent["x-looper-role"] == "panel"
        assert sent["x-envoy-max-retries"] == "2"
        assert 4500 < int(sent["x-envoy-upstream-rq-timeout-ms"]) <= 5000

    async def test_retries_that_are_not_granted_are_forbidden(self) -> None:
        """No retries is a number as well: without it Envoy would follow its own."""
        async with backend() as (client, simulator):
            await heard(client, stream=False, retries=0)
        assert simulator.calls[0].headers["x-envoy-max-retries"] == "0"

    @both_ways
    async def test_no_compression_is_asked_for(self, stream: bool) -> None:
        """Envoy reads the usage of an answer in passing, and so do we."""
        async with backend() as (client, simulator):
            await heard(client, stream=stream)
        assert simulator.calls[0].headers["accept-encoding"] == "identity"

    async def test_the_runs_headers_go_along(self) -> None:
        """What the run forwards is there; it cannot say another model than the call does."""
        given = {"traceparent": "00-1-2-03", "x-looper-model": "other", "x-request-id": "r"}
        async with backend() as (client, simulator):
            await heard(client, stream=False, headers=given)
        sent = simulator.calls[0].headers
        assert (sent["traceparent"], sent["x-request-id"]) == ("00-1-2-03", "r")
        assert sent["x-looper-model"] == "m"

    async def test_the_body_goes_byte_for_byte(self) -> None:
        """As it was composed, with its length, under the path of the API."""
        async with backend() as (client, simulator):
            await heard(client, stream=False)
        (call,) = simulator.calls
        assert (call.method, call.path) == ("POST", "/v1/chat/completions")
        assert call.body == a_call().body
        assert call.headers["content-length"] == str(len(call.body))
        assert call.headers["content-type"] == "application/json"
        assert "user-agent" not in call.headers

    async def test_cookies_are_not_kept(self) -> None:
        """What one upstream sets, no later call brings."""
        async with speaking(http(GOOD, "200 OK", "set-cookie: a=b")) as (client, speaker, _):
            await heard(client, stream=False)
            await heard(client, stream=False)
        assert len(speaker.told) == 2
        assert b"cookie" not in speaker.told[1].lower()

    async def test_a_unix_socket_is_an_egress(self) -> None:
        """Envoy may listen on a socket of the file system."""
        speaker = Speaker(http(GOOD))
        with TemporaryDirectory(prefix="lo-", dir="/tmp") as folder:
            path = str(Path(folder) / "egress.sock")
            server = await asyncio.start_unix_server(speaker, path)
            async with server, EgressClient(f"unix:{path}") as client:
                result = await heard(client, stream=False)
        assert result.text == "hi"
        assert speaker.told[0].startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")


class TestAttempts:
    SSE = b'data: {"choices": [{"delta": {"content": "hi"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'

    @pytest.mark.parametrize(
        ("said", "read"),
        [
            pytest.param("3", 3, id="several"),
            pytest.param("x", 1, id="a-word"),
            pytest.param("²", 1, id="a-digit-that-is-no-number"),
        ],
    )
    @both_ways
    async def test_are_counted_with_an_answer(self, said: str, read: int, stream: bool) -> None:
        """How often Envoy tried stands in the answer's headers."""
        answer = http(self.SSE if stream else GOOD, "200 OK", f"x-envoy-attempt-count: {said}")
        async with speaking(answer) as (client, _, _):
            assert (await heard(client, stream=stream)).attempts == {read}

    @pytest.mark.parametrize(
        ("answer", "failure"),
        [
            pytest.param(http(b"", "503 X", "x-envoy-attempt-count: 2"), Failure.STATUS, id="status"),
            pytest.param(http(b"{", "200 OK", "x-envoy-attempt-count: 2"), Failure.UNUSABLE, id="garbage"),
            pytest.param(
                http(b'{"error": {}}', "200 OK", "x-envoy-attempt-count: 2"), Failure.UNUSABLE, id="error-object"
            ),
            pytest.param(
                http(GOOD, "200 OK", "x-envoy-attempt-count: 2")[:-9], Failure.BROKEN, id="broken-off"
            ),
            pytest.param(
                http(GOOD, "200 OK", "x-envoy-attempt-count: 2", "content-encoding: gzip"),
                Failure.UNUSABLE,
                id="compressed",
            ),
        ],
    )  # fmt: skip
    async def test_are_counted_with_a_failure(self, answer: bytes, failure: Failure) -> None:
        """Each attempt may have cost money, whatever the last one came to."""
        async with speaking(answer) as (client, _, _):
            failed = (await heard(client, stream=False)).failed
        assert failed is not None
        assert (failed.failure, failed.attempts) == (failure, 2)


class TestConcurrency:
    @both_ways
    async def test_three_hundred_calls_are_under_way_at_once(self, stream: bool) -> None:
        """No call waits for another's connection."""
        async with backend(latency=0.5) as (client, simulator):
            async with asyncio.TaskGroup() as group:
                calls = [group.create_task(heard(client, stream=stream)) for _ in range(300)]
                await simulator.wait_for(lambda: simulator.running() == 300)
            assert all(call.result().failed is None for call in calls)

    async def test_one_that_hangs_holds_up_none(self) -> None:
        """Slow calls and quick ones do not meet."""
        async with backend() as (client, simulator):
            simulator.fault("m", Hang(times=1))
            async with asyncio.TaskGroup() as group:
                hanging = group.create_task(heard(client, stream=False))
                await simulator.wait_for(lambda: simulator.running() == 1)
                results = [await heard(client, stream=False, seconds=2) for _ in range(20)]
                hanging.cancel()
        assert {result.failed for result in results} == {None}
