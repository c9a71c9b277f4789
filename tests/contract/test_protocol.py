"""The protocol between Envoy and the processor, message by message, with a gRPC client in Envoy's place."""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from extproc.config import parse_config
from extproc.process.runtime import build
from extproc.protocol._pb.ext_proc_pb2 import ProcessingMode, ProcessingRequest
from extproc.protocol.codec import MAX_CHUNK
from extproc.serving.calls import Transport
from extproc.serving.grpcio import GrpcioServer
from extproc.serving.health import SERVICES
from extproc.serving.http2.server import Server
from extproc.serving.server import serving
from looper.wire.sse import DONE, EventReader
from tests.fakes.envoy_client import (
    BUFFERED,
    FDS,
    SECONDS,
    EnvoyClient,
    Told,
    connected,
    headers,
    kind,
    metadata_of,
    piece,
    trailers,
)
from tests.fakes.models import (
    After,
    Crash,
    Hang,
    ScriptedClient,
    Step,
    Stream,
    chunk,
    chunks,
    refused,
)
from tests.fakes.stack import Processor

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT = 300_000
CONFIG = """
version: 1
egress: unix:/nowhere/egress.sock
heartbeat: 10s
limits: {max_body: 300000B}
models:
  - {name: small, upstream_model: qwen3-8b, url: "http://small/v1", price: {input: 1, output: 2}}
  - {name: other, url: "http://other/v1", price: {input: 1, output: 2}}
  - {name: large, url: "http://large/v1"}
recipes:
  general:
    signals:
      team: {type: keyword, any: [team]}
      alone: {type: keyword, any: [alone]}
    decisions:
      - name: panel
        when: team
        algorithm: {type: fusion, analysis_models: [small, other], judge_model: large}
      - name: solo
        when: alone
        algorithm: {type: single, model: small, fallbacks: [other]}
      - {name: default, algorithm: {type: single, model: small}}
  plain:
    decisions:
      - {name: only, algorithm: {type: single, model: other}}
entrypoints: {NAME: general}
"""
NAME = "looper/auto"
CLIENT_GONE = 5.0
"""Seconds within which a backend has seen that nobody waits for it."""


TRANSPORTS: dict[str, Transport] = {"native": Server, "grpcio": GrpcioServer}


@dataclass
class Carried:
    """By what the servers of the tests that run now are reached."""

    transport: Transport = Server


CARRIED = Carried()


@pytest.fixture(scope="module", params=TRANSPORTS, autouse=True)
def carried(request: pytest.FixtureRequest) -> None:
    """Each test runs on each transport."""
    CARRIED.transport = TRANSPORTS[request.param]


@dataclass(frozen=True)
class Rig:
    """A server, what its models are asked, and a connection to it."""

    models: ScriptedClient
    envoy: EnvoyClient
    address: str
    stack: AsyncExitStack

    async def stop(self) -> None:
        """Stop the server; the connection stays as it is."""
        await self.stack.aclose()


@asynccontextmanager
async def processing(
    script: Mapping[str, Step] | None = None,
    *,
    grace: float = 2.0,
    listen: str | None = None,
    name: str = NAME,
    replace: bool = False,
) -> AsyncIterator[Rig]:
    models = ScriptedClient(script or {})
    runtime = build(parse_config(CONFIG.replace("NAME", name), "test.yaml"), models)
    with TemporaryDirectory(prefix="lo-", dir="/tmp") as folder:
        address = listen or f"unix:{folder}/p.sock"
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(
                serving(
                    lambda _: nullcontext(runtime),
                    [address],
                    None,
                    grace,
                    CARRIED.transport,
                    replace=replace,
                )
            )
            async with connected(address) as envoy:
                yield Rig(models, envoy, address, stack)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(carried: None) -> AsyncIterator[Rig]:
    """A server for all that asks no model and leaves nothing behind."""
    async with processing() as rig:
        yield rig


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """The events that were logged."""
    with capture_logs() as events:
        yield events


def chat(text: str = "hi", **members: Any) -> bytes:
    messages = [{"role": "user", "content": text}]
    members = {"model": NAME, "messages": messages, **members}
    return json.dumps(members, ensure_ascii=False).encode()


def named(sent: bytes, name: bytes = b"qwen3-8b") -> bytes:
    """What a backend is to receive."""
    return sent.replace(NAME.encode(), name, 1)


def sized(size: int) -> bytes:
    """A chat request of so many bytes."""
    return chat("x" * (size - len(chat(""))))


def cut(data: bytes, *places: int) -> list[ProcessingRequest]:
    """The data in pieces, the last of which ends it."""
    bounds = [0, *places, len(data)]
    pieces = [data[start:end] for start, end in pairwise(bounds)]
    return [*map(piece, pieces[:-1]), piece(pieces[-1], end=True)]


async def until(holds: Any, seconds: float = SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.001)


# ---- Requests that one model answers


QUESTION = chat("¿qué? ☃ 😀", temperature=1.10, seed=123456789012345678901234567890)
SNOWMAN = QUESTION.index("☃".encode())
REWRITES = [
    pytest.param([piece(QUESTION, end=True)], id="one-piece-that-ends"),
    pytest.param([piece(QUESTION), piece(end=True)], id="empty-piece-at-the-end"),
    pytest.param([piece(), piece(QUESTION, end=True)], id="empty-piece-first"),
    pytest.param(cut(QUESTION, 5, 9), id="cut-within-a-name"),
    pytest.param(cut(QUESTION, SNOWMAN - 3), id="cut-within-a-string"),
    pytest.param(cut(QUESTION, SNOWMAN + 1, SNOWMAN + 2), id="cut-within-a-character"),
    pytest.param(cut(QUESTION, *range(1, len(QUESTION))), id="byte-by-byte"),
    pytest.param([*cut(QUESTION, 7, 7, 7)], id="empty-pieces-between"),
]


@pytest.mark.parametrize("sent", REWRITES)
async def test_a_body_is_rewritten(rig: Rig, sent: list[ProcessingRequest]) -> None:
    """However a body is cut, one header reply comes first and then the new body, which ends once, at its end."""
    told = await rig.envoy.exchange(headers(), *sent)

    assert told.kinds == ["headers", "body end"]
    assert told.body == named(QUESTION)
    assert told.set_headers("request_headers")["x-looper-model"] == b"small"


