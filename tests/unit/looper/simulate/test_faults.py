import asyncio
import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any, get_args

import aiohttp
import openai
import pytest

from looper.simulate.server import (
    AnyFault,
    Blank,
    Comments,
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
    PlainStop,
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

DONE = "data: [DONE]"
TEXT = "One two three four five six seven."
USAGE = {"include_usage": True}
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@dataclass(frozen=True)
class Seen:
    """What a client saw of a response."""

    response: aiohttp.ClientResponse
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def events(self) -> list[str]:
        return self.text.split("\n\n")[:-1]

    @property
    def chunks(self) -> list[dict[str, Any]]:
        """What the events say but for `[DONE]`; a body is one chunk."""
        if self.response.content_type == "application/json":
            return [json.loads(self.body)]
        datas = (event.partition("data:")[2].strip() for event in self.events)
        return [json.loads(data) for data in datas if data not in ("", "[DONE]")]

    @property
    def choices(self) -> list[dict[str, Any]]:
        return [choice for chunk in self.chunks for choice in chunk["choices"]]

    @property
    def said(self) -> str:
        return self.joined("content")

    def joined(self, name: str) -> str:
        deltas = [c["delta"] if "delta" in c else c["message"] for c in self.choices]
        return "".join(delta.get(name) or "" for delta in deltas)

    @property
    def endings(self) -> list[str]:
        return [c["finish_reason"] for c in self.choices if c["finish_reason"]]


@dataclass(frozen=True)
class Backend:
    simulator: Simulator
    url: str
    http: aiohttp.ClientSession

    def post(self, **members: Any) -> Any:
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **members}
        return self.http.post(f"{self.url}/v1/chat/completions", json=body)

    async def ask(self, *script: Any, **members: Any) -> Seen:
        """The response to a request for which the model, or its next calls, do as scripted."""
        self.simulator.script("m", *script)
        async with self.post(**members) as response:
            return Seen(response, await response.read())


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    simulator = Simulator([SimulatedModel(name="m", skill=1.0)])
    async with (
        simulator.serve() as server,
        aiohttp.ClientSession(headers={"Accept-Encoding": "identity"}) as http,
    ):
        yield Backend(simulator, server.url, http)


def tool(name: str) -> dict[str, Any]:
    properties = {"city": {"type": "string"}, "days": {"type": "integer"}}
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


# Every fault


SMALL: list[AnyFault] = [Huge(size=10), GzipBomb(size=10), Comments(count=1), Trickle(pace=0)]
# The two that never end are tried in `test_simulate.py`.
ALL: list[AnyFault] = [
    next((small for small in SMALL if isinstance(small, kind)), kind())
    for kind in get_args(AnyFault)
    if kind not in (Hang, Reset)
]


@BOTH
@pytest.mark.parametrize(
    "path", ["chat/completions", "completions", "embeddings"], ids=["chat", "text", "embeddings"]
)
@pytest.mark.parametrize("fault", ALL, ids=[fault.type for fault in ALL])
async def test_every_fault_can_befall_every_endpoint(
    backend: Backend, fault: AnyFault, path: str, stream: bool
) -> None:
    """A fault that is set from outside spoils a call, and breaks nothing in the simulator itself."""
    change = {"model": "m", "fault": {"type": fault.type, **fault.model_dump(exclude={"type"})}}
    async with backend.http.post(f"{backend.url}/_simulator/faults", json=change) as done:
        assert done.status == 200
    assert backend.simulator.models["m"].fault == fault
    members = {"messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi", "input": "Hi"}
    body = {"model": "m", "stream": stream, **members}
    async with backend.http.post(f"{backend.url}/v1/{path}", json=body) as response:
        assert response.status == (500 if isinstance(fault, Status) else 200)
        if not isinstance(fault, Torn):
            assert await response.read()
    await backend.simulator.wait_for(lambda: backend.simulator.running() == 0)
    assert backend.simulator.calls[0].outcome == "faulted"


