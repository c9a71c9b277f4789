"""Simulated OpenAI backends: several models by name behind one small HTTP server.

Nothing of what they say is true: every answer and every chunk has a `system_fingerprint` that begins
with `simulated`. A request becomes a `Delivery`, a fault may spoil it, and one place sends it.
"""

import asyncio
import inspect
import math
import signal
import socket
import struct
import time
from collections import defaultdict, deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal, TypeAlias

import click
import msgspec
from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from looper.simulate.answers import (
    KNOWN,
    ChatBody,
    Choice,
    KnownQuestion,
    Reply,
    Voice,
    choose,
    recite,
)
from looper.simulate.faults import (
    AnyFault,
    Beside,
    Blank,
    BrokenOff,
    Comments,
    Cut,
    EarlyFinish,
    EmptyFirst,
    Ending,
    ErrorObject,
    Fault,
    Framing,
    Frozen,
    FunctionCall,
    Garbage,
    GzipBomb,
    Hang,
    Huge,
    InParts,
    Length,
    NoChunks,
    OtherEnd,
    OtherMode,
    PlainStop,
    ReasoningOnly,
    Refusal,
    Reset,
    RoleInEach,
    SaidTwice,
    Status,
    Strange,
    ToolDeltas,
    Torn,
    Trickle,
    UsageHabit,
)
from looper.simulate.misbehaviour import Asked, misbehave
from looper.simulate.models import MODELS, SimulatedModel
from looper.simulate.rules import objection
from looper.simulate.shapes import (
    Delivery,
    EmbeddingsBody,
    completion,
    embeddings,
    http_error,
    legacy_completion,
)

__all__ = [
    "MODELS",
    "Address",
    "AnyFault",
    "Beside",
    "Blank",
    "BrokenOff",
    "Comments",
    "Cut",
    "EarlyFinish",
    "EmptyFirst",
    "Ending",
    "ErrorObject",
    "Fault",
    "Framing",
    "FunctionCall",
    "Garbage",
    "GzipBomb",
    "Hang",
    "Huge",
    "InParts",
    "Length",
    "NoChunks",
    "OtherEnd",
    "OtherMode",
    "PlainStop",
    "ReasoningOnly",
    "ReceivedCall",
    "Refusal",
    "Reset",
    "RoleInEach",
    "SaidTwice",
    "Script",
    "SimulatedModel",
    "Simulator",
    "Status",
    "Strange",
    "ToolDeltas",
    "Torn",
    "Trickle",
    "UsageHabit",
    "main",
]

MAX_BODY_BYTES = 64 * 2**20
KEPT_CALLS = 100_000  # a demo may run for days
_WRITE_BYTES = 2**16

Script: TypeAlias = Reply | AnyFault | Callable[[dict[str, Any]], Reply | Awaitable[Reply]]


@dataclass(slots=True)
class ReceivedCall:
    """A call as its backend saw it; times are `time.monotonic()` seconds."""

    method: str
    path: str
    headers: dict[str, str]
    started: float
    body: bytes = b""
    parsed: Any = None
    model: str = ""
    first_byte_at: float | None = None
    finished_at: float | None = None
    outcome: Literal["running", "finished", "disconnected", "faulted"] = "running"
    status: int | None = None
    usage: Mapping[str, Any] | None = None
    """What it was billed: nothing unless its answer went out to the end and did not hide its usage."""


_SHOWN = tuple(f.name for f in fields(ReceivedCall) if f.name not in ("body", "parsed"))


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


