"""One HTTP exchange, from Envoy's first message to our last: the whole story, in the order in which it happens."""

import asyncio
import secrets
import time
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType

import structlog

from extproc.decisions.canned import Canned
from extproc.decisions.destination import destination, takes
from extproc.decisions.recipe import Decision
from extproc.errors import Abandoned, Overtaken, ProtocolError
from extproc.exchange.channel import Channel, wave_through
from extproc.exchange.metering import AnswerMeter
from extproc.exchange.reply import Answering, Reply, error_reply, reply_for, said_of
from extproc.exchange.respond import respond
from extproc.exchange.routing import rewrite
from extproc.exchange.work import Work
from extproc.process.runtime import Runtime
from extproc.process.states import identity
from extproc.protocol.actions import (
    Metadata,
    PassBody,
    PassHeaders,
    PassResponseBody,
    PassResponseHeaders,
    PassResponseTrailers,
    PassTrailers,
    Respond,
)
from extproc.protocol.events import (
    BodyMode,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)
from extproc.signals import Subject
from extproc.signals.read import INLINE
from looper.calling.budget import Ledger
from looper.calling.models import Model
from looper.calling.propagation import forwarded
from looper.calling.trace import Trace
from looper.errors import (
    BodyTooLarge,
    ChatOnly,
    InternalError,
    InvalidRequest,
    LooperError,
    ModelNotFound,
    Overloaded,
)
from looper.functions import for_client, goes_on, with_tools
from looper.patterns.single import SingleConfig
from looper.patterns.workflows.pausing import Origin, Pause, Spent, answers_ours, digest
from looper.patterns.workflows.saved import ToolResult, load, tool_results
from looper.run import Deadline, Run, drive, seeded
from looper.wire.chat import ChatRequest, Request
from looper.wire.events import ANSWERED

_log = structlog.get_logger()

CHAT = "/v1/chat/completions"
MODELS = "/v1/models"
ALIASED = ("/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages")
"""What is no chat completion, but names a model."""


