"""A team's part of an exchange: its run is begun, or gone on with, and what became of it is remembered."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Any

from extproc.decisions.budgets import kept
from extproc.decisions.destination import takes
from extproc.decisions.recipe import Decision
from extproc.exchange.outlet import OVERDUE, Outlet
from extproc.exchange.reply import Answering, Reply, error_facts, reply_for
from extproc.exchange.routed import Why
from extproc.exchange.work import Work
from extproc.headers import HOP
from extproc.process.records import Opened
from extproc.process.runtime import Runtime
from extproc.process.states import identity
from extproc.process.telemetry import standing
from extproc.process.tenants import Account
from extproc.protocol.actions import Metadata
from extproc.protocol.events import BodyMode, RequestHeaders
from extproc.signals.read import INLINE
from looper.calling.budget import Ledger
from looper.calling.models import Model
from looper.calling.propagation import forwarded, trail
from looper.calling.trace import Trace
from looper.errors import IdentityMissing, LooperError, Overloaded
from looper.functions import for_client, goes_on, with_tools
from looper.patterns.workflows import WorkflowsConfig
from looper.patterns.workflows.pauses.pausing import Origin, Pause, Spent, answers_ours, digest
from looper.patterns.workflows.saved import ToolResult, load, tool_results
from looper.run import Deadline, Heartbeat, Run, drive, seeded
from looper.wire.chat import ChatRequest
from looper.wire.events import ANSWERED, Event

Route = Callable[[ChatRequest, Model, Metadata, Decision, Why | None], Awaitable[None]]
"""Has Envoy route a request to one model."""


async def results_for_us(request: ChatRequest) -> Sequence[ToolResult]:
    """What the client's tools have brought to a run of ours that waits; nothing if it answers none."""
    results = tool_results(await _with_tools(request) if goes_on(request) else request)
    return results if answers_ours([result.id for result in results]) else ()