# What does not come as it should


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("retry_after", "sent"),
    [
        pytest.param(7, "7", id="seconds"),
        pytest.param(0.25, "0.25", id="fraction"),
        pytest.param(10**12, "1000000000000", id="huge"),
        pytest.param("soon", "soon", id="garbage"),
        pytest.param("-1", "-1", id="negative"),
    ],
)
async def test_when_to_come_back(
    backend: Backend, status: int, retry_after: float | str, sent: str
) -> None:
    """`Retry-After` is seconds, however many, or any text."""
    seen = await backend.ask(Status(status=status, retry_after=retry_after))
    assert (seen.response.status, seen.response.headers["Retry-After"]) == (status, sent)


@pytest.mark.parametrize(
    "seconds", [pytest.param(90.0, id="soon"), pytest.param(1e15, id="end-of-time")]
)
async def test_when_to_come_back_as_a_date(backend: Backend, seconds: float) -> None:
    """`Retry-After` can be the date that the seconds lead to, and stays one."""
    fault = Status(status=503, retry_after=seconds, retry_after_date=True)
    date = (await backend.ask(fault)).response.headers["Retry-After"]
    assert date.endswith(" GMT")
    left = parsedate_to_datetime(date).timestamp() - time.time()
    assert left > 1e11 if seconds > 1e12 else 88 < left <= 90


@pytest.mark.parametrize("chunks", [0, 1, 4, 1000])
async def test_torn_stream(backend: Backend, chunks: int) -> None:
    """A torn stream has whole events up to the last, which is half JSON without an end."""
    whole = (await backend.ask(TEXT, stream=True)).events[:-1]
    seen = await backend.ask(Torn(after_chunks=chunks), TEXT, stream=True)
    *events, torn = seen.text.split("\n\n")
    assert len(events) == min(chunks, len(whole))
    assert torn.startswith("data: {")
    with pytest.raises(json.JSONDecodeError):
        json.loads(torn.removeprefix("data: "))
    assert backend.simulator.calls[1].usage is None


async def test_torn_body(backend: Backend) -> None:
    """A torn body is shorter than its length says, and its connection is closed."""
    with pytest.raises(aiohttp.ClientPayloadError):
        await asyncio.wait_for(backend.ask(Torn()), 20)


@BOTH
async def test_trickle(backend: Backend, stream: bool) -> None:
    """Headers come at once, and then one byte after the other, at the pace that was set."""
    backend.simulator.script("m", Trickle(pace=0.002), "ok")
    async with backend.post(stream=stream) as response:
        begun = time.monotonic()
        pieces = [await response.content.readany() for _ in range(40)]
    assert max(map(len, pieces)) < 10  # one, but for a reader that was slow
    assert time.monotonic() - begun > 0.002 * 20
    assert not b"".join(pieces).endswith(b"[DONE]\n\n")


async def test_a_trickle_comes_to_its_end(backend: Backend) -> None:
    """What trickles in is the whole answer, and is billed."""
    seen = await backend.ask(Trickle(pace=0), TEXT)
    assert seen.said == TEXT
    (call,) = backend.simulator.calls
    assert (call.outcome, call.usage) == ("faulted", seen.chunks[0]["usage"])


# Claims of success


async def test_noise(backend: Backend) -> None:
    """Bytes that are called JSON are neither that nor text."""
    seen = await backend.ask(Garbage())
    assert (seen.response.status, seen.response.content_type) == (200, "application/json")
    with pytest.raises(UnicodeDecodeError):
        seen.body.decode()


@pytest.mark.parametrize("chunks", [0, 2])
async def test_noise_in_a_stream(backend: Backend, chunks: int) -> None:
    """A stream's noise is one event of it, after so many good ones."""
    seen = await backend.ask(Garbage(after_chunks=chunks), TEXT, stream=True)
    *events, noise, done = seen.body.split(b"\n\n")[:-1]
    assert len([json.loads(event.removeprefix(b"data: ")) for event in events]) == chunks
    assert b"\xff" in noise
    assert done == DONE.encode()


