"""HTTP as clients of all kinds speak it, through a real Envoy, which must never get out of step with the processor."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
import pytest_asyncio

from looper.simulate.server import Hang
from tests.envoy.conftest import quick_models
from tests.envoy.requests import TEAM, body
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = "/v1/chat/completions"
SECONDS = 10
OUT_OF_STEP = ("spurious_msgs_received", "rejected_header_mutations", "streams_failed")


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["native", "grpcio"])
async def carried(request: pytest.FixtureRequest, shared_stack: Stack) -> AsyncIterator[Stack]:
    """The shipped configuration, over either transport."""
    if request.param == "native":
        yield shared_stack
        return
    async with run_stack(quick_models(), shipped=True, transport=request.param) as stack:
        yield stack


@pytest.fixture
def stack(carried: Stack) -> Stack:
    carried.simulator.reset()
    return carried


async def out_of_step(stack: Stack) -> dict[str, int]:
    """Envoy's counts of what went wrong between it and the processor."""
    text = await stack.envoy.get("/stats?filter=http.ingress.ext_proc.looper")
    counts = dict(re.findall(r"looper\.(\w+): (\d+)", text))
    return {name: int(counts[name]) for name in OUT_OF_STEP}


@pytest_asyncio.fixture(autouse=True, loop_scope="session")
async def in_step(stack: Stack) -> AsyncIterator[None]:
    """No test here makes Envoy count an error of the protocol, or the processor log one."""
    before = await out_of_step(stack)
    logged = stack.processor.log.stat().st_size
    yield
    assert await out_of_step(stack) == before
    with stack.processor.log.open() as log:
        log.seek(logged)
        assert '"level":"error"' not in log.read()


@dataclass
class Answer:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def code(self) -> Any:
        return json.loads(self.body)["error"]["code"]

    @property
    def text(self) -> Any:
        return json.loads(self.body)["choices"][0]["message"]["content"]


def named(sent: bytes) -> bytes:
    return sent.replace(b"looper/auto", b"small", 1)


def place(stack: Stack) -> tuple[str, int]:
    host, _, port = stack.ingress.removeprefix("http://").partition(":")
    return host, int(port)


# ---- A client of HTTP/1.1, byte by byte