@pytest.mark.parametrize("sent", [[piece(QUESTION)], [piece(QUESTION[:9]), piece(QUESTION[9:])]])
async def test_trailers_end_a_rewritten_body(rig: Rig, sent: list[ProcessingRequest]) -> None:
    """With trailers to come no piece of the body ends the request; the reply to the trailers does."""
    told = await rig.envoy.exchange(headers(), *sent, trailers())

    assert told.kinds == ["headers", "body", "trailers"]
    assert told.body == named(QUESTION)


SIZES = [
    pytest.param(MAX_CHUNK - 1, [MAX_CHUNK - 1], id="below"),
    pytest.param(MAX_CHUNK, [MAX_CHUNK], id="at"),
    pytest.param(MAX_CHUNK + 1, [MAX_CHUNK, 1], id="above"),
    pytest.param(2 * MAX_CHUNK, [MAX_CHUNK, MAX_CHUNK], id="twice"),
    pytest.param(2 * MAX_CHUNK + 1, [MAX_CHUNK, MAX_CHUNK, 1], id="above-twice"),
]


@pytest.mark.parametrize("ends", ["piece", "trailers"])
@pytest.mark.parametrize(("size", "lengths"), SIZES)
async def test_replies_are_cut(rig: Rig, size: int, lengths: list[int], ends: str) -> None:
    """No piece of a new body is longer than Envoy asks for, none is empty, and only the last one ends it."""
    sent = sized(size + len(NAME) - len("qwen3-8b"))
    with_trailers = ends == "trailers"
    ending = [piece(sent), trailers()] if with_trailers else [piece(sent, end=True)]

    told = await rig.envoy.exchange(headers(), *ending)

    assert [len(each) for each in told.pieces] == lengths
    assert told.body == named(sent)
    kinds = [kind(response) for response in told.responses]
    before, last = (len(lengths), "trailers") if with_trailers else (len(lengths) - 1, "body end")
    assert kinds == ["headers", *["body"] * before, last]


@pytest.mark.parametrize("mode", [FDS, BUFFERED], ids=["full-duplex", "buffered"])
@pytest.mark.parametrize(
    ("size", "status"),
    [
        pytest.param(0, 400, id="empty"),
        pytest.param(LIMIT - 1, None, id="below"),
        pytest.param(LIMIT, None, id="at"),
        pytest.param(LIMIT + 1, 413, id="above"),
    ],
)
async def test_bodies_up_to_the_limit(
    rig: Rig, size: int, status: int | None, mode: ProcessingMode.BodySendMode
) -> None:
    """A body of exactly `limits.max_body` is read; one byte more, or none at all, is refused with a status."""
    data = sized(size) if size else b""

    told = await rig.envoy.exchange(headers(mode=mode), piece(data, end=True))

    if status is None:
        assert not told.kinds[-1].startswith("immediate")
    else:
        assert told.status == status


LATER = [
    pytest.param([piece(end=True)], id="end-again"),
    pytest.param([piece(b"more")], id="data"),
    pytest.param([piece(QUESTION, end=True)], id="the-body-again"),
    pytest.param([trailers()], id="trailers"),
    pytest.param([trailers(), piece(end=True), trailers()], id="all-of-these"),
]


@pytest.mark.parametrize("later", LATER)
async def test_what_follows_the_end_is_ignored(rig: Rig, later: list[ProcessingRequest]) -> None:
    """What comes after a request's end is not looked at, and nothing is told about it."""
    told = await rig.envoy.exchange(headers(), piece(QUESTION, end=True), *later)

    assert told.kinds == ["headers", "body end"]
    assert told.body == named(QUESTION)


async def test_nothing_follows_an_immediate_response(rig: Rig) -> None:
    """After an immediate response in the middle of an upload, the rest of it is taken and nothing more is told."""
    rest = [piece(b"x" * 100_000)] * 3

    told = await rig.envoy.exchange(headers(), piece(sized(LIMIT + 1)), *rest, piece(end=True))

    assert told.kinds == ["immediate 413"]


@pytest.mark.parametrize("ends", ["piece", "trailers"])
async def test_a_refusal_of_a_whole_request(rig: Rig, ends: str) -> None:
    """A refusal comes at the end of a request, whichever way that ends, and only once."""
    ending = [piece(b"{", end=True)] if ends == "piece" else [piece(b"{"), trailers()]

    told = await rig.envoy.exchange(headers(), *ending, piece(end=True))

    assert told.kinds == ["immediate 400"]


# ---- What is refused


REFUSALS = [
    pytest.param(b"", 400, "invalid_json", id="empty"),
    pytest.param(b"{", 400, "invalid_json", id="cut-off"),
    pytest.param(b"\x00\xff", 400, "invalid_json", id="no-text"),
    pytest.param(QUESTION[: SNOWMAN + 1], 400, "invalid_json", id="cut-off-within-a-character"),
    pytest.param(b"[1]", 400, "invalid_json", id="a-list"),
    pytest.param(b"null", 400, "invalid_json", id="null"),
    pytest.param(b"[" * 100_000, 400, "invalid_json", id="deep"),
    pytest.param(QUESTION + b" {}", 400, "invalid_json", id="two-values"),
    pytest.param(b'{"messages":[]}', 400, "invalid_field", id="no-model"),
    pytest.param(b'{"model":null,"messages":[]}', 400, "invalid_field", id="model-null"),
    pytest.param(b'{"model":1,"messages":[]}', 400, "invalid_field", id="model-a-number"),
    pytest.param(b'{"model":["x"],"messages":[]}', 400, "invalid_field", id="model-a-list"),
    pytest.param(b'{"model":{},"messages":[]}', 400, "invalid_field", id="model-an-object"),
    pytest.param(chat(model="nobody"), 404, "model_not_found", id="unknown-model"),
    pytest.param(chat(model="small"), 404, "model_not_found", id="private-model"),
    pytest.param(chat(model=""), 404, "model_not_found", id="model-empty"),
]