class Team:
    """The team that answers one exchange, in Envoy's place. What becomes known of it is noted in `log`."""

    def __init__(
        self,
        runtime: Runtime,
        outlet: Outlet,
        opening: RequestHeaders,
        log: dict[str, str | int],
        route: Route,
        began: float,
        account: Account | None = None,
    ) -> None:
        self._runtime = runtime
        self._outlet = outlet
        self._opening = opening
        self._log = log
        self._route = route
        self._began = began
        self._account = account
        self._reply: Reply | None = None
        self._answering: Answering | None = None
        self._pause: Pause | None = None
        self._task: asyncio.Task[Any] | None = None
        self.resumes: str | None = None
        """The span in which a run began that goes on here."""

    async def resume(self, request: ChatRequest, results: Sequence[ToolResult]) -> None:
        """Go on with a run that waited for these answers of tools: what to do with it was decided long ago."""
        request.check()
        runtime = self._runtime
        ids = [result.id for result in results]
        waiting = await runtime.states.find(ids, request.model, self._owner())
        origin = waiting.paused.origin
        self.resumes = origin.span
        self._log |= {
            "resumes": origin.run, "recipe": origin.recipe, "decision": origin.decision,
        }  # fmt: skip
        saved = load(waiting.paused.work)
        decision, workflows = runtime.resumable(origin, saved)
        request = decision.parameters.applied(request)
        work = Work(
            origin.recipe,
            decision,
            {
                **({} if self._account is None else {"tenant": self._account.name}),
                "decision": decision.name,
                "recipe": origin.recipe,
                "algorithm": decision.label,
            },
            {},
            workflows.going_on(saved, results),
            waiting.paused,
        )
        holder = self._opening.headers.get("x-request-id") or secrets.token_hex(16)
        await runtime.states.hold(
            waiting,
            holder,
            lambda: self.answer(request, work),
            lambda: self._left(work),
        )

    async def answer(self, request: ChatRequest, work: Work) -> None:
        """Run the team; if too many are at work already, its stand-in answers, or nobody."""
        runtime, facts = self._runtime, work.facts
        asked = await _with_tools(request)
        waiting_since = time.perf_counter()
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(runtime.admission.run(str(facts["recipe"])))
            except Overloaded:
                stand_in = runtime.models.get(work.decision.overload or "")
                if work.paused or stand_in is None or not takes(request, stand_in):
                    raise
                overloaded = {**facts, "outcome": "overload"}
                await self._route(request, stand_in, overloaded, work.decision, work.why)
                return
            queued = time.perf_counter() - waiting_since
            run = self._begin(asked, work)
            self._answering = answering = self._answering_with(asked, run, work)
            opened = self._opened(answering, work, queued)
            runtime.runs.begin(opened)
            stack.push(partial(self._remember, answering, opened))
            self._log |= answering.facts
            self._reply = reply_for(answering, live=self._opening.mode is BodyMode.FULL_DUPLEX)
            heartbeat = runtime.config.heartbeat.total_seconds()
            self._task = asyncio.current_task()
            await self._outlet.begin(run.deadline.at + OVERDUE)
            emit = for_client(request, partial(self._tell, self._reply), run.trace)
            await drive(work.pattern, asked, run, emit, heartbeat=heartbeat)

    async def fail(self, error: LooperError) -> bool:
        """End an answer that was begun with an error, and take back what the run would wait for. Whether one was."""
        if self._pause is not None and not self._has_answered:
            await self._pause.withdraw()
        if self._reply is None:
            return False
        await self._outlet.send(*self._reply.fail(error))
        return True

    @property
    def run(self) -> Run | None:
        """Its run, from when that has begun."""
        return None if self._answering is None else self._answering.run

    @property
    def _span(self) -> str | None:
        """The exchange's span, where it has one that is kept."""
        traced = self._runtime.process.tracer is not None
        return self._opening.headers.get("traceparent") if traced else None

    @property
    def stands(self) -> list[str]:
        """The lines in which the team is at work just now."""
        return [] if self._task is None else standing(self._task)

    async def _tell(self, reply: Reply, event: Event | Heartbeat) -> None:
        if not self._outlet.closed:
            await self._outlet.send(*reply.add(event))

    def release(self) -> None:
        """Envoy has nothing of the answer left for a slow client."""
        if self._answering is not None:
            self._answering.release()

    def _begin(self, request: ChatRequest, work: Work) -> Run:
        runtime, decision, recipe = self._runtime, work.decision, work.recipe
        id = secrets.token_hex(8)
        planned = max(1, runtime.planned_calls[recipe, decision.name] - work.spent.calls)
        ledger = Ledger(
            decision.budget,
            runtime.purse,
            tenant=self._account,
            planned_calls=planned,
            floors=kept(decision, runtime.models, request),
            before=work.spent.amount,
        )
        deadline = Deadline.after(work.seconds)
        owner = self._owner() if _may_pause(decision, request) else None
        origin = work.origin or Origin(id, request.model, recipe, decision.name, owner, self._span)
        terms = runtime.terms(recipe, decision.name, request)
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
                forwarded(self._opening.headers, (*runtime.config.forwarded, HOP))
            ),
            terms=terms,
            bands=work.bands,
            trace=Trace(full=runtime.runs.full, notes=terms.remarks()),
        )

    def _answering_with(self, request: ChatRequest, run: Run, work: Work) -> Answering:
        runtime = self._runtime
        return Answering(
            request=request,
            run=run,
            decision=work.decision,
            facts={**work.facts, "run": run.id},
            trail=trail(self._opening.headers),
            log=self._log,
            outflow=runtime.outflow,
            max_bytes=runtime.config.limits.max_answer_bytes,
            debug=runtime.config.debug and self._opening.headers.get("looper-debug") == "1",
            began=self._began,
        )

    def _opened(self, answering: Answering, work: Work, queued: float) -> Opened:
        why = work.why() if work.why is not None and self._runtime.runs.records else None
        facts, known_by = answering.facts, answering.trail
        return Opened(answering.request, answering.run, facts, known_by, queued, why)

    def _remember(
        self,
        answering: Answering,
        opened: Opened,
        _: type[BaseException] | None,
        error: BaseException | None,
        __: TracebackType | None,
    ) -> None:
        """A run has ended, one way or another: with an answer, an error, or because nobody waits for it any more."""
        request, run = answering.request, answering.run
        answering.end(failed=isinstance(error, Exception) or self._outlet.aborted)
        if isinstance(error, Exception) and not self._outlet.closed:
            self._log |= error_facts(error)
        self._runtime.process.tally.add(run.ledger, self._log)
        self._runtime.runs.end(opened, self._log)
        self._runtime.learn(request, run.trace.whole_prompts())

    def _left(self, work: Work) -> Spent | None:
        """What a run has taken over all its turns, if it can be gone on with from where this turn began.

        It cannot if the turn has answered, or if its client has left and may have heard of the calls that are next.
        """
        if (pause := self._pause) is None:
            return work.spent
        left = pause.kept and self._log.get("outcome") == "abandoned"
        return None if left or self._has_answered else pause.spent

    @property
    def _has_answered(self) -> bool:
        return self._log.get("outcome") in ANSWERED

    def _owner(self) -> str | None:
        """A digest of whose request this is. Raises IdentityMissing if that has to be known and is not."""
        try:
            return digest(identity(self._runtime.states.identity, self._opening))
        except IdentityMissing:
            self._runtime.process.tally.unidentified += 1
            raise


def _may_pause(decision: Decision, request: ChatRequest) -> bool:
    """Whether a run may come to wait for the client's tools."""
    return isinstance(decision.loop, WorkflowsConfig) and request.offers_tools


async def _with_tools(request: ChatRequest) -> ChatRequest:
    """The request as teams know it, without holding up others for a long one."""
    if len(request.body) > INLINE:
        return await asyncio.to_thread(with_tools, request)
    return with_tools(request)