@dataclass(frozen=True)
class Http1:
    """A connection. What is sent on it is a request's own affair."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *data: bytes) -> None:
        """Send each in a packet of its own."""
        for each in data:
            self.writer.write(each)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def answer(self, *, head: bool = False) -> Answer:
        """The next answer."""
        async with asyncio.timeout(SECONDS):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            status = int(first.split()[1])
            if head or status in (100, 204):
                return Answer(status, headers)
            if headers.get("transfer-encoding") == "chunked":
                return Answer(status, headers, await self._chunks())
            length = int(headers["content-length"])
            return Answer(status, headers, await self.reader.readexactly(length))

    async def _chunks(self) -> bytes:
        data = b""
        while size := int(await self.reader.readline(), 16):
            data += await self.reader.readexactly(size)
            await self.reader.readline()
        await self.reader.readline()
        return data


@asynccontextmanager
async def http1(stack: Stack) -> AsyncIterator[Http1]:
    reader, writer = await asyncio.open_connection(*place(stack))
    try:
        yield Http1(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def request(
    data: bytes = b"", *more: str, method: str = "POST", path: str = CHAT, host: str = "host: x"
) -> bytes:
    """A request whose length is announced."""
    lines = [f"{method} {path} HTTP/1.1", host, f"content-length: {len(data)}", *more]
    return "\r\n".join([*filter(None, lines), "", ""]).encode() + data


def chunked(*data: bytes, end: bytes = b"0\r\n\r\n", more: str = "") -> list[bytes]:
    """A request in chunks, each of them a packet."""
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n{more}\r\n"
    return [head.encode(), *(b"%x\r\n%b\r\n" % (len(each), each) for each in data), end]


HEAD = b"POST %b HTTP/1.1\r\nhost: x\r\n" % CHAT.encode()
SENT = body("¿qué? ☃")
UPLOADS = [
    pytest.param([request(SENT)], id="in-one-packet"),
    pytest.param([request(SENT)[:-1], SENT[-1:]], id="last-byte-later"),
    pytest.param([bytes([each]) for each in request(SENT)], id="byte-by-byte"),
    pytest.param([b"".join(chunked(SENT))], id="chunked-in-one-packet"),
    pytest.param(chunked(SENT), id="chunked"),
    pytest.param(chunked(*(bytes([each]) for each in SENT)), id="chunked-byte-by-byte"),
    pytest.param(chunked(SENT, end=b"0\r\nx-end: 1\r\n\r\n"), id="chunked-with-trailers"),
    pytest.param(
        chunked(SENT, end=b"0\r\nx-looper-model: large\r\n\r\n"), id="chunked-with-our-trailers"
    ),
    pytest.param(
        chunked(SENT[:9], SENT[9:], end=b"0;name=value\r\n\r\n"), id="chunked-with-extension"
    ),
    pytest.param(chunked(SENT, more="content-type: text/plain\r\n"), id="another-content-type"),
]


@pytest.mark.parametrize("packets", UPLOADS)
async def test_http1_uploads(stack: Stack, packets: list[bytes]) -> None:
    """However a request is cut into chunks and packets, the backend receives its body, and the client an answer."""
    async with http1(stack) as client:
        await client.send(*packets)
        answer = await client.answer()

    assert (answer.status, answer.headers["x-looper-decision"]) == (200, "default")
    assert [call.body for call in stack.simulator.calls] == [named(SENT)]


@pytest.mark.parametrize("data", [SENT, body(TEAM)], ids=["routed", "team"])
async def test_expect_100_continue(stack: Stack, data: bytes) -> None:
    """A client that waits to be told to go on is told so, and is then answered as any other."""
    async with http1(stack) as client:
        head, _, _ = request(data, "expect: 100-continue").partition(b"\r\n\r\n")
        await client.send(head + b"\r\n\r\n")
        assert (await client.answer()).status == 100
        assert stack.simulator.count() == 0
        await client.send(data)

        assert (await client.answer()).status == 200


@pytest.mark.parametrize("size", [(64 << 10) - 1, 64 << 10, (64 << 10) + 1, 1 << 20])
@pytest.mark.parametrize("version", ["http1", "http1-chunked", "http2"])
async def test_sizes_around_envoys_buffers(stack: Stack, size: int, version: str) -> None:
    """Bodies around the sizes at which Envoy cuts and buffers arrive whole."""
    sent = body("x" * (size - len(body(""))))
    assert len(sent) == size
    if version == "http2":
        async with http2(stack) as connection:
            answer = await connection.exchange([sent])
    else:
        async with http1(stack) as client:
            packets = [request(sent)] if version == "http1" else chunked(sent)
            await client.send(*packets)
            answer = await client.answer()

    assert answer.status == 200
    assert [call.body for call in stack.simulator.calls] == [named(sent)]


# ---- Several requests on one connection


UNKNOWN = b'{"model":"nobody","messages":[{"role":"user","content":"x"}]}'
SERIES: list[tuple[bytes, int, str | None]] = [
    (request(UNKNOWN), 404, "model_not_found"),
    (request(SENT), 200, None),
    (b"".join(chunked(UNKNOWN)), 404, "model_not_found"),
    (request(b"x", path="/v1/files"), 404, "unknown_path"),
    (request(body(TEAM)), 200, None),
    (b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n", 200, None),
    (request(path="/elsewhere"), 404, "unknown_path"),
    (request(SENT), 200, None),
]


async def test_a_connection_outlives_errors(stack: Stack) -> None:
    """A refused request leaves its connection as it was: the next one on it is answered."""
    async with http1(stack) as client:
        for sent, status, code in SERIES:
            await client.send(sent)
            answer = await client.answer()
            assert answer.status == status
            assert code is None or answer.code == code
            assert "connection" not in answer.headers


async def test_pipelined_requests(stack: Stack) -> None:
    """Requests that do not wait for the answers before them are answered in their order."""
    async with http1(stack) as client:
        await client.send(b"".join(sent for sent, _, _ in SERIES))

        for _, status, _ in SERIES:
            assert (await client.answer()).status == status


BAD = [
    pytest.param(request(b"{"), "invalid_json", id="not-json"),
    pytest.param(b"".join(chunked(b"{")), "invalid_json", id="chunked"),
    pytest.param(request(), "invalid_json", id="length-zero"),
    pytest.param(b"".join(chunked()), "invalid_json", id="no-chunk"),
    pytest.param(HEAD + b"\r\n", "invalid_json", id="no-length"),
]


@pytest.mark.parametrize(("sent", "code"), BAD)
async def test_bad_requests(stack: Stack, sent: bytes, code: str) -> None:
    """After a 400 Envoy closes the connection, and says so in an answer that is complete."""
    async with http1(stack) as client:
        await client.send(sent)
        answer = await client.answer()

    assert (answer.status, answer.code) == (400, code)
    assert answer.headers["connection"] == "close"
    assert stack.simulator.count() == 0


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
async def test_a_body_over_the_limit(stack: Stack, announced: bool) -> None:
    """A body over the limit is refused while it is under way, in OpenAI's shape, and the next client is served."""
    megabytes = [b" " * (1 << 20)] * 32
    async with http1(stack) as client:
        if announced:
            await client.send(HEAD + b"content-length: 40000000\r\n\r\n", *megabytes, b"x")
        else:
            await client.send(*chunked(*megabytes, b"x", end=b""))
        answer = await client.answer()
        assert (answer.status, answer.code) == (413, "body_too_large")

    async with http1(stack) as client:
        await client.send(request(SENT))
        assert (await client.answer()).status == 200
    assert stack.simulator.count() == 1