@pytest.mark.parametrize("mode", [FDS, BUFFERED], ids=["full-duplex", "buffered"])
@pytest.mark.parametrize(("data", "status", "code"), REFUSALS)
async def test_refuses(
    rig: Rig, data: bytes, status: int, code: str, mode: ProcessingMode.BodySendMode
) -> None:
    """What cannot be understood is answered in OpenAI's shape, under details that name its code."""
    told = await rig.envoy.exchange(headers(mode=mode), piece(data, end=True))

    assert told.kinds[-1:] == [f"immediate {status}"]
    assert told.kinds[:-1] == ([] if mode == FDS else ["headers"])
    assert told.error["code"] == code
    assert told.error["type"] == "invalid_request_error"
    assert told.details == f"looper.{code}"
    assert rig.models.asked == []


@pytest.mark.parametrize("mode", [FDS, BUFFERED], ids=["full-duplex", "buffered"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
async def test_a_post_without_a_body(
    rig: Rig, path: str, mode: ProcessingMode.BodySendMode
) -> None:
    """A header-only POST to what needs a body is refused from its headers alone."""
    told = await rig.envoy.exchange(headers(path, mode=mode, end=True))

    assert told.kinds == ["immediate 400"]
    assert told.error["code"] == "invalid_json"


@pytest.mark.parametrize("mode", [FDS, BUFFERED], ids=["full-duplex", "buffered"])
async def test_trailers_without_a_body(rig: Rig, mode: ProcessingMode.BodySendMode) -> None:
    """A POST of headers and trailers has an empty body, which is refused."""
    told = await rig.envoy.exchange(headers(mode=mode), trailers())

    assert told.kinds[-1] == "immediate 400"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models?limit=5"])
@pytest.mark.parametrize("mode", [FDS, BUFFERED], ids=["full-duplex", "buffered"])
async def test_a_get_is_answered_from_its_headers(
    rig: Rig, path: str, mode: ProcessingMode.BodySendMode
) -> None:
    """The list of models is one immediate response."""
    told = await rig.envoy.exchange(headers(path, method="GET", mode=mode, end=True))

    assert told.kinds == ["immediate 200"]
    assert told.details == "looper.models"
    answer = json.loads(told.responses[0].immediate_response.body)
    assert [model["id"] for model in answer["data"]] == [NAME]


# ---- What is not ours


PASSED = [
    pytest.param("POST", "/v1/audio/speech", id="another-path"),
    pytest.param("PUT", "/v1/chat/completions", id="another-method"),
    pytest.param("POST", "/v1/models", id="post-to-models"),
    pytest.param("POST", "/v1//chat/completions", id="two-slashes"),
    pytest.param("POST", "/v1/chat/completions/", id="slash-at-the-end"),
    pytest.param("POST", "/v1/%63hat/completions", id="percent-encoded"),
    pytest.param("POST", "/V1/chat/completions", id="upper-case"),
    pytest.param("POST", "", id="empty-path"),
    pytest.param("", "/v1/chat/completions", id="empty-method"),
]


@pytest.mark.parametrize(("method", "path"), PASSED)
async def test_what_is_not_ours_passes(rig: Rig, method: str, path: str) -> None:
    """Any other request passes piece by piece, as it comes: each is let go before the next one is sent."""
    stream = rig.envoy.stream()
    await stream.send(headers(path, method=method))
    await stream.receive_kinds("headers")
    for data in (b"\x00\xff{", b"", b"x" * 1000):
        await stream.send(piece(data))
        await stream.receive_kinds("body")
    await stream.send(piece(b"end", end=True))

    told = await stream.told()
    assert told.kinds == ["headers", "body", "body end"]
    assert told.pieces == [b"\x00\xff{", b"", b"x" * 1000, b"end"]
    assert told.set_headers("request_headers") == {}
    assert told.metadata == {}


@pytest.mark.parametrize("size", [0, 1, MAX_CHUNK, MAX_CHUNK + 1, 1_000_000])
@pytest.mark.parametrize("ends", ["piece", "trailers"])
async def test_big_pieces_pass(rig: Rig, size: int, ends: str) -> None:
    """A piece over the length of a reply passes in several, over any limit, and what ends the request still does."""
    data = os.urandom(size)
    ending = [piece(data, end=True)] if ends == "piece" else [piece(data), trailers()]

    told = await rig.envoy.exchange(headers("/v1/files"), *ending)

    assert told.body == data
    assert max(map(len, told.pieces)) <= MAX_CHUNK
    kinds = [kind(response) for response in told.responses]
    assert kinds[-1] == ("body end" if ends == "piece" else "trailers")
    assert kinds.count("body end") == (1 if ends == "piece" else 0)


@pytest.mark.parametrize("mode", [FDS, BUFFERED], ids=["full-duplex", "buffered"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE", "POST"])
async def test_requests_of_headers_pass(
    rig: Rig, method: str, mode: ProcessingMode.BodySendMode
) -> None:
    """A request without a body is told nothing but to go on."""
    told = await rig.envoy.exchange(headers("/elsewhere", method=method, mode=mode, end=True))

    assert told.kinds == ["headers"]


async def test_trailers_pass_without_a_body(rig: Rig) -> None:
    """Headers and trailers alone pass, too."""
    told = await rig.envoy.exchange(headers("/elsewhere"), trailers())

    assert told.kinds == ["headers", "trailers"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/completions", "/v1/messages"])
async def test_a_model_of_others_passes(rig: Rig, path: str) -> None:
    """A request for a model that is not ours is read to its end and passes byte for byte."""
    data = b' { "model" : "text-embedding-3" , "input":"x"} '

    told = await rig.envoy.exchange(headers(path), *cut(data, 3, 8))

    assert told.kinds == ["headers", "body end"]
    assert told.body == data
    assert told.set_headers("request_headers") == {}


PASSES = [
    pytest.param("/v1/chat/completions", QUESTION, id="rewritten"),
    pytest.param("/v1/embeddings", b'{"model":"x"}', id="read-and-passed"),
    pytest.param("/elsewhere", b"x", id="passed"),
]


@pytest.mark.parametrize("mode", [FDS, BUFFERED], ids=["full-duplex", "buffered"])
@pytest.mark.parametrize(("path", "data"), PASSES)
async def test_the_route_is_chosen_again(
    rig: Rig, path: str, data: bytes, mode: ProcessingMode.BodySendMode
) -> None:
    """Every header reply clears the route, so that no header of the client's has chosen it."""
    told = await rig.envoy.exchange(headers(path, mode=mode), piece(data, end=True))

    replies = [reply for reply in told.responses if kind(reply) == "headers"]
    assert [reply.request_headers.response.clear_route_cache for reply in replies] == [True]


# ---- Body mode BUFFERED


@pytest.mark.parametrize("ends", ["piece", "trailers"])
async def test_a_buffered_body_is_rewritten(rig: Rig, ends: str) -> None:
    """In BUFFERED each message has one reply, in Envoy's order, and the new body's length is right."""
    stream = rig.envoy.stream()
    await stream.send(headers(mode=BUFFERED))
    await stream.receive_kinds("headers")
    await stream.send(piece(QUESTION, end=ends == "piece"))
    await stream.receive_kinds("body")
    if ends == "trailers":
        await stream.send(trailers())
        await stream.receive_kinds("trailers")
    await stream.half_close()
    assert await stream.receive() is None

    reply = stream.received[1].request_body.response
    assert reply.body_mutation.body == named(QUESTION)
    assert reply.clear_route_cache
    set_headers = Told(stream.received).set_headers("request_body")
    assert set_headers["content-length"] == b"%d" % len(named(QUESTION))
    assert set_headers["x-looper-model"] == b"small"


@pytest.mark.parametrize("ends", ["piece", "trailers"])
@pytest.mark.parametrize("path", ["/elsewhere", "/v1/embeddings"])
async def test_a_buffered_body_passes(rig: Rig, path: str, ends: str) -> None:
    """In BUFFERED what is not ours keeps its body and its length: the reply says nothing of either."""
    stream = rig.envoy.stream()
    await stream.send(headers(path, mode=BUFFERED))
    await stream.receive_kinds("headers")
    await stream.send(piece(b'{"model":"x"}', end=ends == "piece"))
    await stream.receive_kinds("body")
    if ends == "trailers":
        await stream.send(trailers())
        await stream.receive_kinds("trailers")
    await stream.half_close()
    assert await stream.receive() is None

    assert not stream.received[1].request_body.response.HasField("body_mutation")
    assert not stream.received[1].request_body.response.header_mutation.set_headers


async def test_a_buffered_body_of_many_megabytes(rig: Rig) -> None:
    """One message may be larger than gRPC lets through unless it is told to."""
    data = b"x" * 6_000_000

    told = await rig.envoy.exchange(headers("/elsewhere", mode=BUFFERED), piece(data, end=True))

    assert told.kinds == ["headers", "body"]


@pytest.mark.parametrize("members", [{}, {"stream": True}], ids=["whole", "streamed"])
async def test_a_loop_answers_at_once_in_buffered(members: dict[str, Any]) -> None:
    """In BUFFERED, where Envoy streams no local answer, a loop's answer is one immediate response."""
    async with processing({"small": "the answer"}) as rig:
        data = chat("alone", **members)
        told = await rig.envoy.exchange(headers(mode=BUFFERED), piece(data, end=True))

    assert told.kinds == ["headers", "immediate 200"]
    assert told.details == "looper.answer"


# ---- Filters that are set up in another way


def without_config() -> ProcessingRequest:
    request = headers()
    request.ClearField("protocol_config")
    return request


def response_body(mode: ProcessingMode.BodySendMode) -> ProcessingRequest:
    request = headers()
    request.protocol_config.response_body_mode = mode
    return request


def observed() -> ProcessingRequest:
    request = without_config()
    request.observability_mode = True
    return request


MISUSES = [
    pytest.param(headers(mode=ProcessingMode.NONE), "NONE", id="none"),
    pytest.param(headers(mode=ProcessingMode.STREAMED), "STREAMED", id="streamed"),
    pytest.param(headers(mode=ProcessingMode.BUFFERED_PARTIAL), "BUFFERED_PARTIAL", id="partial"),
    pytest.param(headers(mode=ProcessingMode.GRPC), "GRPC", id="grpc"),
    pytest.param(response_body(ProcessingMode.BUFFERED), "BUFFERED", id="response-buffered"),
    pytest.param(without_config(), "protocol_config", id="no-protocol-config"),
    pytest.param(observed(), "observability_mode", id="observability"),
    pytest.param(piece(b"x"), "request headers", id="body-first"),
    pytest.param(trailers(), "request headers", id="trailers-first"),
    pytest.param(b"", "request headers", id="empty-first"),
    pytest.param(b"\xff\xff\xff", "not a ProcessingRequest", id="garbage-first"),
    pytest.param(b"\x12\xff\xff\xff\x7f", "not a ProcessingRequest", id="cut-off-first"),
]


@pytest.mark.parametrize(("first", "said"), MISUSES)
async def test_another_filter_is_refused(
    rig: Rig, first: ProcessingRequest | bytes, said: str
) -> None:
    """A filter that cannot work is told so in words, as INVALID_ARGUMENT, and nothing else."""
    code, details = await rig.envoy.refused(first)

    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert said in details
    assert not any(secret in details for secret in ("Error", "Traceback", "/", ".py", "0x"))


@pytest.mark.parametrize("when", ["in-the-body", "after-the-end"])
@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"\xff\xff\xff", id="garbage"),
        pytest.param(b"", id="empty"),
        pytest.param(headers(), id="headers-again"),
    ],
)
async def test_a_message_that_makes_no_sense(
    rig: Rig, message: ProcessingRequest | bytes, when: str
) -> None:
    """What Envoy would never send ends the stream as INVALID_ARGUMENT, in words without an exception's."""
    stream = rig.envoy.stream()
    await stream.send(headers(), piece(QUESTION, end=when == "after-the-end"))
    if when == "after-the-end":
        await stream.receive_kinds("headers", "body end")
    await stream.send(message)

    code, details = await stream.status()
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "Error" not in details


async def test_nonsense_after_an_answer_that_came_before_its_request(rig: Rig) -> None:
    """Such an answer is let through, with whatever follows it."""
    opening = response_body(ProcessingMode.STREAMED)
    opening.ClearField("request_headers")
    opening.response_headers.SetInParent()
    stream = rig.envoy.stream()
    await stream.send(opening)
    assert await stream.receive() is not None
    await stream.send(b"\xff\xff\xff")

    code, details = await stream.status()
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "not a ProcessingRequest" in details


async def test_a_mistake_of_ours_is_told_without_its_text(logged: list[Any]) -> None:
    """A bug in the middle of a loop is a 500 that says no more than that; its text is in our log alone."""
    async with processing({"small": Crash()}) as rig:
        told = await rig.envoy.exchange(headers(), piece(chat("alone"), end=True))

    assert told.kinds == ["immediate 500"]
    assert told.details == "looper.internal_error"
    assert b"mistake" not in told.responses[0].SerializeToString()
    assert [event["event"] for event in logged if event["log_level"] == "error"] == [
        "exchange.crashed"
    ]


# ---- Headers and metadata


async def test_raw_values_come_first(rig: Rig) -> None:
    """A header's raw value is what counts; a plain one is taken where there is no raw one."""
    request = headers("/elsewhere", method="PUT")
    listed = request.request_headers.headers.headers
    listed[0].value, listed[0].raw_value = "POST", b""
    listed[1].value, listed[1].raw_value = "/elsewhere", b"/v1/chat/completions"

    told = await rig.envoy.exchange(request, piece(QUESTION, end=True))

    assert told.body == named(QUESTION)


async def test_header_values_that_are_no_text(rig: Rig) -> None:
    """Headers may hold any bytes; attributes and metadata may come with them and change nothing."""
    request = headers()
    request.request_headers.headers.headers.add(key="x-latin", raw_value=b"caf\xe9\xff")
    request.request_headers.headers.headers.add(key="x-empty")
    request.attributes["envoy.filters.http.ext_proc"].update({"request.id": "1"})
    request.metadata_context.filter_metadata["looper"].update({"model": "large"})

    told = await rig.envoy.exchange(request, piece(QUESTION, end=True))

    assert told.set_headers("request_headers")["x-looper-model"] == b"small"


async def test_no_header_at_all(rig: Rig) -> None:
    """A filter that forwards no header has its requests pass."""
    request = headers(end=True)
    request.request_headers.ClearField("headers")

    assert (await rig.envoy.exchange(request)).kinds == ["headers"]


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "gzip, identity"])
async def test_a_compressed_body_is_refused_at_once(rig: Rig, encoding: str) -> None:
    """A body that cannot be read is refused from the headers, before any of it has come."""
    stream = rig.envoy.stream()
    await stream.send(headers(more=[("content-encoding", encoding)]))

    told = await stream.told()
    assert told.kinds == ["immediate 400"]
    assert told.details == "looper.invalid_request"


