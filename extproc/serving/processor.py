"""External processing as a gRPC method: each call is one exchange."""

import asyncio
from dataclasses import replace

import structlog

from extproc import headers as names
from extproc.errors import Abandoned, Overtaken, ProtocolError
from extproc.exchange.channel import wave_through
from extproc.exchange.exchange import Exchange
from extproc.protocol.actions import Action
from extproc.protocol.codec import decode, decode_first, encode
from extproc.protocol.events import BodyMode, Event
from extproc.serving.calls import Call, Status
from extproc.serving.versions import Begin
from looper.calling.propagation import joined

_log = structlog.get_logger()


class CallChannel:
    """Envoy's end of one exchange, over a call."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.mode = BodyMode.FULL_DUPLEX

    async def receive(self) -> Event | None:
        message = await self._call.read()
        return None if message is None else decode(message)

    async def send(self, action: Action) -> None:
        for message in encode(action, self.mode):
            await self._call.write(message)

    async def begin(self) -> None:
        # What Envoy does not replay is a stream whose initial metadata it has.
        await self._call.begin()

    async def abort(self, why: str) -> None:
        await self._call.abort(Status.INTERNAL, why)


class Processor:
    """Serves Envoy's streams, each with the runtime that it begins with."""

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._open = 0
        self._is_stopping = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def idle(self) -> None:
        """Return when no exchange is open."""
        await self._idle.wait()

    def stop(self) -> None:
        """What is open is about to be broken off, and not by those who wait for it."""
        self._is_stopping = True

    async def process(self, call: Call) -> None:
        """One exchange. No text of an exception reaches Envoy, which would show it to clients."""
        channel = CallChannel(call)
        self._open += 1
        self._idle.clear()
        try:
            await self._through(channel, call)
        except Abandoned:
            pass  # before it said what it wants
        except ProtocolError as error:
            _log.error("protocol", problem=str(error))
            await call.abort(Status.INVALID_ARGUMENT, str(error))
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()

    async def _through(self, channel: CallChannel, call: Call) -> None:
        try:
            await self._exchange(channel, call)
        except Overtaken:
            await wave_through(channel)

    async def _exchange(self, channel: CallChannel, call: Call) -> None:
        first = await call.read()
        if first is None:
            return
        opening = decode_first(first)
        channel.mode = opening.mode
        said = call.metadata
        if "traceparent" in said:  # of Envoy's own span, where it makes any
            opening = replace(opening, headers=joined(opening.headers, said))
        with self._begin(said.get(names.GENERATION) or None) as runtime:
            recipe = said.get(names.RECIPE) or None
            exchange = Exchange(runtime, channel, opening, recipe, lambda: self._is_stopping)
            await exchange.run()
