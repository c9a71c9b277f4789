"""Simulated OpenAI backends: several models by name behind one small HTTP server.

Nothing of what they say is true: every answer and every chunk has a `system_fingerprint` that begins
with `simulated`. A request becomes a `Delivery`, a fault may spoil it, and one place sends it.
"""

import asyncio
import base64
import inspect
import math
import re
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
from dataclasses import dataclass, field, fields, replace
from functools import partial
from secrets import token_hex
from typing import Annotated, Any, Literal, TypeAlias, assert_never

import click
import msgspec
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from looper.simulated_answers import (
    KNOWN,
    ChatBody,
    Choice,
    KnownQuestion,
    Message,
    Reply,
    Voice,
    choose,
    draw,
    recite,
    tokens,
)

MAX_BODY_BYTES = 64 * 2**20
KEPT_CALLS = 100_000  # a demo may run for days


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# --- Faults: adding one is a class here and an arm in `misbehave` -----------------------------------


class _Fault(_Frozen):
    times: int | None = Field(default=None, ge=1)
    """How many calls fail before all is well again; None: every call."""


class Hang(_Fault):
    """Nothing (more) comes: None, not even headers; else after so many chunks (0: headers only)."""

    type: Literal["hang"] = "hang"
    after_chunks: int | None = Field(default=None, ge=0)


class Reset(_Fault):
    """The connection is reset: None, before the headers; else after so many chunks."""

    type: Literal["reset"] = "reset"
    after_chunks: int | None = Field(default=None, ge=0)


class Status(_Fault):
    type: Literal["status"] = "status"
    status: int = Field(default=500, ge=400, le=599)
    code: str = "simulated_failure"
    message: str = "This failure is simulated."
    retry_after: float | None = Field(default=None, ge=0)


class Cut(_Fault):
    """A stream ends properly but early, without `[DONE]`; an unstreamed body is half there."""

    type: Literal["cut"] = "cut"
    after_chunks: int = Field(default=1, ge=0)


AnyFault: TypeAlias = Hang | Reset | Status | Cut
Fault: TypeAlias = Annotated[AnyFault, Field(discriminator="type")]


class SimulatedModel(_Frozen):
    name: str = Field(min_length=1)
    skill: float = Field(default=0.7, ge=0, le=1)
    """The probability that a known question is answered rightly."""
    seed: int = 0
    latency: float = Field(default=0.0, ge=0)
    """Seconds before the first token."""
    token_latency: float = Field(default=0.0, ge=0)
    """Seconds for each token after it."""
    reasoning: bool = False
    fault: Fault | None = None


MODELS: tuple[SimulatedModel, ...] = tuple(
    SimulatedModel(name=name, skill=skill, latency=0.15, token_latency=0.01)
    for name, skill in (("small", 0.70), ("other", 0.72), ("third", 0.68), ("large", 0.90))
)

Script: TypeAlias = Reply | AnyFault | Callable[[dict[str, Any]], Reply | Awaitable[Reply]]


# --- How it is said: OpenAI's shapes ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delivery:
    """A response, when its parts come, and how it ends."""

    pieces: tuple[bytes, ...] = ()
    """A stream's events, the role's first and `[DONE]` last; or one body."""
    status: int | None = 200
    """None: not even headers."""
    headers: Mapping[str, str] = field(default_factory=dict)
    streamed: bool = False
    wait: float = 0.0
    """Seconds before the headers."""
    pause: float = 0.0
    """Seconds between the pieces."""
    ending: Literal["end", "hang", "reset"] = "end"
    faulted: bool = False
    usage: Mapping[str, Any] | None = None
    """What it costs, if it is sent to its end."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a fault may look at."""

    request: Mapping[str, Any]
    reply: Callable[[Reply | None], Awaitable[Delivery]]
    """Gives what would be sent without the fault, or the given reply in its place."""


async def misbehave(fault: AnyFault, asked: Asked) -> Delivery:
    """What a fault makes of a request. No reply is made, no script used up, if none is sent."""
    match fault:
        case Hang(after_chunks=chunks) | Reset(after_chunks=chunks):
            delivery = Delivery(status=None)
            if chunks is not None:
                delivery = _first(await asked.reply(None), chunks)
            return replace(delivery, ending=fault.type, faulted=True)
        case Status():
            seconds = fault.retry_after
            headers = {} if seconds is None else {"Retry-After": f"{seconds:g}"}
            refused = refusal(fault.status, fault.code, fault.message)
            return replace(refused, headers=headers, faulted=True)
        case Cut():
            return replace(_first(await asked.reply(None), fault.after_chunks), faulted=True)
        case _:
            assert_never(fault)