async def test_the_metadata_of_a_routed_request(rig: Rig) -> None:
    """What was decided is dynamic metadata of the reply to the headers, in our namespace."""
    told = await rig.envoy.exchange(headers(), piece(QUESTION, end=True))

    run = told.set_headers("request_headers")["x-looper-run"].decode()
    assert len(run) == 16
    assert told.metadata == {
        "decision": "default",
        "recipe": "general",
        "algorithm": "single",
        "model": "small",
        "run": run,
    }
    assert told.responses[0].dynamic_metadata


async def test_the_metadata_of_a_loop() -> None:
    """A loop's first message says what was decided and its last what was used: whole numbers, none below zero."""
    async with processing({"small": "the answer"}) as rig:
        told = await rig.envoy.exchange(headers(), piece(chat("alone", stream=True), end=True))

    first, *between, last = map(metadata_of, told.responses)
    assert (first["decision"], first["algorithm"], first["outcome"]) == (
        "solo",
        "single",
        "started",
    )
    assert between == [{}] * len(between)
    assert last["outcome"] == "ok"
    numbers = {name: value for name, value in last.items() if not isinstance(value, str)}
    kinds = ("prompt_tokens", "completion_tokens")
    assert numbers.keys() == {
        *kinds, *(f"{kind}.single" for kind in kinds), "calls", "cost_microusd", "first_token_ms",
    }  # fmt: skip
    assert all(value >= 0 and value == int(value) for value in numbers.values())
    assert (numbers["calls"], numbers["prompt_tokens"], numbers["completion_tokens"]) == (1, 10, 5)