@BOTH
@pytest.mark.parametrize("status", [200, 502])
async def test_html(backend: Backend, status: int, stream: bool) -> None:
    """A proxy's page comes with whatever status, streamed or not."""
    seen = await backend.ask(Garbage(kind="html", status=status), stream=stream)
    assert (seen.response.status, seen.response.content_type) == (status, "text/html")
    assert "<html>" in seen.text


@BOTH
async def test_wrong_content_type(backend: Backend, stream: bool) -> None:
    """A good answer can be called plain text."""
    seen = await backend.ask(Garbage(kind="content_type"), TEXT, stream=stream)
    assert seen.response.content_type == "text/plain"
    assert '"finish_reason":"stop"' in seen.text


@pytest.mark.parametrize(
    ("shape", "code", "message"),
    [
        pytest.param("nested", lambda e: e["error"]["code"], lambda e: e["error"], id="nested"),
        pytest.param("text", None, lambda e: {"message": e["error"]}, id="text"),
        pytest.param("flat", lambda e: e["code"], lambda e: e, id="flat"),
    ],
)
@BOTH
async def test_error_object(
    backend: Backend, shape: Any, code: Any, message: Any, stream: bool
) -> None:
    """An error with status 200 has one of three shapes."""
    fault = ErrorObject(shape=shape, code="out", message="No.")
    seen = await backend.ask(fault, stream=stream)
    (error,) = seen.chunks
    assert seen.response.status == 200
    assert code is None or code(error) == "out"
    assert message(error)["message"] == "No."


@pytest.mark.parametrize("done", [True, False], ids=["done", "no-done"])
@pytest.mark.parametrize("chunks", [0, 3])
async def test_error_object_in_a_stream(backend: Backend, chunks: int, done: bool) -> None:
    """The error is the first event of a stream or a later one, and nothing but `[DONE]` follows."""
    seen = await backend.ask(ErrorObject(after_chunks=chunks, done=done), TEXT, stream=True)
    assert [("error" in chunk) for chunk in seen.chunks] == [False] * chunks + [True]
    assert (seen.events[-1] == DONE) is done
    assert backend.simulator.calls[0].usage is None


@BOTH
async def test_other_mode(backend: Backend, stream: bool) -> None:
    """A request for a stream gets one body, and the other way round."""
    seen = await backend.ask(OtherMode(), TEXT, stream=stream)
    kinds = {True: "application/json", False: "text/event-stream"}
    assert seen.response.content_type == kinds[stream]
    assert seen.said == TEXT


# Little or nothing is said


@BOTH
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        pytest.param("empty", "", id="empty"),
        pytest.param("whitespace", " \n\t \n", id="whitespace"),
        pytest.param("null_content", "", id="null-content"),
    ],
)
async def test_blank(backend: Backend, kind: Any, said: str, stream: bool) -> None:
    """A blank answer is complete, ends by itself, reports its usage, and says nothing."""
    seen = await backend.ask(Blank(kind=kind), stream=stream, stream_options=USAGE)
    assert (seen.said, seen.endings) == (said, ["stop"])
    assert backend.simulator.calls[0].usage == seen.chunks[-1]["usage"]


@BOTH
async def test_no_message(backend: Backend, stream: bool) -> None:
    """A choice may have null where its message should be."""
    seen = await backend.ask(Blank(kind="null_message"), stream=stream)
    name = "delta" if stream else "message"
    assert [choice[name] for choice in seen.choices] == [None] * len(seen.choices)
    assert seen.endings == ["stop"]


@BOTH
async def test_no_choices(backend: Backend, stream: bool) -> None:
    """An answer may have no choice at all."""
    seen = await backend.ask(Blank(kind="no_choices"), stream=stream)
    assert seen.chunks
    assert seen.choices == []