# ---- Uploads that are broken off


ABORTS = [
    pytest.param(b"POST /v1/ch", id="in-the-path"),
    pytest.param(HEAD, id="in-the-headers"),
    pytest.param(HEAD + b"content-length: 1000\r\n\r\n", id="after-the-headers"),
    pytest.param(HEAD + b"content-length: 1000\r\n\r\n{", id="in-the-body"),
    pytest.param(request(SENT)[:-1], id="before-the-last-byte"),
    pytest.param(HEAD + b"expect: 100-continue\r\ncontent-length: 9\r\n\r\n", id="told-to-go-on"),
    pytest.param(b"".join(chunked(SENT, end=b"")), id="before-the-last-chunk"),
    pytest.param(b"".join(chunked(SENT, end=b"7f\r\n{")), id="in-a-chunk"),
    pytest.param(b"".join(chunked(SENT, end=b"0\r\nx-e")), id="in-the-trailers"),
]


@pytest.mark.parametrize("how", ["closed", "reset", "half-closed"])
@pytest.mark.parametrize("sent", ABORTS)
async def test_broken_off_uploads(stack: Stack, sent: bytes, how: str) -> None:
    """A client that leaves in the middle of its request is nobody's error: no model is called, others are served."""
    async with http1(stack) as client:
        await client.send(sent)
        if how == "reset":
            client.writer.transport.abort()
        elif how == "half-closed":
            client.writer.write_eof()
            async with asyncio.timeout(SECONDS):
                await client.reader.read()

    async with http1(stack) as client:
        await client.send(request(SENT))
        assert (await client.answer()).status == 200
    assert stack.simulator.count() == 1


async def test_a_client_that_leaves_its_team(stack: Stack) -> None:
    """A client that leaves after its request has all the calls for it broken off."""
    for name in ("small", "other", "third"):
        stack.simulator.fault(name, Hang())
    async with http1(stack) as client:
        await client.send(request(body(TEAM)))
        await stack.simulator.wait_for(lambda: stack.simulator.running() == 3)

    await stack.simulator.wait_for(lambda: stack.simulator.running() == 0)