@pytest.mark.parametrize(
    ("recipe", "model"),
    [
        pytest.param(None, b"small", id="none"),
        pytest.param("", b"small", id="empty"),
        pytest.param("general", b"small", id="its-own"),
        pytest.param("plain", b"other", id="another"),
    ],
)
async def test_the_route_names_the_recipe(rig: Rig, recipe: str | None, model: bytes) -> None:
    """The recipe in a stream's metadata stands above the one of the public name."""
    told = await rig.envoy.exchange(headers(), piece(QUESTION, end=True), recipe=recipe)

    assert told.set_headers("request_headers")["x-looper-model"] == model


async def test_an_unknown_recipe_is_refused(rig: Rig) -> None:
    """A route that names a recipe which is not there answers nothing: another one might let too much through."""
    stream = rig.envoy.stream(recipe="nobody")
    await stream.send(headers(), piece(QUESTION, end=True))

    code, details = await stream.status()
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details == "the route names a recipe that does not exist"


async def test_a_client_names_no_recipe(rig: Rig) -> None:
    """A header of the request with the same name says nothing."""
    told = await rig.envoy.exchange(
        headers(more=[("x-looper-recipe", "plain")]), piece(QUESTION, end=True)
    )

    assert told.set_headers("request_headers")["x-looper-model"] == b"small"


# ---- Loops


@pytest.mark.parametrize("ends", ["piece", "trailers"])
async def test_a_loop_is_streamed(ends: str) -> None:
    """A streamed answer is one message of headers with a status, then bodies, the last of which alone ends it."""
    data = chat("alone", stream=True)
    ending = [piece(data, end=True)] if ends == "piece" else [piece(data), trailers()]
    async with processing({"small": Stream(chunks("the answer"))}) as rig:
        told = await rig.envoy.exchange(headers(), *ending)

    assert told.kinds == ["local headers", "local body", "local body end"]
    opening = told.responses[0].streamed_immediate_response.headers_response
    said = {header.key: header.raw_value for header in opening.headers.headers}
    assert said[":status"] == b"200"
    assert said["content-type"] == b"text/event-stream"
    assert not opening.end_of_stream
    assert EventReader().feed(told.local_body)[-1].data == DONE


async def test_a_loops_answer_is_cut() -> None:
    """No piece of a streamed answer is longer than Envoy asks for."""
    long = Stream([chunk("", role="assistant"), chunk("x" * 200_000), chunk(finish="stop")])
    async with processing({"small": long}) as rig:
        told = await rig.envoy.exchange(headers(), piece(chat("alone", stream=True), end=True))

    bodies = [reply.streamed_immediate_response.body_response.body for reply in told.responses]
    assert max(map(len, bodies)) <= MAX_CHUNK
    assert told.local_body.count(b"x") >= 200_000