@BOTH
@pytest.mark.parametrize(
    ("where", "begins", "ends"),
    [
        pytest.param("reasoning_content", "", "", id="beside"),
        pytest.param("content", "<think>\n", "\n</think>\n\n", id="tags"),
        pytest.param("unclosed", "<think>\n", "that.", id="unclosed"),
    ],
)
async def test_reasoning_only(
    backend: Backend, where: Any, begins: str, ends: str, stream: bool
) -> None:
    """There are thoughts, beside the content or as such, and no answer after them."""
    seen = await backend.ask(ReasoningOnly(where=where), stream=stream)
    assert seen.said.startswith(begins)
    assert seen.said.endswith(ends)
    assert bool(seen.said) is (where != "reasoning_content")
    assert ("reasoning_content" in seen.text) is (where == "reasoning_content")
    assert seen.endings == ["stop"]


@BOTH
async def test_refusal(backend: Backend, stream: bool) -> None:
    """A model that declines says so in `refusal`, and has no content."""
    seen = await backend.ask(Refusal(text="No."), stream=stream)
    assert seen.joined("refusal") == "No."
    assert (seen.said, seen.endings) == ("", ["stop"])


@BOTH
@pytest.mark.parametrize("text", ["", "So far"], ids=["at-once", "later"])
async def test_content_filter(backend: Backend, text: str, stream: bool) -> None:
    """A content filter ends an answer, of which something may have been said before."""
    seen = await backend.ask(Refusal(kind="content_filter", text=text), stream=stream)
    assert (seen.said, seen.endings) == (text, ["content_filter"])


@BOTH
@pytest.mark.parametrize(
    ("members", "said"),
    [
        pytest.param({}, "One two three four", id="alone"),
        pytest.param({"max_tokens": 2}, "One two", id="beside-a-limit"),
        pytest.param({"max_completion_tokens": 100}, "One two three four", id="beside-a-high-one"),
    ],
)
async def test_length(backend: Backend, members: Any, said: str, stream: bool) -> None:
    """The answer ends early for its length, earlier still if the request says so."""
    seen = await backend.ask(Length(tokens=4), TEXT, stream=stream, **members)
    assert (seen.said, seen.endings) == (said, ["length"])


# Far too much


@BOTH
@pytest.mark.parametrize("size", [0, 10, 8192, 100_000])
async def test_the_size_of_an_answer(backend: Backend, size: int, stream: bool) -> None:
    """A huge answer is a good one with exactly so many characters."""
    seen = await backend.ask(Huge(size=size), stream=stream, stream_options=USAGE)
    assert (len(seen.said), seen.endings) == (size, ["stop"])
    assert not stream or len(seen.chunks) >= size // 8192 + 3
    assert backend.simulator.calls[0].usage == seen.chunks[-1]["usage"]


@BOTH
async def test_a_huge_answer_needs_little_memory(backend: Backend, stream: bool) -> None:
    """Ten megabytes are sent without ever being there at once, on either side."""
    backend.simulator.script("m", Huge())
    tracemalloc.start()
    try:
        async with backend.post(stream=stream) as response:
            total = sum([len(data) async for data in response.content.iter_any()])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total > 10_000_000
    assert peak < 3_000_000


async def test_a_peer_that_stops_reading_and_leaves(backend: Backend) -> None:
    """A huge answer that nobody reads waits, and ends when its peer leaves."""
    backend.simulator.script("m", Huge(size=10**8))
    async with backend.post(stream=True) as response:
        await response.content.readany()
        await asyncio.sleep(0.05)
        assert backend.simulator.running() == 1
    await backend.simulator.wait_for(lambda: backend.simulator.running() == 0)
    assert backend.simulator.calls[0].outcome == "disconnected"


@BOTH
async def test_a_gzip_bomb_is_good_gzip(backend: Backend, stream: bool) -> None:
    """What a bomb becomes is a whole answer of its size, with the right checksum."""
    backend.simulator.script("m", GzipBomb(size=2**24 + 5))
    seen = await packed(backend, stream=stream)
    assert seen.response.headers["Content-Encoding"] == "gzip"
    assert len(seen.body) < 100_000
    opened = gzip.decompress(seen.body)
    assert opened.count(b"x") >= 2**24 + 5
    assert len(opened) < 2**24 + 50_000
    body = Seen(seen.response, opened)
    assert stream or len(body.said) == 2**24 + 5
    assert not stream or body.events[-1] == DONE


