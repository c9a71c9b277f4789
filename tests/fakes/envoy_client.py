"""Envoy's end of external processing, played by a gRPC client: what it sends, and what it is told."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict

from extproc.protocol._pb.ext_proc_pb2 import (
    HeaderMutation,
    ProcessingMode,
    ProcessingRequest,
    ProcessingResponse,
)
from extproc.protocol.codec import METHOD, NAMESPACE, REWRITTEN

FDS = ProcessingMode.FULL_DUPLEX_STREAMED
BUFFERED = ProcessingMode.BUFFERED
NONE = ProcessingMode.NONE
CHAT = "/v1/chat/completions"
SECONDS = 5.0
"""How long a test waits for what must come."""


# What Envoy sends.


def headers(
    path: str = CHAT,
    *,
    method: str = "POST",
    mode: ProcessingMode.BodySendMode = FDS,
    end: bool = False,
    more: Iterable[tuple[str, str]] = (),
) -> ProcessingRequest:
    """The first message of a stream."""
    request = ProcessingRequest()
    pseudo = ((":method", method), (":path", path), (":authority", "test"), (":scheme", "http"))
    for key, value in (*pseudo, *more):
        request.request_headers.headers.headers.add(key=key, raw_value=value.encode())
    request.request_headers.end_of_stream = end
    request.protocol_config.request_body_mode = mode
    return request


def piece(data: bytes = b"", *, end: bool = False) -> ProcessingRequest:
    """A piece of the body."""
    request = ProcessingRequest()
    request.request_body.body = data
    request.request_body.end_of_stream = end
    return request


def trailers() -> ProcessingRequest:
    """The end of a request that has trailers."""
    request = ProcessingRequest()
    request.request_trailers.trailers.headers.add(key="x-end", raw_value=b"1")
    return request


# What it is told.


def kind(response: ProcessingResponse) -> str:
    """A word for a message: what it answers, and whether it is the end of that."""
    match response.WhichOneof("response"):
        case "request_body":
            streamed = response.request_body.response.body_mutation.streamed_response
            return "body end" if streamed.end_of_stream else "body"
        case "streamed_immediate_response":
            local = response.streamed_immediate_response
            part = str(local.WhichOneof("response")).removesuffix("_response")
            return f"local {part}" + (" end" if local.body_response.end_of_stream else "")
        case "immediate_response":
            return f"immediate {response.immediate_response.status.code}"
        case other:
            return str(other).removeprefix("request_")


def metadata_of(response: ProcessingResponse) -> dict[str, Any]:
    """The dynamic metadata of one message, without the length of a body. There is no namespace but ours."""
    namespaces = MessageToDict(response.dynamic_metadata)
    assert namespaces.keys() <= {NAMESPACE, REWRITTEN}
    return dict(namespaces.get(NAMESPACE, {}))


@dataclass(frozen=True)
class Told:
    """All that was told in one exchange."""

    responses: Sequence[ProcessingResponse]

    @property
    def kinds(self) -> list[str]:
        """What was told, in order; messages of one kind that follow each other count as one."""
        kinds = [kind(response) for response in self.responses]
        return [each for before, each in zip(["", *kinds], kinds, strict=False) if each != before]

    @property
    def pieces(self) -> list[bytes]:
        """The pieces of the new body."""
        return [
            response.request_body.response.body_mutation.streamed_response.body
            for response in self.responses
            if response.WhichOneof("response") == "request_body"
        ]

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def local_body(self) -> bytes:
        """The body of the answer that was streamed in Envoy's place."""
        return b"".join(
            response.streamed_immediate_response.body_response.body for response in self.responses
        )

    @property
    def status(self) -> int:
        """The status of the answer that was given at once, in Envoy's place."""
        return self.responses[-1].immediate_response.status.code

    @property
    def details(self) -> str:
        return self.responses[-1].immediate_response.details

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.responses[-1].immediate_response.body)["error"]
        return error

    def set_headers(self, part: str) -> dict[str, bytes]:
        """The headers that `request_headers` or `request_body` sets."""
        (reply,) = (
            response for response in self.responses if response.WhichOneof("response") == part
        )
        mutation: HeaderMutation = getattr(reply, part).response.header_mutation
        return {option.header.key: option.header.raw_value for option in mutation.set_headers}

    @property
    def metadata(self) -> dict[str, Any]:
        """All dynamic metadata, merged as Envoy merges it. There is no namespace but ours."""
        merged: dict[str, Any] = {}
        for response in self.responses:
            merged |= metadata_of(response)
        return merged