async def test_a_loop_is_one_immediate_response() -> None:
    """An answer that is not to be streamed is one message."""
    async with processing({"small": "the answer"}) as rig:
        told = await rig.envoy.exchange(headers(), piece(chat("alone"), end=True))

    assert told.kinds == ["immediate 200"]
    assert told.details == "looper.answer"
    assert told.metadata["outcome"] == "ok"


FAILURES: list[Any] = [
    pytest.param(refused(500), "immediate 502", "looper.upstream_failed", id="502"),
    pytest.param(refused(429), "immediate 429", "looper.rate_limited", id="429"),
]


@pytest.mark.parametrize("members", [{}, {"stream": True}], ids=["whole", "streamed"])
@pytest.mark.parametrize(("step", "status", "details"), FAILURES)
async def test_an_error_before_the_answer_is_a_status(
    step: Step, status: str, details: str, members: dict[str, Any]
) -> None:
    """As long as nothing of an answer was said, an error is a status, under details of ours."""
    async with processing({"small": step, "other": step}) as rig:
        told = await rig.envoy.exchange(headers(), piece(chat("alone", **members), end=True))

    assert told.kinds == [status]
    assert told.details == details
    assert told.metadata["outcome"] == "failed"


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(Stream(chunks("the answer")[:3], end=refused(500)), id="refused"),
        pytest.param(Stream(chunks("the answer")[:3]), id="cut-off"),
    ],
)
async def test_an_error_in_an_answer_ends_it(step: Step) -> None:
    """Once an answer was begun, whatever goes wrong is told in it, and it has its one end."""
    async with processing({"small": step, "other": "else"}) as rig:
        told = await rig.envoy.exchange(headers(), piece(chat("alone", stream=True), end=True))

    assert told.kinds == ["local headers", "local body", "local body end"]


# ---- Initial metadata, which has Envoy replay nothing


@pytest.mark.parametrize("members", [{}, {"stream": True}], ids=["whole", "streamed"])
async def test_a_loop_is_not_replayed(members: dict[str, Any]) -> None:
    """The initial metadata of a loop is there while no model has answered yet."""
    async with processing({"small": Hang()}) as rig:
        stream = rig.envoy.stream()
        await stream.send(headers(), piece(chat("alone", **members), end=True))
        await stream.begun()

        assert stream.received == []
        await until(lambda: rig.models.running == ["small"])
        stream.reset()


@pytest.mark.parametrize("data", [QUESTION, chat("alone")], ids=["routed", "loop"])
async def test_what_costs_nothing_yet_may_be_replayed(data: bytes) -> None:
    """Until its body is complete, no exchange says anything: Envoy may bring it to another processor."""
    async with processing() as rig:
        stream = rig.envoy.stream()
        await stream.send(headers(), piece(data))
        # What was sent before on the same connection has been handled when this is answered.
        await rig.envoy.exchange(headers("/v1/models", method="GET", end=True))

        assert not await stream.is_begun()
        assert rig.models.asked == []


# ---- Half-close and reset


HALVES: list[Any] = [
    pytest.param([], [], id="before-anything"),
    pytest.param([headers()], [], id="after-the-headers"),
    pytest.param([headers(), piece(QUESTION)], [], id="in-the-body"),
    pytest.param([headers("/x")], ["headers"], id="passing-before-the-body"),
    pytest.param([headers("/x"), piece(b"x")], ["headers", "body"], id="passing-in-the-body"),
    pytest.param([headers(mode=BUFFERED)], ["headers"], id="buffered-before-the-body"),
    pytest.param(
        [headers(), piece(QUESTION, end=True)], ["headers", "body end"], id="after-the-request"
    ),
    pytest.param([headers(), piece(b"{", end=True)], ["immediate 400"], id="after-a-refused-one"),
    pytest.param([headers(), piece(chat("alone"), end=True)], ["immediate 200"], id="loop"),
]


@pytest.mark.parametrize(("sent", "kinds"), HALVES)
async def test_half_close(
    sent: list[ProcessingRequest], kinds: list[str], logged: list[Any]
) -> None:
    """When Envoy has no more to say, a complete request is answered and any other left alone, without an error."""
    async with processing({"small": After(0.02, "the answer")}) as rig:
        stream = rig.envoy.stream()
        await stream.send(*sent)
        await stream.half_close()
        while await stream.receive() is not None:
            pass

        assert Told(stream.received).kinds == kinds
        assert await stream.status() == (grpc.StatusCode.OK, "")
    assert [event for event in logged if event["log_level"] != "info"] == []


def finished(logged: list[Any]) -> int:
    return sum(event["event"] == "exchange.finished" for event in logged)


RESETS: list[Any] = [
    pytest.param([headers()], [], [], id="after-the-headers"),
    pytest.param([headers(), piece(QUESTION)], [], [], id="in-the-body"),
    pytest.param([headers("/x"), piece(b"x")], ["headers", "body"], [], id="passing"),
    pytest.param(
        [headers(), piece(QUESTION, end=True)], ["headers", "body end"], [], id="after-a-rewrite"
    ),
    pytest.param([headers(), piece(b"{", end=True)], ["immediate 400"], [], id="after-a-refusal"),
    pytest.param([headers(), piece(chat("alone"), end=True)], [], ["small"], id="call"),
    pytest.param([headers(), piece(chat("team"), end=True)], [], ["small", "other"], id="calls"),
    pytest.param(
        [headers(), piece(chat("alone", stream=True), end=True)],
        ["local headers", "local body"],
        ["small"],
        id="in-an-answer",
    ),
]