class Exchange:
    """Handles one HTTP exchange with the runtime that it began with."""

    def __init__(
        self, runtime: Runtime, channel: Channel, opening: RequestHeaders, recipe: str | None = None
    ) -> None:
        self._runtime = runtime
        self._channel = channel
        self._opening = opening
        self._recipe = recipe
        self._trailers = False
        self._meter: AnswerMeter | None = None
        self._routed: Request | None = None
        self._reply: Reply | None = None
        self._answering: Answering | None = None
        self._pause: Pause | None = None
        self._facts: dict[str, str | int] = {}

    async def run(self) -> None:
        """See the exchange through. Ends, with everything under way, when it is cancelled."""
        started = time.perf_counter()
        end = "abandoned"
        try:
            await self._answer()
            end = "answered"
            await self._see_out()
        except LooperError as error:
            end = "refused"
            await self._fail(error)
            await self._see_out()
        except Overtaken:
            end = "overtaken"
            await wave_through(self._channel)
        except Abandoned:
            pass
        finally:
            # Only now has Envoy nothing of the answer left for a slow client.
            if self._answering is not None:
                self._answering.release()
            milliseconds = round((time.perf_counter() - started) * 1000, 3)
            path = self._known_path()
            _log.info("exchange.finished", ms=milliseconds, path=path, end=end, **self._facts)

    async def _answer(self) -> None:
        match self._opening.method, self._opening.path:
            case "POST", path if path == CHAT:
                await self._chat(ChatRequest.parse(await self._read_body()))
            case "POST", path if path in ALIASED:
                await self._resolve(Request.parse(await self._read_body()))
            case "GET", path if path == MODELS:
                await self._respond(self._runtime.models_answer)
            case _:
                await self._pass()

    # Receiving the request...

    async def _read_body(self) -> bytes:
        """The body, all of it."""
        if self._opening.headers.get("content-encoding", "identity") != "identity":
            raise InvalidRequest("The body must not be compressed.")
        if self._opening.end_of_stream:
            return b""
        if self._opening.mode is BodyMode.BUFFERED:
            await self._channel.send(PassHeaders())
        limit = self._runtime.config.limits.max_body
        pieces: list[bytes] = []
        size = 0
        while (piece := await self._next_piece()) is not None:
            pieces.append(piece.data)
            size += len(piece.data)
            if size > limit:
                raise BodyTooLarge(f"The body is larger than {limit} bytes.")
            # In body mode BUFFERED there is one piece, whose reply Envoy awaits before it sends any trailers.
            if piece.end_of_stream or self._opening.mode is BodyMode.BUFFERED:
                break
        return b"".join(pieces)

    async def _next_piece(self) -> RequestBody | None:
        """The next piece of the body; None when the request has ended with trailers instead."""
        match await self._channel.receive():
            case RequestBody() as piece:
                return piece
            case RequestTrailers():
                self._trailers = True
                return None
            case ResponseHeaders() if self._opening.metered:
                raise Overtaken
            case None:
                raise Abandoned
            case other:
                raise ProtocolError(f"{type(other).__name__} before the end of the request")

    # Deciding...

    async def _chat(self, request: ChatRequest) -> None:
        """A chat completion: whatever the decision says is done with it, unless it answers a run that waits."""
        results = tool_results(await _with_tools(request) if goes_on(request) else request)
        if answers_ours([result.id for result in results]):
            await self._resume(request, results)
            return
        policy = self._runtime.policy(request.model, self._recipe)
        subject = Subject(
            request,
            self._opening.headers,
            self._opening.attributes,
            self._runtime.process.correction.factor,
        )
        decided = await policy.decide(subject)
        decision, facts = decided.decision, decided.facts
        request = decision.parameters.applied(request)
        match decision.action:
            case Canned() as canned:
                await self._say(canned, request, facts)
            case _ if model := destination(decision, request, self._runtime.models):
                outcome = {"outcome": "bypass"} if decision.bypasses(request) else {}
                await self._route(request, model, {**facts, **outcome}, decision)
            case _:
                pattern = self._runtime.pattern(decided.recipe, decision.name)
                work = Work(decided.recipe, decision, facts, decided.bands, pattern)
                await self._loop(request, work)

    async def _resolve(self, request: Request) -> None:
        """Something else that names a model: ours are resolved where one model answers, the rest passes."""
        try:
            policy = self._runtime.policy(request.model, self._recipe)
        except ModelNotFound:
            await self._release(request.body)
            return
        match policy.decisions:
            case [Decision(name=name, algorithm=SingleConfig(main=main)) as decision]:
                facts: Metadata = {"decision": name, "recipe": policy.name, "algorithm": "single"}
                await self._route(request, self._runtime.models[main], facts, decision)
            case _:
                raise ChatOnly(
                    f"The model `{request.model}` answers chat completions only.", param="model"
                )

    # ... and doing: an answer of ours...

    async def _say(self, canned: Canned, request: ChatRequest, facts: Metadata) -> None:
        """Answer with what stands in the configuration."""
        metadata = {**facts, "run": secrets.token_hex(8)}
        self._facts |= {**metadata, "status": canned.status}
        headers = said_of(metadata)
        await self._channel.send(respond(canned, request, headers, metadata))

    # ... or one model, by Envoy's own route...

    async def _route(
        self, request: Request, model: Model, facts: Metadata, decision: Decision
    ) -> None:
        """Have Envoy route the request to a model, with that model's own name in the body."""
        run = secrets.token_hex(8)
        metadata = {**facts, "model": model.name, "run": run}
        self._facts |= metadata
        if self._opening.metered:
            self._routed = request
            self._meter = AnswerMeter(request, model)
        changes = self._meter.request_changes if self._meter is not None else {}
        await self._channel.send(
            rewrite(request, model, decision, metadata, changes, trailers=self._trailers)
        )

    # ... or a team, whose answer we write in Envoy's place.

    async def _resume(self, request: ChatRequest, results: Sequence[ToolResult]) -> None:
        """Have a team go on that waited for these answers of tools: what to do with it was decided long ago."""
        runtime = self._runtime
        ids = [result.id for result in results]
        waiting = await runtime.states.find(ids, request.model, self._owner())
        origin = waiting.paused.origin
        self._facts |= {
            "resumes": origin.run, "recipe": origin.recipe, "decision": origin.decision,
        }  # fmt: skip
        saved = load(waiting.paused.work)
        decision, workflows = runtime.resumable(origin, saved)
        request = decision.parameters.applied(request)
        work = Work(
            origin.recipe,
            decision,
            {"decision": decision.name, "recipe": origin.recipe, "algorithm": decision.label},
            {},
            workflows.going_on(saved, results),
            waiting.paused,
        )
        holder = self._opening.headers.get("x-request-id") or secrets.token_hex(16)
        await runtime.states.hold(
            waiting,
            holder,
            lambda: self._loop(request, work),
            lambda: self._left(work),
        )

    def _left(self, work: Work) -> Spent | None:
        """What a run has taken over all its turns, if it can be gone on with from where this turn began.

        It cannot if the turn has answered, or if its client has left and may have heard of the calls that are next.
        """
        if (pause := self._pause) is None:
            return work.spent
        left = pause.kept and self._facts.get("outcome") == "abandoned"
        return None if left or self._has_answered else pause.spent

    @property
    def _has_answered(self) -> bool:
        return self._facts.get("outcome") in ANSWERED

    async def _loop(self, request: ChatRequest, work: Work) -> None:
        """Have a team answer; if too many are at work already, its stand-in, or nobody."""
        runtime, decision, facts = self._runtime, work.decision, work.facts
        asked = await _with_tools(request)
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(runtime.admission.run(str(facts["recipe"])))
            except Overloaded:
                stand_in = runtime.models.get(decision.overload or "")
                if work.paused or stand_in is None or not takes(request, stand_in):
                    raise
                await self._route(request, stand_in, {**facts, "outcome": "overload"}, decision)
                return
            run = self._begin(asked, work)
            self._answering = answering = self._answering_with(asked, run, work)
            stack.push(partial(self._remember, answering))
            self._facts |= answering.facts
            self._reply = reply_for(answering, live=self._opening.mode is BodyMode.FULL_DUPLEX)
            heartbeat = runtime.config.heartbeat.total_seconds()
            await self._channel.begin()
            emit = for_client(request, self._reply.add, run.trace)
            await drive(work.pattern, asked, run, emit, heartbeat=heartbeat)

    def _answering_with(self, request: ChatRequest, run: Run, work: Work) -> Answering:
        runtime = self._runtime
        return Answering(
            request=request,
            run=run,
            decision=work.decision,
            facts={**work.facts, "run": run.id},
            send=self._channel.send,
            log=self._facts,
            outflow=runtime.outflow,
            max_bytes=runtime.config.limits.max_answer_bytes,
            debug=runtime.config.debug and self._opening.headers.get("looper-debug") == "1",
        )

    def _remember(
        self,
        answering: Answering,
        _: type[BaseException] | None,
        error: BaseException | None,
        __: TracebackType | None,
    ) -> None:
        """A run has ended, one way or another: with an answer, an error, or because nobody waits for it any more."""
        request, run = answering.request, answering.run
        answering.end(error)
        if isinstance(error, Exception):
            self._facts |= _said_of(error)
        self._runtime.process.tally.add(run.ledger, self._facts)
        self._runtime.runs.add(request, run, self._facts)
        self._learn(request, run.trace.whole_prompts())

    def _begin(self, request: ChatRequest, work: Work) -> Run:
        runtime, decision, recipe = self._runtime, work.decision, work.recipe
        id = secrets.token_hex(8)
        planned = max(1, runtime.planned_calls[recipe, decision.name] - work.spent.calls)
        ledger = Ledger(
            decision.budget, runtime.purse, planned_calls=planned, before=work.spent.amount
        )
        deadline = Deadline.after(work.seconds)
        origin = work.origin or Origin(id, request.model, recipe, decision.name, self._owner())
        self._pause = runtime.states.pause(origin, work.spent, ledger, deadline)
        return Run(
            id=id,
            models=runtime.models,
            client=runtime.client,
            ledger=ledger,
            deadline=deadline,
            pauses=self._pause,
            random=seeded(request),
            headers=decision.headers.applied(
                forwarded(self._opening.headers, runtime.config.forward_headers)
            ),
            terms=runtime.terms(recipe, decision.name, request),
            bands=work.bands,
            trace=Trace(full=runtime.runs.full),
        )

    def _owner(self) -> str | None:
        """A digest of whose request this is."""
        return digest(identity(self._runtime.states.identity, self._opening))

    # What is not ours passes, byte for byte.

    async def _pass(self) -> None:
        """Let the request through as it is, piece by piece."""
        await self._channel.send(PassHeaders())
        ended = self._opening.end_of_stream
        while not ended:
            piece = await self._next_piece()
            await self._channel.send(
                PassTrailers() if piece is None else PassBody(piece.data, piece.end_of_stream)
            )
            ended = piece is None or piece.end_of_stream

    async def _release(self, body: bytes) -> None:
        """Let a request through that was read to its end."""
        if self._opening.mode is BodyMode.FULL_DUPLEX:
            await self._channel.send(PassHeaders())
        await self._channel.send(PassBody(body, end_of_stream=not self._trailers))
        if self._trailers:
            await self._channel.send(PassTrailers())

    # The answer does not come by here, unless it is metered: then Envoy holds each piece of it until we have replied.

    async def _see_out(self) -> None:
        """Wait until Envoy is done: to end the stream before would lose what is still on its way."""
        while (event := await self._channel.receive()) is not None:
            match event:
                case RequestTrailers() if self._opening.mode is BodyMode.BUFFERED:
                    await self._channel.send(PassTrailers())
                case ResponseHeaders():
                    if self._meter is not None:
                        self._meter.begin(event.headers)
                    await self._channel.send(PassResponseHeaders())
                case ResponseBody():
                    await self._channel.send(self._metered(event))
                case ResponseTrailers():
                    await self._channel.send(PassResponseTrailers())
                case RequestHeaders() | RequestBody() | RequestTrailers():
                    pass  # nothing that follows the end of the request is looked at

    def _metered(self, piece: ResponseBody) -> PassResponseBody:
        """What becomes of a piece of the answer, and what is known by then of its usage."""
        if self._meter is None:
            return PassResponseBody()
        data = self._meter.feed(piece.data, piece.end_of_stream)
        report = self._meter.report()
        self._facts |= report
        if isinstance(self._routed, ChatRequest) and "prompt_tokens" in report:
            self._learn(self._routed, [int(report["prompt_tokens"])])
        return PassResponseBody(None if data == piece.data else data, report)

    def _learn(self, request: ChatRequest, reported: Iterable[int]) -> None:
        """How many tokens a prompt had by the word of those that were sent it."""
        for tokens in reported:
            self._runtime.process.correction.learn(request.prompt_tokens, tokens)

    async def _respond(self, body: bytes) -> None:
        await self._channel.send(
            Respond(200, (("content-type", "application/json"),), body, "looper.models")
        )

    async def _fail(self, error: LooperError) -> None:
        """Tell the client what went wrong: as a status if nothing was said yet, else in the stream."""
        self._facts |= _said_of(error)
        if self._pause is not None and not self._has_answered:
            await self._pause.withdraw()
        if self._reply is not None:
            await self._reply.fail(error)
        else:
            await self._channel.send(error_reply(error, error.retry, (), {}))

    async def last_resort(self) -> None:
        """After a mistake of ours: end the exchange in a way that says no more than that there was one."""
        await self._fail(InternalError())

    def _known_path(self) -> str:
        """The path, if it is one of ours: others may hold anything."""
        path = self._opening.path
        return path if path in (CHAT, MODELS, *ALIASED) else "other"


async def _with_tools(request: ChatRequest) -> ChatRequest:
    """The request as teams know it, without holding up others for a long one."""
    if len(request.body) > INLINE:
        return await asyncio.to_thread(with_tools, request)
    return with_tools(request)


def _said_of(error: Exception) -> Metadata:
    """What is noted of an error, and read by its client; of a mistake of ours, no more than that there was one."""
    told = error if isinstance(error, LooperError) else InternalError()
    return {"status": told.status, "code": told.code}