def _first(delivery: Delivery, chunks: int) -> Delivery:
    """The first chunks of a stream, never its `[DONE]`; the first half of a body."""
    if delivery.streamed:
        return replace(delivery, pieces=delivery.pieces[:-1][:chunks])
    body = b"".join(delivery.pieces)
    return replace(delivery, pieces=(body[: len(body) // 2],) if chunks else ())


def refusal(status: int, code: str, message: str) -> Delivery:
    kinds = {429: "rate_limit_error", 401: "authentication_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    error = {"message": message, "type": kind, "param": None, "code": code}
    return Delivery((msgspec.json.encode({"error": error}),), status=status)


def completion(model: SimulatedModel, body: ChatBody, choices: Sequence[Choice]) -> Delivery:
    """A chat completion, streamed or not."""
    head = _head(model, "chatcmpl", "chat.completion.chunk" if body.stream else "chat.completion")
    usage = _usage(body.texts, [choice.message for choice in choices])
    if body.stream:
        events = (*_events(head, body, choices, usage), b"data: [DONE]\n\n")
        return Delivery(
            events, streamed=True, wait=model.latency, pause=model.token_latency, usage=usage
        )
    whole = [
        {
            "index": index,
            "message": {"role": "assistant", "content": None, "refusal": None, **choice.message},
            "logprobs": choice.logprobs,
            "finish_reason": choice.finish_reason,
        }
        for index, choice in enumerate(choices)
    ]
    seconds = model.latency + model.token_latency * usage["completion_tokens"] / len(choices)
    encoded = msgspec.json.encode({**head, "choices": whole, "usage": usage})
    return Delivery((encoded,), wait=seconds, usage=usage)


def _head(model: SimulatedModel, prefix: str, kind: str) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": model.name,
        "system_fingerprint": f"simulated:{model.name}",
    }


def _events(
    head: dict[str, Any], body: ChatBody, choices: Sequence[Choice], usage: dict[str, Any]
) -> Iterator[bytes]:
    with_usage = bool((body.stream_options or {}).get("include_usage"))
    head = {**head, "usage": None} if with_usage else head

    def event(**members: Any) -> bytes:
        return b"data: " + msgspec.json.encode({**head, **members}) + b"\n\n"

    for index, choice in enumerate(choices):
        rest = {"index": index, "finish_reason": None}
        for delta, logprobs in _deltas(choice):
            yield event(choices=[{**rest, "delta": delta, "logprobs": logprobs}])
        ending: dict[str, Any] = {
            "delta": {},
            "logprobs": None,
            "finish_reason": choice.finish_reason,
        }
        yield event(choices=[{**rest, **ending}])
    if with_usage:
        yield event(choices=[], usage=usage)


def _deltas(choice: Choice) -> Iterator[tuple[dict[str, Any], Mapping[str, Any] | None]]:
    """A message in pieces, each with the log-probabilities of its tokens: role, thoughts, the rest."""
    message = dict(choice.message)
    content, calls = message.pop("content", None), message.pop("tool_calls", None) or ()
    yield {"role": "assistant", "content": None if content is None else ""}, None
    for key in sorted(message, key=lambda key: key != "reasoning_content"):
        value = message[key]
        for piece in tokens(value) if isinstance(value, str) else [value]:
            yield {key: piece}, None
    entries = (choice.logprobs or {}).get("content") or []
    if "".join(entry["token"] for entry in entries) == content:
        for entry in entries:
            yield {"content": entry["token"]}, {"content": [entry], "refusal": None}
    else:
        for at, piece in enumerate(tokens(content or "")):
            yield {"content": piece}, None if at else choice.logprobs
    for index, call in enumerate(calls):
        function = call["function"]
        begun = {**call, "index": index, "function": {**function, "arguments": ""}}
        yield {"tool_calls": [begun]}, None
        for piece in tokens(function["arguments"]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}, None


def _usage(prompts: Iterable[str], messages: Iterable[Message]) -> dict[str, Any]:
    prompt = sum(4 + len(text) // 4 for text in prompts)
    thought = said = 0
    for message in messages:
        thought += len(tokens(message.get("reasoning_content") or ""))
        said += len(tokens((message.get("content") or "") + (message.get("refusal") or "")))
        calls = message.get("tool_calls") or ()
        said += sum(len(tokens(call["function"]["arguments"])) for call in calls)
    counts = {"prompt_tokens": prompt, "completion_tokens": thought + said}
    details = {"completion_tokens_details": {"reasoning_tokens": thought}} if thought else {}
    return {**counts, "total_tokens": prompt + thought + said, **details}


def legacy_completion(model: SimulatedModel, body: ChatBody, choice: Choice) -> Delivery:
    """A text completion; streamed, its text is one event."""
    text = {"text": choice.message["content"], "index": 0, "logprobs": None}
    answer: dict[str, Any] = {
        **_head(model, "cmpl", "text_completion"),
        "choices": [{**text, "finish_reason": choice.finish_reason}],
    }
    if body.stream:
        event = b"data: " + msgspec.json.encode(answer) + b"\n\n"
        return Delivery((event, b"data: [DONE]\n\n"), streamed=True, wait=model.latency)
    answer["usage"] = _usage(body.texts, [choice.message])
    return Delivery((msgspec.json.encode(answer),), wait=model.latency)


class EmbeddingsBody(msgspec.Struct, frozen=True):
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=4096)] | None = None


def embeddings(model: SimulatedModel, body: EmbeddingsBody) -> Delivery:
    """Bags of words, so that texts with words in common are near to each other."""
    single = isinstance(body.input, str) or all(isinstance(part, int) for part in body.input)
    texts = [str(text) for text in ([body.input] if single else body.input)]
    data = []
    for index, text in enumerate(texts):
        vector = [0.0] * (body.dimensions or 64)
        for word in re.findall(r"\w+", text.lower()) or [""]:
            vector[int(draw(model.seed, word) * len(vector))] += 1.0
        length = math.hypot(*vector)
        vector = [value / length for value in vector]
        packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        shown = packed if body.encoding_format == "base64" else vector
        data.append({"object": "embedding", "index": index, "embedding": shown})
    prompt = _usage(texts, [])["prompt_tokens"]
    usage = {"prompt_tokens": prompt, "total_tokens": prompt}
    answer = {"object": "list", "data": data, "model": model.name, "usage": usage}
    return Delivery((msgspec.json.encode(answer),), wait=model.latency)


# --- The server -------------------------------------------------------------------------------------


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
    usage: Mapping[str, Any] | None = None
    """What it was billed: nothing unless it is finished."""


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
        headers = {name.lower(): value for name, value in request.headers.items()}
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
            return refusal(413, "body_too_large", "The body is too large.")
        except (msgspec.DecodeError, UnicodeDecodeError):
            return refusal(400, "invalid_json", "The body is not JSON.")
        if isinstance(call.parsed, dict):
            call.model = str(call.parsed.get("model") or "")
        return None

    async def _deliver(self, call: ReceivedCall) -> Delivery:
        path = call.path.partition("?")[0]
        endings = ("/chat/completions", "/completions", "/embeddings")
        ending = next((ending for ending in endings if path.endswith(ending)), None)
        if ending is None or call.method != "POST":
            return refusal(404, "unknown_url", f"Unknown request URL: {call.method} {path}.")
        if not isinstance(call.parsed, dict):
            return refusal(400, "invalid_json", "The body is not a JSON object.")
        model = self.models.get(call.model)
        if model is None:
            return refusal(404, "model_not_found", f"The model `{call.model}` does not exist.")

        asked = Asked(call.parsed, partial(self._reply, ending, model, call.parsed))
        try:
            fault = self._due_fault(model)
            return await (misbehave(fault, asked) if fault else asked.reply(None))
        except msgspec.ValidationError as error:
            return refusal(400, "invalid_field", str(error))

    def _due_fault(self, model: SimulatedModel) -> AnyFault | None:
        script, fault = self._scripts[model.name], model.fault
        if script and isinstance(script[0], _Fault):
            return script.popleft()  # type: ignore[return-value]  # every _Fault is one of AnyFault
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
        return choose(voice, body, self._known, reasoning=model.reasoning)

    async def _send(
        self, request: web.Request, call: ReceivedCall, delivery: Delivery
    ) -> web.StreamResponse:
        await asyncio.sleep(delivery.wait)
        response = web.StreamResponse(status=delivery.status or 200, headers=delivery.headers)
        response.content_type = "text/event-stream" if delivery.streamed else "application/json"
        if not delivery.streamed and delivery.ending == "end":
            response.content_length = sum(map(len, delivery.pieces))
        try:
            if delivery.status is not None:
                await response.prepare(request)
                call.first_byte_at = time.monotonic()
                self._notify()
                await _write(response, delivery)
            if delivery.ending != "end":
                await self._never_end(request, call, delivery)
            await response.write_eof()
        except ConnectionError:  # the peer left while we wrote
            return response
        if not delivery.faulted:
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


class _FaultChange(_Frozen):
    model: str
    fault: Fault | None = None


def _card(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "simulated"}


async def _resolved(script: Script, request: dict[str, Any]) -> Reply:
    if not callable(script):
        return script  # type: ignore[return-value]  # a fault has been taken before
    reply = script(request)
    return await reply if inspect.isawaitable(reply) else reply


async def _write(response: web.StreamResponse, delivery: Delivery) -> None:
    if not delivery.pause:
        if body := b"".join(delivery.pieces):
            await response.write(body)
        return
    for at, piece in enumerate(delivery.pieces):
        await asyncio.sleep(delivery.pause if at else 0)
        await response.write(piece)


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
@click.option("--port", default=0, show_default=True, help="0: one that is free")
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
    asyncio.run(_run(models or MODELS, host, port))


if __name__ == "__main__":
    main()