@pytest.mark.parametrize(("sent", "kinds", "running"), RESETS)
async def test_reset(
    sent: list[ProcessingRequest], kinds: list[str], running: list[str], logged: list[Any]
) -> None:
    """When Envoy resets a stream, whatever runs for it is broken off at once, and nothing is logged as an error."""
    talks = Stream(chunks("the answer")[:3], end=Hang())
    streamed = "local headers" in kinds
    async with processing({"small": talks if streamed else Hang(), "other": Hang()}) as rig:
        stream = rig.envoy.stream()
        await stream.send(*sent)
        await stream.receive_kinds(*kinds)
        # Headers alone are answered by nothing: what comes after them on the same connection is.
        await rig.envoy.exchange(headers("/v1/models", method="GET", end=True))
        await until(lambda: rig.models.running == running)
        before = time.monotonic()
        stream.reset()

        await until(lambda: rig.models.running == [], CLIENT_GONE)
        await until(lambda: finished(logged) == 2, CLIENT_GONE)
        assert time.monotonic() - before < CLIENT_GONE
        assert rig.models.cancelled == running
        again = await rig.envoy.exchange(headers(), piece(QUESTION, end=True))
        assert again.kinds == ["headers", "body end"]
    assert [event for event in logged if event["log_level"] != "info"] == []


async def test_a_connection_that_breaks() -> None:
    """When Envoy itself goes away, everything that runs for it is broken off."""
    async with processing({"small": Hang()}) as rig:
        async with connected(rig.address) as envoy:
            for _ in range(5):
                await envoy.stream().send(headers(), piece(chat("alone"), end=True))
            await until(lambda: rig.models.running == ["small"] * 5)

        await until(lambda: rig.models.running == [], CLIENT_GONE)


# ---- Many at once


async def test_many_streams_on_one_connection() -> None:
    """Exchanges side by side on one connection, of every kind, have each their own answer."""
    async with processing({"small": After(0.02, "the answer")}) as rig:

        async def one(number: int) -> None:
            match number % 4:
                case 0:
                    data = chat(f"number {number}" + "x" * number * 100)
                    told = await rig.envoy.exchange(headers(), *cut(data, 9))
                    assert told.body == named(data)
                case 1:
                    data = chat(f"alone {number}", stream=True)
                    told = await rig.envoy.exchange(headers(), piece(data, end=True))
                    assert told.kinds == ["local headers", "local body", "local body end"]
                case 2:
                    data = b"%d" % number
                    told = await rig.envoy.exchange(headers("/x"), *cut(data, 1))
                    assert told.body == data
                case _:
                    told = await rig.envoy.exchange(headers(), piece(b"{", end=True))
                    assert told.kinds == ["immediate 400"]

        async with asyncio.TaskGroup() as group:
            for number in range(300):
                group.create_task(one(number))


# ---- Health, start and stop


def health_of(envoy: EnvoyClient) -> Any:
    return health_pb2_grpc.HealthStub(envoy.channel)


@pytest.mark.parametrize("service", ["", "liveness", "readiness"])
async def test_health(rig: Rig, service: str) -> None:
    """Each of the health services says SERVING."""
    stub = health_of(rig.envoy)

    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))

    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_health_of_everything(rig: Rig) -> None:
    """All services are listed with what they say."""
    answer = await health_of(rig.envoy).List(health_pb2.HealthListRequest())

    statuses = {name: each.status for name, each in answer.statuses.items()}
    assert statuses == dict.fromkeys(SERVICES, health_pb2.HealthCheckResponse.SERVING)


async def test_watching_what_is_not_there(rig: Rig) -> None:
    """Whoever watches a service that nobody knows is told so, and may wait for it."""
    watch = health_of(rig.envoy).Watch(health_pb2.HealthCheckRequest(service="nobody"))

    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


async def test_health_of_what_is_not_there(rig: Rig) -> None:
    """A service that nobody knows is NOT_FOUND."""
    stub = health_of(rig.envoy)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="nobody"))

    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_stopping() -> None:
    """A server that stops says NOT_SERVING first, has open exchanges finish, and takes no others."""
    async with processing({"small": After(0.1, "the answer")}, grace=5) as rig:
        watch = health_of(rig.envoy).Watch(health_pb2.HealthCheckRequest(service="readiness"))
        statuses = [(await watch.read()).status]
        stream = rig.envoy.stream()
        await stream.send(headers(), piece(chat("alone"), end=True))
        await until(lambda: rig.models.running == ["small"])
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(rig.stop())
            statuses.append((await watch.read()).status)
            assert rig.models.running == ["small"]
            watch.cancel()
            told = await stream.told()
            async with asyncio.timeout(10):
                await stopping

        assert statuses == [
            health_pb2.HealthCheckResponse.SERVING,
            health_pb2.HealthCheckResponse.NOT_SERVING,
        ]
        assert told.kinds == ["immediate 200"]
        code, _ = await rig.envoy.refused(headers())
        assert code == grpc.StatusCode.UNAVAILABLE


async def test_stopping_is_not_put_off_for_ever(logged: list[Any]) -> None:
    """What has not finished within `grace` is broken off, and the log says that it was us."""
    async with processing({"small": Hang()}, grace=0.1) as rig:
        stream = rig.envoy.stream()
        await stream.send(headers(), piece(chat("alone"), end=True))
        await until(lambda: rig.models.running == ["small"])
        async with asyncio.timeout(10):
            await rig.stop()

        assert rig.models.cancelled == ["small"]
    ends = [event["end"] for event in logged if event["event"] == "exchange.finished"]
    assert ends == ["stopped"]


async def test_all_addresses_stop_together() -> None:
    """With several addresses `grace` is given once, and none of them takes new exchanges meanwhile."""
    runtime = build(parse_config(CONFIG.replace("NAME", NAME), "t"), ScriptedClient({}))
    with TemporaryDirectory(prefix="lo-", dir="/tmp") as folder:
        addresses = [f"unix:{folder}/{number}.sock" for number in range(3)]
        async with AsyncExitStack() as clients, AsyncExitStack() as server:
            await server.enter_async_context(
                serving(lambda _: nullcontext(runtime), addresses, None, 2.0, CARRIED.transport)
            )
            for address in addresses:
                envoy = await clients.enter_async_context(connected(address))
                stream = envoy.stream()
                await stream.send(headers("/x"))
                await stream.receive_kinds("headers")
            before = time.monotonic()
            await server.aclose()

        assert time.monotonic() - before < 5.5  # one after another it would be 6