async def test_a_gigabyte_is_made_in_no_time(backend: Backend) -> None:
    """A bomb of a gigabyte is about a megabyte, and goes out at once though identity was asked for."""
    backend.simulator.script("m", GzipBomb())
    begun = time.process_time()
    bomb = (await packed(backend)).body
    assert time.process_time() - begun < 3  # compressing a gigabyte takes longer
    assert 900_000 < len(bomb) < 1_500_000
    assert zlib.decompressobj(wbits=31).decompress(bomb, 2**10).startswith(b'{"id":')
    assert int.from_bytes(bomb[-4:], "little") > 2**30
    assert backend.simulator.calls[0].headers["accept-encoding"] == "identity"


async def packed(backend: Backend, **members: Any) -> Seen:
    """The response as it came over the wire."""
    headers = {"Accept-Encoding": "identity"}
    async with aiohttp.ClientSession(headers=headers, auto_decompress=False) as http:
        return await replace(backend, http=http).ask(**members)


@pytest.mark.parametrize("count", [1, 4097, 1_000_000])
async def test_comments_come_first(backend: Backend, count: int) -> None:
    """So many comments keep a stream alive before its first event."""
    seen = await backend.ask(Comments(count=count), TEXT, stream=True)
    events = seen.body.split(b"\n\n")
    assert events[:count] == [b": keep-alive"] * count
    assert Seen(seen.response, b"\n\n".join(events[count:])).said == TEXT


async def test_line_ends_come_before_a_body(backend: Backend) -> None:
    """Without a stream there are line ends before the JSON, which is good all the same."""
    seen = await backend.ask(Comments(count=5000), TEXT)
    assert seen.body.startswith(b"\n" * 5000 + b"{")
    assert seen.said == TEXT


# Habits


@pytest.mark.parametrize(
    ("kind", "done", "finished"),
    [
        pytest.param("done_twice", 2, True, id="done-twice"),
        pytest.param("chunks_after_done", 1, True, id="chunks-after-done"),
        pytest.param("without_done", 0, True, id="without-done"),
        pytest.param("without_finish", 1, False, id="without-finish"),
        pytest.param("without_both", 0, False, id="without-both"),
    ],
)
async def test_endings(backend: Backend, kind: Any, done: int, finished: bool) -> None:
    """A stream may end in five other ways than it should."""
    seen = await backend.ask(Ending(kind=kind), TEXT, stream=True)
    assert seen.events.count(DONE) == done
    assert bool(seen.endings) is finished
    again = kind == "chunks_after_done"
    assert (seen.events[-1] == DONE) is (done > 0 and not again)
    assert seen.said == TEXT * (2 if again else 1)


@pytest.mark.parametrize(("kind", "endings"), [("done_twice", ["stop"]), ("without_finish", [])])
async def test_the_ending_of_a_body(backend: Backend, kind: Any, endings: list[str]) -> None:
    """Of these only the missing reason to finish can be seen in a body."""
    seen = await backend.ask(Ending(kind=kind), TEXT)
    assert (seen.said, seen.endings) == (TEXT, endings)


async def test_empty_first(backend: Backend) -> None:
    """The first chunk has the results of a filter and no choices."""
    seen = await backend.ask(EmptyFirst(), TEXT, stream=True)
    first, second, *_ = seen.chunks
    assert (first["choices"], first["id"]) == ([], "")
    assert first["prompt_filter_results"]
    assert second["choices"][0]["delta"]["role"] == "assistant"
    assert seen.said == TEXT


async def test_usage_twice(backend: Backend) -> None:
    """A stream reports its usage in two chunks, which must not be added up."""
    seen = await backend.ask(UsageHabit(kind="twice"), TEXT, stream=True, stream_options=USAGE)
    usages = [chunk["usage"] for chunk in seen.chunks if chunk["usage"]]
    assert usages == [backend.simulator.calls[0].usage] * 2
    assert (await backend.ask(UsageHabit(kind="twice"), TEXT)).chunks[0]["usage"] == usages[0]


