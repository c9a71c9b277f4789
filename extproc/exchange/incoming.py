"""The request of one exchange, as Envoy hands it over: read whole, or let through as it comes."""

from typing import TypeVar

from extproc.errors import Abandoned, Overtaken, ProtocolError
from extproc.exchange.channel import Channel
from extproc.exchange.outlet import Outlet
from extproc.protocol.actions import PassBody, PassHeaders, PassTrailers
from extproc.protocol.events import (
    BodyMode,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseHeaders,
)
from looper.errors import BodyTooLarge, InvalidJson, InvalidRequest
from looper.wire.chat import Request

_CUT = 90
"""A compressed body that has grown as many times may lack the rest: Envoy stops at a hundred."""

_Read = TypeVar("_Read", bound=Request)


class Incoming:
    """What follows a request's headers."""

    def __init__(
        self, channel: Channel, outlet: Outlet, opening: RequestHeaders, max_body: int
    ) -> None:
        self._channel = channel
        self._outlet = outlet
        self._opening = opening
        self._max_body = max_body
        self._is_cut = False
        self.trailers = False
        """Whether the request has ended with trailers."""

    async def read(self, kind: type[_Read]) -> _Read:
        """The request that the body is. Raises what `body` does, and InvalidRequest."""
        body = await self.body()
        try:
            return kind.parse(body)
        except InvalidJson:
            if self._is_cut:
                raise BodyTooLarge("The compressed body grows too much.") from None
            raise

    async def body(self) -> bytes:
        """All of it. Raises BodyTooLarge, InvalidRequest; Overtaken and Abandoned if there is nobody to read it for."""
        if self._opening.headers.get("content-encoding", "identity") != "identity":
            raise InvalidRequest("The body must not be compressed.")
        if self._opening.end_of_stream:
            return b""
        if self._opening.mode is BodyMode.BUFFERED:
            await self._outlet.send(PassHeaders())
        pieces: list[bytes] = []
        size = 0
        while (piece := await self._next_piece()) is not None:
            pieces.append(piece.data)
            size += len(piece.data)
            if size > self._max_body:
                raise BodyTooLarge(f"The body is larger than {self._max_body} bytes.")
            # In body mode BUFFERED there is one piece, whose reply Envoy awaits before it sends any trailers.
            if piece.end_of_stream or self._opening.mode is BodyMode.BUFFERED:
                break
        return b"".join(pieces)

    async def _next_piece(self) -> RequestBody | None:
        """The next piece of the body; None when the request has ended with trailers instead."""
        match await self._channel.receive():
            case RequestBody() as piece:
                return piece
            case RequestTrailers() as end:
                self.trailers = True
                self._is_cut = end.growth >= _CUT
                return None
            case ResponseHeaders() if self._opening.metered:
                raise Overtaken
            case None:
                raise Abandoned
            case other:
                raise ProtocolError(f"{type(other).__name__} before the end of the request")

    async def let_through(self) -> None:
        """Let the request through as it is, piece by piece."""
        await self._outlet.send(PassHeaders())
        ended = self._opening.end_of_stream
        while not ended:
            piece = await self._next_piece()
            await self._outlet.send(
                PassTrailers() if piece is None else PassBody(piece.data, piece.end_of_stream)
            )
            ended = piece is None or piece.end_of_stream

    async def release(self, body: bytes) -> None:
        """Let a request through that was read to its end."""
        if self._opening.mode is BodyMode.FULL_DUPLEX:
            await self._outlet.send(PassHeaders())
        await self._outlet.send(PassBody(body, end_of_stream=not self.trailers))
        if self.trailers:
            await self._outlet.send(PassTrailers())
