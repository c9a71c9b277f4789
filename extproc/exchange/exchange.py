"""One HTTP exchange, from Envoy's first message to our last: the whole story, in the order in which it happens."""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import structlog

from extproc.decisions.canned import Canned
from extproc.decisions.destination import destination
from extproc.decisions.engine import Decided, Policy
from extproc.decisions.explain import explanation
from extproc.decisions.recipe import Decision
from extproc.errors import Abandoned, Overtaken, ProtocolError
from extproc.exchange.channel import Channel, wave_through
from extproc.exchange.incoming import Incoming
from extproc.exchange.outlet import Outlet
from extproc.exchange.reply import error_facts, error_reply, said_of
from extproc.exchange.respond import respond
from extproc.exchange.routed import Routed, Why, used
from extproc.exchange.routing import traced
from extproc.exchange.team import Team, results_for_us
from extproc.exchange.work import Work
from extproc.paths import ALIASED, CHAT, MODELS, is_below_ours
from extproc.process.runtime import Runtime
from extproc.process.tenants import ONE_CALL, Account
from extproc.protocol.actions import (
    Metadata,
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
from extproc.tracing import ExchangeSpan, Told
from looper.calling.models import Model
from looper.calling.propagation import joined, trail
from looper.errors import ChatOnly, InternalError, InvalidRequest, LooperError, ModelNotFound
from looper.patterns.single import SingleConfig
from looper.wire.chat import ChatRequest, Request

_log = structlog.get_logger()


class Exchange:
    """Handles one HTTP exchange with the runtime that it began with."""

    def __init__(
        self,
        runtime: Runtime,
        channel: Channel,
        opening: RequestHeaders,
        recipe: str | None = None,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._is_stopping = is_stopping
        self._runtime = runtime
        self._channel = channel
        self._span: ExchangeSpan | None = None
        if runtime.process.tracer is not None:
            opening = self._traced(runtime.process.tracer.begin(opening.headers), opening)
        self._opening = opening
        self._recipe = recipe
        self._began = time.monotonic()
        self._facts: dict[str, str | int] = {}
        self._decided: Metadata = {}
        self._end = "answered"
        self._is_told = False
        self._outlet = Outlet(channel, self._broken_off)
        self._incoming = Incoming(channel, self._outlet, opening, runtime.config.limits.max_body)
        self._routed: Routed | None = None
        self._team: Team | None = None
        self._account: Account | None = None
        self._asked: Request | None = None

    def _traced(self, span: ExchangeSpan, opening: RequestHeaders) -> RequestHeaders:
        """The opening as those are told of it who are called for this exchange: they belong to its span."""
        self._span = span if span.is_recording else None
        return replace(opening, headers=joined(opening.headers, span.context))

    async def run(self) -> None:
        """See the exchange through. Ends, with everything under way, when it is cancelled."""
        try:
            async with self._outlet:
                await self._see_through()
        except Abandoned:
            pass
        except ProtocolError:
            raise
        except Exception:
            _log.exception("exchange.crashed")
            await self._outlet.abort("An internal error.")
        finally:
            # Only now has Envoy nothing of the answer left for a slow client.
            if self._team is not None:
                self._team.release()
            milliseconds = round((time.monotonic() - self._began) * 1000, 3)
            path, end = self._known_path(), self._how_it_ended()
            known_by = trail(self._opening.headers)
            _log.info(
                "exchange.finished", ms=milliseconds, path=path, end=end, **known_by, **self._facts
            )
            if self._routed is not None:
                self._routed.remember(self._facts, known_by, end, self._began)
                if self._account is not None:
                    self._account.charge(used(self._facts))
            if self._span is not None:
                self._span.end(self._told(path, end))

    async def _see_through(self) -> None:
        try:
            await self._answer()
        except LooperError as error:
            await self._fail(error)
        except Overtaken:
            self._end, self._is_told = "overtaken", True
            await wave_through(self._channel)
            return
        except (Abandoned, ProtocolError):
            raise
        except Exception:
            _log.exception("exchange.crashed")
            await self._fail(InternalError())
        await self._see_out()

    def _how_it_ended(self) -> str:
        """What happened to the client: it has been told all from when the transport has the end of that."""
        if self._outlet.aborted:
            return "aborted"
        if self._is_told or (self._outlet.handed and not self._answer_passes):
            return self._end
        return "stopped" if self._is_stopping() else "abandoned"

    @property
    def _answer_passes(self) -> bool:
        """Whether a routed answer has still to pass by here: otherwise nothing of it depends on us."""
        return self._routed is not None and self._opening.metered

    async def _answer(self) -> None:
        match self._opening.method, self._opening.path:
            case "POST", path if path == CHAT:
                await self._chat(await self._incoming.read(ChatRequest))
            case "POST", path if path in ALIASED:
                await self._resolve(await self._incoming.read(Request))
            case "POST", path if is_below_ours(path) and not self._opening.end_of_stream:
                await self._below()
            case "GET", path if path == MODELS:
                await self._tell(self._runtime.models_answer)
            case "GET", path if path.startswith(f"{MODELS}/"):
                await self._tell(self._runtime.model_answer(path.removeprefix(f"{MODELS}/")))
            case _:
                await self._incoming.let_through()

    # Deciding...

    async def _chat(self, request: ChatRequest) -> None:
        """A chat completion: whatever the decision says is done with it, unless it answers a run that waits."""
        if results := await results_for_us(request):
            self._asked = request
            self._bill(request)
            await self._begin_team().resume(request, results)
            return
        policy = self._runtime.policy(request.model, self._recipe)
        self._asked = request
        self._bill(request)
        subject = Subject(
            request,
            self._opening.headers,
            self._opening.attributes,
            self._runtime.process.correction.factor,
        )
        decided = await self._decide(policy, subject)
        decision, self._decided = decided.decision, {**self._decided, **decided.facts}
        facts = self._decided
        why = partial(explanation, policy, decided, subject, self._runtime.models, bounded=False)
        asked, request = request, decision.parameters.applied(request)
        match decision.action:
            case Canned() as canned:
                await self._say(canned, request, facts)
            case _ if model := destination(decision, request, self._runtime.models):
                self._check_limit(asked)
                outcome = {"outcome": "bypass"} if decision.bypasses(request) else {}
                await self._route(request, model, {**facts, **outcome}, decision, why)
            case _:
                pattern = self._runtime.pattern(decided.recipe, decision.name)
                work = Work(decided.recipe, decision, facts, decided.bands, pattern, why=why)
                asked.check()
                await self._begin_team().answer(request, work)

    def _bill(self, request: Request) -> None:
        """Find out whose request it is. Raises TenantLimitReached if there is nothing left for it."""
        self._account = self._runtime.account(request.model, self._opening)
        if self._account is not None:
            self._decided = {"tenant": self._account.name}
            self._facts |= self._decided
            self._account.check()

    async def _decide(self, policy: Policy, subject: Subject) -> Decided:
        """What is to be done; the signals have a span of their own, if any is kept."""
        if self._span is None:
            return await policy.decide(subject)
        with self._span.signals(self._runtime.models) as reading:
            headers = joined(subject.headers, reading.context)
            decided = await policy.decide(replace(subject, headers=headers, asked=reading.asked))
            reading.read(decided.readings, policy.signals.names)
        return decided

    async def _resolve(self, request: Request) -> None:
        """Something else that names a model: ours are resolved where one model answers, the rest passes."""
        try:
            policy = self._runtime.policy(request.model, self._recipe)
        except ModelNotFound:
            await self._incoming.release(request.body)
            return
        self._asked = request
        self._bill(request)
        match policy.decisions:
            case [Decision(name=name, algorithm=SingleConfig(main=main)) as decision]:
                self._check_limit(request)
                facts: Metadata = {
                    **self._decided, "decision": name, "recipe": policy.name, "algorithm": "single"
                }  # fmt: skip
                await self._route(request, self._runtime.models[main], facts, decision)
            case _:
                raise ChatOnly(
                    f"The model `{request.model}` answers chat completions only.", param="model"
                )

    async def _below(self) -> None:
        """Something else that is done with a model, such as to count a prompt's tokens; or with none, and passes."""
        body = await self._incoming.body()
        try:
            request = Request.parse(body)
        except InvalidRequest:
            await self._incoming.release(body)
        else:
            await self._resolve(request)

    def _check_limit(self, request: Request) -> None:
        """What is metered is counted, so that its limit has to be one. Whatever else is wrong, its backend will say."""
        if self._opening.metered:
            _ = request.output_limit

    # ... and doing: an answer of ours, which stands in the configuration...

    async def _say(self, canned: Canned, request: ChatRequest, facts: Metadata) -> None:
        metadata = {**facts, "run": secrets.token_hex(8)}
        self._facts |= {**metadata, "status": canned.status}
        headers = said_of(metadata)
        await self._outlet.send(respond(canned, request, headers, metadata))

    async def _tell(self, body: bytes) -> None:
        await self._outlet.send(
            Respond(200, (("content-type", "application/json"),), body, "looper.models")
        )

    # ... or one model, by Envoy's own route...

    async def _route(
        self,
        request: Request,
        model: Model,
        facts: Metadata,
        decision: Decision,
        why: Why | None = None,
    ) -> None:
        """Have Envoy route the request to a model, with that model's own name in the body."""
        metadata = {**facts, "model": model.name, "run": secrets.token_hex(8)}
        self._facts |= metadata
        metered = self._opening.metered
        self._routed = Routed(self._runtime, request, model, metered=metered, why=why)
        if self._account is not None:
            self._account.charge(ONE_CALL)
        trailers = self._incoming.trailers
        if request.streams:
            metadata = {**metadata, "streamed": 1}
        action = self._routed.rewrite(decision, metadata, trailers=trailers)
        await self._outlet.send(action if self._goes_on is None else traced(action, self._goes_on))

    # ... or a team, whose answer we write in Envoy's place.

    def _begin_team(self) -> Team:
        self._team = Team(
            self._runtime,
            self._outlet,
            self._opening,
            self._facts,
            self._route,
            self._began,
            self._account,
        )
        return self._team

    # The answer does not come by here, unless it is metered: then Envoy holds each piece of it until we have replied.

    async def _see_out(self) -> None:
        """Wait until Envoy is done: to end the stream before would lose what is still on its way."""
        while (event := await self._channel.receive()) is not None:
            match event:
                case RequestTrailers() if self._opening.mode is BodyMode.BUFFERED:
                    await self._outlet.send(PassTrailers())
                case ResponseHeaders():
                    if self._routed is not None:
                        self._routed.begin(event)
                    await self._outlet.send(PassResponseHeaders())
                    self._is_told |= event.end_of_stream
                case ResponseBody():
                    await self._outlet.send(self._returned(event))
                    self._is_told |= event.end_of_stream
                case ResponseTrailers():
                    await self._outlet.send(PassResponseTrailers())
                    self._is_told = True
                case RequestHeaders() | RequestBody() | RequestTrailers():
                    pass  # nothing that follows the end of the request is looked at

    def _returned(self, piece: ResponseBody) -> PassResponseBody:
        if self._routed is None:
            return PassResponseBody()
        passed = self._routed.piece(piece)
        self._facts |= passed.metadata
        return passed

    # What goes wrong is told as a status if nothing was said yet, else in the stream.

    async def _fail(self, error: LooperError) -> None:
        if self._outlet.closed:  # it came too late to be the client's
            return
        self._end = "refused"
        self._facts |= error_facts(error)
        if self._team is None or not await self._team.fail(error):
            metadata = {**self._decided, "error": error.code}
            await self._outlet.send(error_reply(error, error.retry, (), metadata))

    def _broken_off(self, why: str) -> None:
        """The stream was aborted: say where its team stands, as long as that stands there."""
        self._runtime.process.tally.aborted += 1
        at = [] if self._team is None else self._team.stands
        _log.error("exchange.aborted", why=why, run=self._facts.get("run"), at=at)

    @property
    def _goes_on(self) -> Mapping[str, str] | None:
        """The trace that goes on with a routed request; where Envoy makes spans, it puts its own in its place."""
        is_ours = self._runtime.process.tracer is not None
        return self._opening.headers if is_ours and self._runtime.config.tracing else None

    def _told(self, path: str, end: str) -> Told:
        """What the exchange's span says of it."""
        asked, team, routed = self._asked, self._team, self._routed
        is_public = asked is not None and asked.model in self._runtime.entries
        return Told(
            method=self._opening.method,
            path=path,
            end=end,
            facts=self._facts,
            model=asked.model if asked is not None and is_public else None,
            stream=asked is not None and asked.streams,
            run=None if team is None else team.run,
            answered=None if routed is None else routed.answered,
            first=None if routed is None else routed.spoke,
            resumes=None if team is None else team.resumes,
        )

    def _known_path(self) -> str:
        """The path, if it is one of ours: others may hold anything."""
        path = self._opening.path
        return path if path in (CHAT, MODELS, *ALIASED) else "other"