@BOTH
@pytest.mark.parametrize("kind", ["missing", "nulls"])
async def test_no_usage(backend: Backend, kind: Any, stream: bool) -> None:
    """Usage is not reported though it was asked for, or its numbers are null."""
    fault = UsageHabit(kind=kind)
    seen = await backend.ask(fault, TEXT, stream=stream, stream_options=USAGE)
    usages = [chunk["usage"] for chunk in seen.chunks if chunk.get("usage")]
    assert len(usages) == (kind == "nulls")
    assert not any(value for usage in usages for value in usage.values())
    assert seen.said == TEXT
    assert backend.simulator.calls[0].usage is None


async def test_role_in_each(backend: Backend) -> None:
    """Every delta says whose it is."""
    seen = await backend.ask(RoleInEach(), TEXT, stream=True)
    roles = [choice["delta"]["role"] for choice in seen.choices]
    assert roles == ["assistant"] * len(seen.chunks)
    assert seen.said == TEXT


@pytest.mark.parametrize(
    ("kind", "indices"),
    [pytest.param("gaps", [1, 3], id="gaps"), pytest.param("interleaved", [0, 1], id="in-turn")],
)
async def test_tool_deltas(backend: Backend, kind: Any, indices: list[int]) -> None:
    """Joined by their indices, the pieces of two calls are what they should be."""
    members: dict[str, Any] = {"tools": [tool("f"), tool("g")], "stream": True}
    both = [{"role": "user", "content": "f and g"}]
    seen = await backend.ask(ToolDeltas(kind=kind), messages=both, **members)
    calls = [call for choice in seen.choices for call in choice["delta"].get("tool_calls", ())]
    order = [call["index"] for call in calls]
    half = len(order) // 2
    assert order == (indices * half if kind == "interleaved" else sorted(indices * half))
    for index in indices:
        pieces = [call["function"]["arguments"] for call in calls if call["index"] == index]
        assert len(pieces) > 2
        assert json.loads("".join(pieces)) == {"city": "simulated city", "days": 1}
    assert seen.choices[-1]["finish_reason"] == "tool_calls"


@BOTH
async def test_function_call(backend: Backend, stream: bool) -> None:
    """Of two tools the first is called, in the older API, whole and in pieces."""
    both = [{"role": "user", "content": "f and g"}]
    tools = {"tools": [tool("f"), tool("g")]}
    seen = await backend.ask(FunctionCall(), messages=both, stream=stream, **tools)
    said = [choice["delta" if stream else "message"] for choice in seen.choices]
    calls = [each["function_call"] for each in said if "function_call" in each]
    assert [call["name"] for call in calls if "name" in call] == ["f"]
    assert (len(calls) > 2) is stream
    arguments = "".join(call["arguments"] for call in calls)
    assert json.loads(arguments) == {"city": "simulated city", "days": 1}
    assert not any("tool_calls" in each for each in said)
    assert seen.choices[-1]["finish_reason"] == "function_call"


@BOTH
async def test_plain_stop(backend: Backend, stream: bool) -> None:
    """The tools are called all the same."""
    called = [{"role": "user", "content": "f"}]
    tools = {"tools": [tool("f")]}
    seen = await backend.ask(PlainStop(), messages=called, stream=stream, **tools)
    assert "tool_calls" in seen.text
    assert seen.choices[-1]["finish_reason"] == "stop"


async def test_early_finish(backend: Backend) -> None:
    """The chunk with the last content is the one that says why the answer ends."""
    seen = await backend.ask(EarlyFinish(), TEXT, stream=True, n=2)
    last = [choice for choice in seen.choices if choice["finish_reason"]]
    assert [choice["delta"]["content"] for choice in last] == [" seven.", " seven."]
    assert seen.said == TEXT * 2