@dataclass
class Stream:
    """One exchange. It is over when the request's last part was answered, or an answer given in Envoy's place."""

    call: Any
    received: list[ProcessingResponse] = field(default_factory=list)
    _last: str = ""
    _mode: int = FDS

    async def send(self, *requests: ProcessingRequest | bytes) -> None:
        for request in requests:
            if isinstance(request, bytes):
                await self.call.write(request)
                continue
            self._note(request)
            await self.call.write(request.SerializeToString())

    def _note(self, request: ProcessingRequest) -> None:
        match request.WhichOneof("request"):
            case "request_headers":
                self._mode = request.protocol_config.request_body_mode
                if request.request_headers.end_of_stream:
                    self._last = "headers"
            case "request_body" if not self._last:
                if request.request_body.end_of_stream:
                    self._last = "body end" if self._mode == FDS else "body"
            case "request_trailers" if not self._last:
                self._last = "trailers"

    async def receive(self) -> ProcessingResponse | None:
        """The next message; None at the end of the stream."""
        message = await asyncio.wait_for(self.call.read(), SECONDS)
        if message is grpc.aio.EOF:
            return None
        response = ProcessingResponse.FromString(message)
        self.received.append(response)
        return response

    async def receive_kinds(self, *expected: str) -> None:
        """Receive exactly these."""
        for each in expected:
            response = await self.receive()
            assert response is not None, f"the stream ended instead of: {each}"
            assert kind(response) == each

    async def told(self) -> Told:
        """Wait until the exchange is over, then until the stream is: one message too many would come in between."""
        while (response := await self.receive()) is not None:
            name = kind(response)
            if name == self._last or name.startswith("immediate") or name == "local body end":
                await self.half_close()
        return Told(self.received)

    async def half_close(self) -> None:
        """Say that no more is sent."""
        await self.call.done_writing()

    def reset(self) -> None:
        """What Envoy does when a client leaves, and also when it has all it needs."""
        self.call.cancel()

    async def begun(self) -> None:
        """Wait for the initial metadata, after which Envoy replays nothing."""
        await asyncio.wait_for(self.call.initial_metadata(), SECONDS)

    async def is_begun(self) -> bool:
        """Whether the initial metadata is here already."""
        try:
            await asyncio.wait_for(self.call.initial_metadata(), 0.02)
        except TimeoutError:
            return False
        return True

    async def status(self) -> tuple[grpc.StatusCode, str]:
        """How the stream ended."""
        async with asyncio.timeout(SECONDS):
            return await self.call.code(), await self.call.details()


@dataclass(frozen=True)
class EnvoyClient:
    """A connection to a processor."""

    channel: grpc.aio.Channel

    def stream(self, *, recipe: str | None = None) -> Stream:
        """Begin an exchange. `recipe`: what the route's filter says in the stream's metadata."""
        metadata = () if recipe is None else (("x-looper-recipe", recipe),)
        return Stream(self.channel.stream_stream(METHOD)(metadata=metadata))

    async def exchange(
        self, *requests: ProcessingRequest | bytes, recipe: str | None = None
    ) -> Told:
        """A whole exchange, in which everything is sent before anything is read."""
        stream = self.stream(recipe=recipe)
        await stream.send(*requests)
        return await stream.told()

    async def refused(self, *requests: ProcessingRequest | bytes) -> tuple[grpc.StatusCode, str]:
        """How a stream ends in which this is sent and nothing is told."""
        stream = self.stream()
        with suppress(grpc.aio.AioRpcError):  # which status() tells of
            await stream.send(*requests)
        return await stream.status()


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[EnvoyClient]:
    """A connection of its own to `unix:/path` or `host:port`."""
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield EnvoyClient(channel)