# ---- What is no ordinary request


METHODS: list[Any] = [
    pytest.param("HEAD", "/v1/models", 404, id="head"),
    pytest.param("OPTIONS", CHAT, 404, id="options"),
    pytest.param("GET", CHAT, 404, id="get-of-chat"),
    pytest.param("PUT", CHAT, 404, id="put"),
    pytest.param("DELETE", "/v1/models/small", 404, id="delete"),
    pytest.param("POST", "/v1/models", 404, id="post-to-models"),
    pytest.param("PROPFIND", CHAT, 404, id="unusual"),
    pytest.param("post", CHAT, 400, id="lower-case"),
]


@pytest.mark.parametrize(("method", "path", "status"), METHODS)
async def test_methods(stack: Stack, method: str, path: str, status: int) -> None:
    """A method that is not the one of its path reaches no model."""
    async with http1(stack) as client:
        await client.send(request(method=method, path=path))

        assert (await client.answer(head=method == "HEAD")).status == status
    assert stack.simulator.count() == 0


PATHS: list[Any] = [
    pytest.param(f"{CHAT}?a=1&b=%2F", 200, f"{CHAT}?a=1&b=%2F", id="query"),
    pytest.param(f"{CHAT}?", 200, CHAT, id="empty-query"),
    pytest.param("/v1//chat/completions", 200, CHAT, id="two-slashes"),
    pytest.param("//v1/chat/completions", 200, CHAT, id="two-slashes-first"),
    pytest.param("/v1/./chat/completions", 200, CHAT, id="dot"),
    pytest.param("/v1/x/../chat/completions", 200, CHAT, id="two-dots"),
    pytest.param("/v1/%63hat/completions", 200, CHAT, id="percent-encoded-letter"),
    pytest.param("http://elsewhere" + CHAT, 200, CHAT, id="absolute"),
    pytest.param("/v1%2Fchat/completions", 400, None, id="percent-encoded-slash"),
    pytest.param("/v1%5Cchat/completions", 400, None, id="percent-encoded-backslash"),
    pytest.param("/v1/chat/completions%00", 400, None, id="percent-encoded-nul"),
    pytest.param(f"{CHAT}#x", 400, None, id="fragment"),
    pytest.param(f"{CHAT}/", 404, None, id="slash-at-the-end"),
    pytest.param(f"{CHAT};a=1", 404, None, id="parameter"),
    pytest.param("/v1/chat/completions%3Fa", 404, None, id="percent-encoded-query"),
    pytest.param("/V1/chat/completions", 404, None, id="upper-case"),
    pytest.param("/../../v1/chat/completions", 200, CHAT, id="above-the-root"),
    pytest.param("/", 404, None, id="root"),
]


@pytest.mark.parametrize(("path", "status", "received"), PATHS)
async def test_paths(stack: Stack, path: str, status: int, received: str | None) -> None:
    """A path is the chat's in one spelling only, which Envoy brings others into or refuses; a query goes along."""
    async with http1(stack) as client:
        await client.send(request(SENT, path=path))

        assert (await client.answer()).status == status
    assert [call.path for call in stack.simulator.calls] == ([received] if received else [])


HOSTS: list[Any] = [
    pytest.param("host: api.example.com:8443", 200, id="port"),
    pytest.param("host: [::1]:80", 200, id="ipv6"),
    pytest.param("host: API.Example.COM", 200, id="upper-case"),
    pytest.param("HOST: x", 200, id="name-in-upper-case"),
    pytest.param("", 400, id="none"),
    pytest.param("host: a b", 400, id="blank-within"),
]


@pytest.mark.parametrize(("host", "status"), HOSTS)
async def test_hosts(stack: Stack, host: str, status: int) -> None:
    """Any host that is one is served."""
    async with http1(stack) as client:
        await client.send(request(SENT, host=host))

        assert (await client.answer()).status == status
    assert stack.simulator.count() == (status == 200)