@pytest.mark.parametrize(
    ("kind", "line_end", "data"),
    [
        pytest.param("crlf", "\r\n", "data: ", id="crlf"),
        pytest.param("cr", "\r", "data: ", id="cr"),
        pytest.param("no_space", "\n", "data:", id="no-space"),
    ],
)
async def test_framing(backend: Backend, kind: Any, line_end: str, data: str) -> None:
    """The same events have other line ends, or no space."""
    seen = await backend.ask(Framing(kind=kind), "data: says\nthis", stream=True)
    events = seen.text.split(line_end * 2)[:-1]
    assert events[-1] == f"{data}[DONE]"
    chunks = [json.loads(event.removeprefix(data)) for event in events[:-1]]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content", "") for delta in deltas) == "data: says\nthis"
    assert (await backend.ask(Framing(kind=kind), TEXT)).said == TEXT


@pytest.mark.parametrize(
    "habit",
    [
        *(Ending(kind=kind) for kind in ("done_twice", "without_done")),
        EmptyFirst(),
        UsageHabit(kind="twice"),
        RoleInEach(),
        FunctionCall(),
        EarlyFinish(),
        Framing(kind="crlf"),
        Comments(count=1),
    ],
    ids=lambda habit: f"{habit.type}-{getattr(habit, 'kind', '')}".strip("-"),
)
async def test_the_sdk_puts_up_with_it(backend: Backend, habit: AnyFault) -> None:
    """OpenAI's own client reads what has such a habit as it reads everything else."""
    backend.simulator.script("m", habit, TEXT)
    async with openai.AsyncOpenAI(
        base_url=f"{backend.url}/v1", api_key="none", max_retries=0
    ) as client:
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        deltas = [choice.delta async for chunk in stream for choice in chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == TEXT


# Rules


def history(*ids: str) -> list[dict[str, Any]]:
    calls = [
        {"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}} for id in ids
    ]
    results = [{"role": "tool", "tool_call_id": id, "content": "1"} for id in ids]
    question = {"role": "user", "content": "f"}
    return [question, {"role": "assistant", "content": None, "tool_calls": calls}, *results]


@pytest.mark.parametrize(
    ("rule", "id", "status"),
    [
        pytest.param(None, "x" * 64, 200, id="no-rule"),
        pytest.param("max40", "x" * 40, 200, id="40"),
        pytest.param("max40", "x" * 41, 400, id="41"),
        pytest.param("max40", "call_1", 200, id="short"),
        pytest.param("alnum9", "aB3dE6gH9", 200, id="nine"),
        pytest.param("alnum9", "aB3dE6gH", 400, id="eight"),
        pytest.param("alnum9", "aB3dE6gH90", 400, id="ten"),
        pytest.param("alnum9", "call_1234", 400, id="nine-with-underscore"),
        pytest.param("alnum9", "aB3dE6gHé", 400, id="nine-with-accent"),
    ],
)
async def test_ids_of_tool_calls(backend: Backend, rule: Any, id: str, status: int) -> None:
    """A model refuses a history with ids that its rule forbids, among good ones too."""
    backend.simulator.put(SimulatedModel(name="m", id_rule=rule))
    seen = await backend.ask(messages=history("goodgood1", id))
    assert seen.response.status == status


@pytest.mark.parametrize("part", ["call", "result"])
async def test_every_place_of_an_id_counts(backend: Backend, part: str) -> None:
    """The id of a call and that of a result are looked at alike, and the refusal says which it was."""
    backend.simulator.put(SimulatedModel(name="m", id_rule="max40"))
    messages = history("a", "b")
    if part == "call":
        messages[1]["tool_calls"][1]["id"] = "x" * 45
    else:
        messages[3]["tool_call_id"] = "x" * 45
    error = (await backend.ask(messages=messages)).chunks[0]["error"]
    place = "messages[1].tool_calls[1].id" if part == "call" else "messages[3].tool_call_id"
    assert (error["param"], error["code"]) == (place, "string_above_max_length")
    assert "maximum length 40, but got a string with length 45" in error["message"]


@pytest.mark.parametrize("rule", [None, "max40", "alnum9"])
async def test_a_model_keeps_its_own_rule(backend: Backend, rule: Any) -> None:
    """The ids of a model's own calls are such as it accepts."""
    backend.simulator.put(SimulatedModel(name="m", id_rule=rule))
    question = [{"role": "user", "content": "f"}]
    seen = await backend.ask(messages=question, tools=[tool("f")])
    message = seen.chunks[0]["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "1"}
    again = await backend.ask(messages=[*question, message, result], tools=[tool("f")])
    assert again.response.status == 200


@pytest.mark.parametrize(
    ("roles", "status"),
    [
        ("system user", 200),
        ("user assistant user", 200),
        ("user assistant tool user", 200),
        ("user user", 400),
        ("system user assistant assistant user", 400),
        ("developer user", 400),
    ],
)
async def test_a_chat_template_may_want_roles_to_alternate(
    backend: Backend, roles: str, status: int
) -> None:
    """What it raises is a refusal, in the words that templates have for it."""
    known = ("system", "user", "assistant", "tool")
    backend.simulator.put(SimulatedModel(name="m", alternates=True, roles=known))
    seen = await backend.ask(messages=[{"role": each, "content": "x"} for each in roles.split()])
    assert seen.response.status == status


@pytest.mark.parametrize(
    ("rejects", "members", "param"),
    [
        pytest.param(["max_tokens"], {"max_tokens": 9}, "max_tokens", id="max-tokens"),
        pytest.param(["max_tokens"], {"max_completion_tokens": 9}, None, id="its-new-name"),
        pytest.param(["temperature"], {"temperature": 0}, "temperature", id="temperature"),
        pytest.param(["temperature"], {"temperature": None}, None, id="null"),
        pytest.param(["seed", "logprobs"], {"logprobs": False}, "logprobs", id="logprobs"),
        pytest.param(["top_k"], {"stream": True}, None, id="absent"),
    ],
)
async def test_unknown_members(
    backend: Backend, rejects: list[str], members: dict[str, Any], param: str | None
) -> None:
    """A member that the model does not know is refused by name, even before a fault."""
    backend.simulator.put(SimulatedModel(name="m", rejects=tuple(rejects)))
    backend.simulator.script("m", TEXT)
    seen = await backend.ask(**members)
    assert seen.response.status == (400 if param else 200)
    if param:
        error = seen.chunks[0]["error"]
        assert (error["param"], error["code"]) == (param, "unsupported_parameter")
        assert error["type"] == "invalid_request_error"
        assert (await backend.ask()).said == TEXT  # nothing of the script was used up


@pytest.mark.parametrize(
    ("window", "status"), [pytest.param(104, 200, id="fits"), pytest.param(103, 400, id="not")]
)
async def test_context_window(backend: Backend, window: int, status: int) -> None:
    """A prompt of more tokens than the window is refused, and one of as many is not."""
    backend.simulator.put(SimulatedModel(name="m", context_window=window))
    seen = await backend.ask(messages=[{"role": "user", "content": "word" * 100}])
    assert seen.response.status == status
    if status == 400:
        error = seen.chunks[0]["error"]
        assert (error["param"], error["code"]) == ("messages", "context_length_exceeded")
        assert "maximum context length is 103 tokens" in error["message"]
        assert "resulted in 104 tokens" in error["message"]
    else:
        assert seen.chunks[0]["usage"]["prompt_tokens"] == 104


async def test_rules_come_before_faults(backend: Backend) -> None:
    """A request that breaks a rule does not use a fault up."""
    fault = Status(status=503, times=1)
    backend.simulator.put(SimulatedModel(name="m", rejects=("seed",), fault=fault))
    statuses = [(await backend.ask(**members)).response.status for members in ({"seed": 1}, {}, {})]
    assert statuses == [400, 503, 200]


async def test_rules_are_set_from_outside(backend: Backend) -> None:
    """A model's rules are changed by HTTP like the rest of it."""
    change = {"name": "m", "id_rule": "alnum9", "rejects": ["seed"], "context_window": 9}
    async with backend.http.post(f"{backend.url}/_simulator/models", json=change) as done:
        assert done.status == 200
    model = backend.simulator.models["m"]
    assert (model.id_rule, model.rejects, model.context_window) == ("alnum9", ("seed",), 9)