class Simulator:
    """The backends of a set of models, with all that they were asked."""

    def __init__(
        self, models: Iterable[SimulatedModel] = MODELS, *, known: Sequence[KnownQuestion] = KNOWN
    ) -> None:
        self._known = tuple(known)
        self._built = {model.name: model for model in models}
        self._changed = asyncio.Event()
        self.reset()

    def reset(self) -> None:
        """Forget calls, scripts and changes: models and faults are as they were built."""
        self.models = dict(self._built)
        self.calls: list[ReceivedCall] = []
        self._scripts: defaultdict[str, deque[Script]] = defaultdict(deque)
        self._hits: defaultdict[str, int] = defaultdict(int)
        self._notify()

    def script(self, model: str, *replies: Script) -> None:
        """Queue what the model does in its next calls; after them it goes back to its ways."""
        self._scripts[model].extend(replies)

    def fault(self, model: str, fault: AnyFault | None) -> None:
        """From now on the model fails like this; None: it is well again."""
        self.put(self.models[model].model_copy(update={"fault": fault}))

    def put(self, model: SimulatedModel) -> None:
        """Add a model, or change the one of this name."""
        self.models[model.name] = model
        self._hits.pop(model.name, None)

    def count(self, model: str | None = None) -> int:
        return sum(model in (None, call.model) for call in self.calls)

    def running(self, model: str | None = None) -> int:
        running = (call for call in self.calls if call.outcome == "running")
        return sum(model in (None, call.model) for call in running)

    async def wait_for(self, predicate: Callable[[], bool], timeout: float = 5.0) -> None:
        """Return as soon as `predicate` holds; it is asked whenever a call begins, sends or ends."""
        async with asyncio.timeout(timeout):
            while not predicate():
                await self._changed.wait()

    @asynccontextmanager
    async def serve(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Address]:
        """Listen until the block ends, which ends every connection too, hanging ones at once."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_get("/_simulator/calls", self._show_calls)
        app.router.add_post("/_simulator/{change}", self._change)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,  # or a peer that leaves would not be noticed before a write
            keepalive_timeout=3600.0,  # a proxy's idle connections are the proxy's to close
            shutdown_timeout=0.01,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, backlog=1024).start()
            yield Address(host, runner.addresses[0][1])
        finally:
            await runner.cleanup()

    # A call, in running order

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET" and request.path.endswith("/models"):
            data = [_card(model) for model in self.models]
            return web.json_response({"object": "list", "data": data})
        headers = {
            name.lower(): ", ".join(request.headers.getall(name)) for name in request.headers
        }
        call = ReceivedCall(request.method, request.path_qs, headers, time.monotonic())
        delivery = await self._read(request, call)
        self.calls.append(call)
        del self.calls[:-KEPT_CALLS]
        self._notify()
        try:
            return await self._send(request, call, delivery or await self._deliver(call))
        finally:
            self._end(call, "disconnected")  # unless it has ended otherwise before

    async def _read(self, request: web.Request, call: ReceivedCall) -> Delivery | None:
        """Fill in the call; what must be refused before it is understood, is."""
        try:
            call.body = await request.read()
            call.parsed = msgspec.json.decode(call.body or b"null")
        except web.HTTPRequestEntityTooLarge:
            return http_error(413, "body_too_large", "The body is too large.")
        except (msgspec.DecodeError, UnicodeDecodeError):
            return http_error(400, "invalid_json", "The body is not JSON.")
        if isinstance(call.parsed, dict):
            call.model = str(call.parsed.get("model") or "")
        return None

    async def _deliver(self, call: ReceivedCall) -> Delivery:
        path = call.path.partition("?")[0]
        endings = ("/chat/completions", "/completions", "/embeddings")
        ending = next((ending for ending in endings if path.endswith(ending)), None)
        if ending is None or call.method != "POST":
            return http_error(404, "unknown_url", f"Unknown request URL: {call.method} {path}.")
        if not isinstance(call.parsed, dict):
            return http_error(400, "invalid_json", "The body is not a JSON object.")
        model = self.models.get(call.model)
        if model is None:
            return http_error(404, "model_not_found", f"The model `{call.model}` does not exist.")

        asked = Asked(call.parsed, partial(self._reply, ending, model))
        try:
            if objected := objection(model, call.parsed):
                return objected
            fault = self._due_fault(model)
            return await (misbehave(fault, asked) if fault else asked.reply())
        except msgspec.ValidationError as error:
            return http_error(400, "invalid_field", str(error))

    def _due_fault(self, model: SimulatedModel) -> AnyFault | None:
        script, fault = self._scripts[model.name], model.fault
        if script and isinstance(scripted := script[0], AnyFault):
            script.popleft()
            return scripted
        if fault is None or self._hits[model.name] >= (fault.times or math.inf):
            return None
        self._hits[model.name] += 1
        return fault

    async def _reply(
        self, ending: str, model: SimulatedModel, parsed: dict[str, Any], instead: Reply | None
    ) -> Delivery:
        if ending == "/embeddings":
            return embeddings(model, msgspec.convert(parsed, EmbeddingsBody))
        if ending == "/completions":
            prompt = {"messages": [{"role": "user", "content": str(parsed.get("prompt", ""))}]}
            body = msgspec.convert({**parsed, **prompt, "logprobs": None}, ChatBody)
            return legacy_completion(model, body, self._choose(model, body, 0))
        body = msgspec.convert(parsed, ChatBody)
        script = self._scripts[model.name]
        if instead is not None or script:
            reply = instead if instead is not None else await _resolved(script.popleft(), parsed)
            choices = [recite(reply, body)] * (body.n or 1)
        else:
            choices = [self._choose(model, body, index) for index in range(body.n or 1)]
        return completion(model, body, choices)

    def _choose(self, model: SimulatedModel, body: ChatBody, index: int) -> Choice:
        sample = f"{body.seed}/{index}" if index else f"{body.seed}"
        voice = Voice(model.name, model.skill, model.seed, sample)
        short_ids = model.id_rule == "alnum9"
        return choose(voice, body, self._known, reasoning=model.reasoning, short_ids=short_ids)

    async def _send(
        self, request: web.Request, call: ReceivedCall, delivery: Delivery
    ) -> web.StreamResponse:
        await asyncio.sleep(delivery.wait)
        response = web.StreamResponse(status=delivery.status or 200, headers=delivery.headers)
        _describe(response, delivery)
        try:
            if delivery.status is not None:
                call.status = delivery.status
                await response.prepare(request)
                call.first_byte_at = time.monotonic()
                self._notify()
                await _write(response, delivery)
            if delivery.ending != "end":
                await self._never_end(request, call, delivery)
            await response.write_eof()
        except ConnectionError:  # the peer left while we wrote
            return response
        call.usage = delivery.usage
        self._end(call, "faulted" if delivery.faulted else "finished")
        return response

    async def _never_end(
        self, request: web.Request, call: ReceivedCall, delivery: Delivery
    ) -> None:
        """Wait for the end of the connection, which cancels this handler."""
        transport = request.transport
        if delivery.ending == "reset" and transport is not None:
            self._end(call, "faulted")
            # With this option closing sends RST instead of FIN.
            linger = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, linger
            )
            transport.abort()
        await asyncio.Event().wait()

    def _end(
        self, call: ReceivedCall, outcome: Literal["finished", "disconnected", "faulted"]
    ) -> None:
        if call.outcome == "running":
            call.outcome, call.finished_at = outcome, time.monotonic()
            self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # The same from outside

    async def _show_calls(self, request: web.Request) -> web.Response:
        calls = []
        for call in self.calls:
            shown = {name: getattr(call, name) for name in _SHOWN}
            shown["role"] = call.headers.get("x-looper-role")
            if request.query.get("bodies"):
                text = call.body.decode(errors="replace")
                shown["body"] = text if call.parsed is None else call.parsed
            calls.append(shown)
        return web.json_response({"calls": calls})

    async def _change(self, request: web.Request) -> web.Response:
        body = await request.read() or b"{}"
        try:
            match request.match_info["change"]:
                case "reset":
                    self.reset()
                case "faults":
                    change = _FaultChange.model_validate_json(body)
                    self.fault(change.model, change.fault)
                case "models":
                    changes = TypeAdapter(dict[str, Any]).validate_json(body)
                    old = self.models.get(changes.get("name", ""))
                    members = old.model_dump() if old else {}
                    self.put(SimulatedModel.model_validate(members | changes))
                case _:
                    raise web.HTTPNotFound
        except ValidationError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        except KeyError as error:
            raise web.HTTPBadRequest(text=f"unknown model {error}") from error
        return web.json_response({})


class _FaultChange(Frozen):
    model: str
    fault: Fault | None = None


def _card(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "simulated"}


async def _resolved(script: Script, request: dict[str, Any]) -> Reply:
    if not callable(script):
        return script  # type: ignore[return-value]  # a fault has been taken before
    reply = script(request)
    return await reply if inspect.isawaitable(reply) else reply


def _describe(response: web.StreamResponse, delivery: Delivery) -> None:
    if "Content-Type" not in delivery.headers:
        response.content_type = "text/event-stream" if delivery.streamed else "application/json"
    if "Content-Length" in delivery.headers:
        response.force_close()  # or the peer would wait for what is not there
    elif not delivery.streamed and delivery.ending == "end":
        response.content_length = sum(map(len, delivery.pieces))


async def _write(response: web.StreamResponse, delivery: Delivery) -> None:
    for at, piece in enumerate(delivery.pieces if delivery.pause else _batches(delivery.pieces)):
        await asyncio.sleep(delivery.pause if at else 0)
        await response.write(piece)


def _batches(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in fewer writes, and never all of a large answer at once."""
    batch: list[bytes] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece)
        if size >= _WRITE_BYTES:
            yield b"".join(batch)
            batch, size = [], 0
    if size:
        yield b"".join(batch)


# --- The command ------------------------------------------------------------------------------------


def _parse_model(text: str) -> SimulatedModel:
    names = ("name", "skill", "latency", "token_latency")
    parts = text.split(":")
    if len(parts) > len(names):
        raise click.BadParameter(f"{text}: more than {len(names)} parts")
    try:
        return SimulatedModel.model_validate(dict(zip(names, parts, strict=False)))
    except ValidationError as error:
        raise click.BadParameter(f"{text}: {error.errors()[0]['msg']}") from error


async def _run(models: Sequence[SimulatedModel], host: str, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Simulator(models).serve(host, port) as server:
        click.echo(msgspec.json.encode({"url": server.url}).decode())
        await stop.wait()


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="0: one that is free",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    type=_parse_model,
    metavar="NAME[:SKILL[:LATENCY[:TOKEN_LATENCY]]]",
    help="May be given several times; without it, the models of the demo.",
)
def main(models: tuple[SimulatedModel, ...], host: str, port: int) -> None:
    """Serve simulated models; prints {"url": ...} when ready."""
    try:
        asyncio.run(_run(models or MODELS, host, port))
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "no such address"
        raise click.ClickException(f"cannot listen on {host}:{port}: {why}") from None


if __name__ == "__main__":
    main()