MALFORMED: list[Any] = [
    pytest.param([request(SENT, "transfer-encoding: chunked")], id="two-lengths"),
    pytest.param([request(SENT, "content-length: 1")], id="length-twice"),
    pytest.param([HEAD + b"content-length: x\r\n\r\n"], id="length-no-number"),
    pytest.param([HEAD + b"transfer-encoding: gzip\r\n\r\n"], id="unknown-encoding"),
    pytest.param([*chunked(end=b"zz\r\n")], id="chunk-size-no-number"),
    pytest.param([HEAD + b"na me: x\r\n\r\n"], id="header-name"),
    pytest.param([HEAD + b"x-a: \x00\r\n\r\n"], id="header-value"),
]


@pytest.mark.parametrize("packets", MALFORMED)
async def test_what_is_no_http(stack: Stack, packets: list[bytes]) -> None:
    """What can be read in two ways, or in none, is refused, and reaches no model."""
    async with http1(stack) as client:
        await client.send(*packets)

        assert (await client.answer()).status in (400, 501)
    assert stack.simulator.count() == 0


@pytest.mark.parametrize(
    ("more", "status"),
    [
        pytest.param([f"x-big: {'x' * 7_000}"], 200, id="7-kB"),
        pytest.param([f"x-big: {'x' * 70_000}"], 431, id="70-kB"),
        pytest.param([f"x-{number}: 1" for number in range(80)], 200, id="80"),
        pytest.param([f"x-{number}: 1" for number in range(120)], 431, id="120"),
        pytest.param(["x-latin: caf\xe9", "x-empty:"], 200, id="odd-values"),
        pytest.param(["x-looper-model: large", "X-LOOPER-MODEL: large"], 200, id="ours"),
        pytest.param(["x-envoy-retry-on: 5xx", "x-envoy-max-retries: 9"], 200, id="envoys"),
        pytest.param(["te: trailers", "connection: te, x-y"], 200, id="hop-by-hop"),
    ],
)
async def test_headers(stack: Stack, more: list[str], status: int) -> None:
    """Headers of unusual size, number and kind change nothing of what is answered, up to Envoy's limits."""
    async with http1(stack) as client:
        await client.send(request(SENT, *more))

        assert (await client.answer()).status == status
    assert [call.model for call in stack.simulator.calls] == ["small"] * (status == 200)


async def test_headers_of_50_kilobytes(stack: Stack) -> None:
    """What Envoy takes the processor takes, too; a team's calls carry none of it to models that might not."""
    async with http1(stack) as client:
        await client.send(request(body(TEAM), f"x-big: {'x' * 50_000}"))

        assert (await client.answer()).status == 200


@pytest.mark.parametrize("text", ["routed", TEAM], ids=["routed", "team"])
async def test_clients_choose_no_request_id(stack: Stack, text: str) -> None:
    """The request id that backends see is Envoy's, whatever a client sends."""
    async with http1(stack) as client:
        await client.send(request(body(text), "x-request-id: mine"))
        assert (await client.answer()).status == 200

    ids = {call.headers.get("x-request-id") for call in stack.simulator.calls}
    assert len(ids) == 1
    assert ids.isdisjoint({"mine", None})


# ---- HTTP/2


Headers = Sequence[tuple[str, str]]