async def test_liveness_outlasts_what_is_open() -> None:
    """On the port for health `liveness` is SERVING as long as open exchanges are finished, `readiness` is not."""
    runtime = build(parse_config(CONFIG.replace("NAME", NAME), "t"), ScriptedClient({}))
    with TemporaryDirectory(prefix="lo-", dir="/tmp") as name:
        addresses = [f"unix:{name}/p.sock"]
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(AsyncExitStack())
            health = f"unix:{name}/health.sock"
            await server.enter_async_context(
                serving(lambda _: nullcontext(runtime), addresses, health, 5, CARRIED.transport)
            )
            envoy = await stack.enter_async_context(connected(addresses[0]))
            kubelet = health_of(await stack.enter_async_context(connected(health)))
            watch = health_of(envoy).Watch(health_pb2.HealthCheckRequest(service="readiness"))
            await watch.read()
            stream = envoy.stream()
            await stream.send(headers("/x"))
            await stream.receive_kinds("headers")
            async with asyncio.TaskGroup() as group:
                group.create_task(server.aclose())
                await watch.read()
                watch.cancel()
                with suppress(grpc.aio.AioRpcError):
                    while True:  # until the server for exchanges takes no more of them
                        await health_of(envoy).Check(health_pb2.HealthCheckRequest())
                statuses = {}
                for service in ("liveness", "readiness"):
                    with suppress(grpc.aio.AioRpcError):
                        request = health_pb2.HealthCheckRequest(service=service)
                        statuses[service] = (await kubelet.Check(request)).status
                stream.reset()

    assert statuses == {
        "liveness": health_pb2.HealthCheckResponse.SERVING,
        "readiness": health_pb2.HealthCheckResponse.NOT_SERVING,
    }


# ---- The socket


async def models_of(address: str) -> list[str]:
    """The models that whoever listens there says are to be had."""
    async with connected(address) as envoy:
        told = await envoy.exchange(headers("/v1/models", method="GET", end=True))
    answer = json.loads(told.responses[0].immediate_response.body)
    return [model["id"] for model in answer["data"]]


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="lo-", dir="/tmp") as name:
        yield Path(name)


async def test_a_socket_of_the_dead(folder: Path) -> None:
    """A socket that nobody listens on any more is replaced, and gone when we are."""
    path = folder / "p.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))

    async with processing(listen=f"unix:{path}") as rig:
        assert await models_of(rig.address) == [NAME]

    assert list(folder.iterdir()) == []


async def test_a_link_to_nowhere(folder: Path) -> None:
    """What a killed predecessor left behind, link and socket, is taken over and tidied up."""
    path = folder / "p.sock"
    dead = folder / "p.sock.4194305"  # above the highest process id there is
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(dead))
    path.symlink_to(dead.name)

    async with processing(listen=f"unix:{path}") as rig:
        assert await models_of(rig.address) == [NAME]
        assert not dead.exists()

    assert list(folder.iterdir()) == []


async def test_a_file_that_is_no_socket(folder: Path) -> None:
    """A file that is not a socket is nobody's to delete."""
    path = folder / "p.sock"
    path.write_text("precious")

    with pytest.raises(OSError, match="is not a socket"):
        async with processing(listen=f"unix:{path}"):
            pass

    assert path.read_text() == "precious"


async def test_a_live_socket_is_taken_over_if_that_is_meant(folder: Path) -> None:
    """If we are to: whoever listens on the path keeps its connections; new ones are ours."""
    path = folder / "p.sock"

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    async with await asyncio.start_unix_server(echo, path):
        reader, writer = await asyncio.open_unix_connection(path)
        with pytest.raises(OSError, match=f"is served by process {os.getpid()}"):
            async with processing(listen=f"unix:{path}"):
                pass
        assert not path.is_symlink()
        async with processing(listen=f"unix:{path}", replace=True) as rig:
            assert await models_of(rig.address) == [NAME]
            writer.write(b"still here\n")
            assert await reader.readline() == b"still here\n"
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
async def test_a_successor_takes_over(folder: Path, how: signal.Signals) -> None:
    """A successor on the same path has all new connections; its predecessor finishes, and its end disturbs nobody."""
    path = folder / "p.sock"
    config = folder / "old.yaml"
    config.write_text(CONFIG.replace("NAME", "looper/old"))
    old = Processor(config, path, folder / "old.log")
    await old.start()
    try:
        assert old.process is not None
        own = folder / path.readlink()
        async with connected(f"unix:{path}") as envoy:
            stream = envoy.stream()
            await stream.send(headers("/x"))
            await stream.receive_kinds("headers")
            assert await models_of(f"unix:{path}") == ["looper/old"]

            async with processing(listen=f"unix:{path}", name="looper/new", replace=True):
                assert await models_of(f"unix:{path}") == ["looper/new"]
                await stream.send(piece(b"x", end=True))
                assert (await stream.told()).body == b"x"
                await old.stop(how)

                assert own.exists() == (how == signal.SIGKILL)
                assert await models_of(f"unix:{path}") == ["looper/new"]
        assert not path.exists()
    finally:
        await old.stop(signal.SIGKILL)


async def test_a_successor_with_the_same_process_id(folder: Path) -> None:
    """Two containers that share a folder may have the same process id: the end of one disturbs the other no more."""
    address = f"unix:{folder}/p.sock"
    async with processing(listen=address, name="looper/old") as old:
        assert await models_of(address) == ["looper/old"]
        async with processing(listen=address, name="looper/new", replace=True):
            assert await models_of(address) == ["looper/new"]
            await old.stop()

            assert await models_of(address) == ["looper/new"]


async def test_a_second_process_does_not_push_in(folder: Path) -> None:
    """It ends, saying who is there; the first one goes on, and so do links and sockets."""
    config = folder / "old.yaml"
    config.write_text(CONFIG.replace("NAME", "looper/old"))
    first, second = (
        Processor(config, folder / "p.sock", folder / f"{each}.log") for each in ("first", "second")
    )
    await first.start()
    try:
        before = {each.name for each in folder.iterdir()} | {"second.log"}
        await second.start()
        assert first.process is not None
        assert second.process is not None
        assert await second.process.wait() == 1
        assert f"is served by process {first.process.pid}: " in second.log.read_text()
        assert {each.name for each in folder.iterdir()} == before
        assert await models_of(f"unix:{folder}/p.sock") == ["looper/old"]
    finally:
        await second.stop(signal.SIGKILL)
        await first.stop()


async def test_an_address_that_is_taken() -> None:
    """An address that cannot be listened on is named in an OSError."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"

        with pytest.raises(OSError, match=address):
            async with processing(listen=address):
                pass