@dataclass
class Http2:
    """A connection with any number of requests on it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    connection: h2.connection.H2Connection
    answers: dict[int, Answer] = field(default_factory=dict)
    ended: dict[int, bool] = field(default_factory=dict)

    async def begin(
        self, *more: tuple[str, str], method: str = "POST", path: str = CHAT, end: bool = False
    ) -> int:
        number = self.connection.get_next_available_stream_id()
        pseudo = [(":method", method), (":path", path), (":authority", "x"), (":scheme", "http")]
        self.connection.send_headers(number, [*pseudo, *more], end_stream=end)
        self.answers[number] = Answer(0)
        await self.flush()
        return number

    async def send(self, number: int, data: bytes, *, end: bool = False) -> None:
        while data:
            room = self.connection.local_flow_control_window(number)
            size = min(len(data), room, self.connection.max_outbound_frame_size)
            if size == 0:
                await self.pump()
                continue
            self.connection.send_data(number, data[:size])
            data = data[size:]
            await self.flush()
        if end:
            self.connection.end_stream(number)
        await self.flush()

    async def trailers(self, number: int) -> None:
        self.connection.send_headers(number, [("x-end", "1")], end_stream=True)
        await self.flush()

    async def reset(self, number: int) -> None:
        self.connection.reset_stream(number)
        await self.flush()

    async def answer(self, number: int) -> Answer:
        async with asyncio.timeout(SECONDS):
            while number not in self.ended:
                await self.pump()
        assert self.ended[number], "the stream was reset"
        return self.answers[number]

    async def exchange(
        self,
        pieces: Iterable[bytes] = (),
        *,
        trailers: bool = False,
        empty_end: bool = False,
        **request: Any,
    ) -> Answer:
        pieces = list(pieces)
        number = await self.begin(**request, end=not pieces and not trailers)
        for index, data in enumerate(pieces):
            last = index == len(pieces) - 1 and not trailers
            await self.send(number, data, end=last and not empty_end)
        if empty_end:
            await self.send(number, b"", end=True)
        if trailers:
            await self.trailers(number)
        return await self.answer(number)

    async def flush(self) -> None:
        self.writer.write(self.connection.data_to_send())
        await self.writer.drain()

    async def pump(self) -> None:
        """Take what has come."""
        data = await self.reader.read(1 << 16)
        assert data, "the connection ended"
        for event in self.connection.receive_data(data):
            match event:
                case h2.events.ResponseReceived(stream_id=number, headers=headers):
                    said = {_text(name): _text(value) for name, value in headers or ()}
                    self.answers[number] = Answer(int(said[":status"]), said)
                case h2.events.DataReceived(stream_id=number):
                    self.answers[number].body += event.data or b""
                    length = event.flow_controlled_length or 0
                    self.connection.acknowledge_received_data(length, number)
                case h2.events.StreamEnded(stream_id=number):
                    self.ended[number] = True
                case h2.events.StreamReset(stream_id=number):
                    self.ended.setdefault(number, False)
                case _:
                    pass
        await self.flush()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


@asynccontextmanager
async def http2(stack: Stack) -> AsyncIterator[Http2]:
    reader, writer = await asyncio.open_connection(*place(stack))
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    client = Http2(reader, writer, connection)
    await client.flush()
    try:
        yield client
    finally:
        writer.close()
        await writer.wait_closed()


H2_UPLOADS: list[Any] = [
    pytest.param([SENT], {}, id="in-one-frame"),
    pytest.param([SENT], {"empty_end": True}, id="ended-by-an-empty-frame"),
    pytest.param([SENT], {"trailers": True}, id="trailers"),
    pytest.param([SENT[:9], b"", SENT[9:]], {}, id="empty-frame-within"),
    pytest.param([bytes([each]) for each in SENT], {}, id="byte-by-byte"),
    pytest.param([bytes([each]) for each in SENT], {"trailers": True}, id="bytes-and-trailers"),
]


@pytest.mark.parametrize(("pieces", "how"), H2_UPLOADS)
async def test_http2_uploads(stack: Stack, pieces: list[bytes], how: dict[str, bool]) -> None:
    """However a request is cut into frames, the backend receives its body, and the client an answer."""
    async with http2(stack) as client:
        answer = await client.exchange(pieces, **how)

    assert (answer.status, answer.headers["x-looper-decision"]) == (200, "default")
    assert [call.body for call in stack.simulator.calls] == [named(SENT)]


@pytest.mark.parametrize("trailers", [False, True], ids=["", "trailers"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_a_team_answers_http2(stack: Stack, streamed: bool, trailers: bool) -> None:
    """A team's answer reaches a client of HTTP/2, with and without trailers in its request."""
    async with http2(stack) as client:
        answer = await client.exchange([body(TEAM, stream=streamed)], trailers=trailers)

    assert answer.status == 200
    if streamed:
        assert answer.body.endswith(b"data: [DONE]\n\n")
    else:
        assert "O(log n)" in answer.text


async def test_http2_errors(stack: Stack) -> None:
    """Refused requests leave the connection as it was."""
    async with http2(stack) as client:
        assert (await client.exchange([b"{"])).code == "invalid_json"
        assert (await client.exchange([b"{"], trailers=True)).code == "invalid_json"
        assert (await client.exchange()).code == "invalid_json"
        assert (await client.exchange(trailers=True)).code == "invalid_json"
        assert (await client.exchange([UNKNOWN])).code == "model_not_found"
        assert (await client.exchange([b"x"], path="/v1/files")).code == "unknown_path"
        assert (await client.exchange(method="HEAD", path="/v1/models")).status == 404
        assert (await client.exchange(method="GET", path="/v1/models")).status == 200
        assert stack.simulator.count() == 0
        assert (await client.exchange([SENT])).status == 200


async def test_a_slow_upload_holds_up_nobody(stack: Stack) -> None:
    """Other requests on the same connection are answered while one of them is still being sent."""
    async with http2(stack) as client:
        slow = await client.begin()
        await client.send(slow, SENT[:-1])
        assert (await client.exchange([SENT])).status == 200
        assert stack.simulator.count() == 1
        await client.send(slow, SENT[-1:], end=True)

        assert (await client.answer(slow)).status == 200


async def test_many_at_once_on_one_connection(stack: Stack) -> None:
    """A hundred requests, begun before any is finished, have each their own answer."""
    async with http2(stack) as client:
        numbers = [await client.begin() for _ in range(100)]
        for index, number in enumerate(numbers):
            await client.send(number, body(f"number {index}"), end=True)
        for number in numbers:
            assert (await client.answer(number)).status == 200

    said = [json.loads(call.body)["messages"][0]["content"] for call in stack.simulator.calls]
    assert sorted(said) == sorted(f"number {index}" for index in range(100))


@pytest.mark.parametrize("sent", [b"", b"{", SENT], ids=["before", "within", "after"])
async def test_an_upload_that_is_reset(stack: Stack, sent: bytes) -> None:
    """A request that is reset before its end is nobody's error, and the connection serves the next one."""
    async with http2(stack) as client:
        number = await client.begin()
        await client.send(number, sent)
        await client.reset(number)

        assert (await client.exchange([SENT])).status == 200
    assert stack.simulator.count() == 1


async def test_a_team_that_is_reset(stack: Stack) -> None:
    """A reset after the request has all the calls for it broken off, and nothing else on the connection."""
    for name in ("small", "other", "third"):
        stack.simulator.fault(name, Hang())
    async with http2(stack) as client:
        number = await client.begin()
        await client.send(number, body(TEAM), end=True)
        await stack.simulator.wait_for(lambda: stack.simulator.running() == 3)
        await client.reset(number)
        await stack.simulator.wait_for(lambda: stack.simulator.running() == 0)

        assert (await client.exchange(method="GET", path="/v1/models")).status == 200


# ---- The processor goes away


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
async def test_a_restart_in_the_middle_of_an_upload(how: signal.Signals) -> None:
    """A request whose upload outlasts a processor is answered by the next one, and its model is called once."""
    async with run_stack(quick_models()) as stack, http2(stack) as second, http1(stack) as first:
        head, data = request(SENT)[: -len(SENT)], SENT
        await first.send(head, data[:5])
        number = await second.begin()
        await second.send(number, data[:5])
        await stack.processor.stop(how)
        await stack.processor.start()
        await first.send(data[5:])
        await second.send(number, data[5:], end=True)

        assert (await first.answer()).status == 200
        assert (await second.answer(number)).status == 200
        assert stack.simulator.count() == 2
