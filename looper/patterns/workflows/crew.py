"""The agents of a workflow at work: each step as soon as what it needs is over, and side by side what can be."""

import asyncio
from collections import defaultdict
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any

from looper.calling.calls import CallFailed, Failure, Result, Role
from looper.calling.drafts import (
    Draft,
    answering,
    json_schema,
    private,
    shortened,
)
from looper.calling.failures import why_no_answer
from looper.errors import UpstreamFailed, VerificationFailed
from looper.patterns.workflows.board import Agent, Board, Verdict
from looper.patterns.workflows.plan import Step, TimedStep
from looper.patterns.workflows.prompts import VERDICT, Shown, to_revise, told
from looper.patterns.workflows.settings import WorkflowSettings
from looper.patterns.workflows.standing import Standing, standing
from looper.patterns.workflows.tools import as_said, calls_of
from looper.run import Run
from looper.wire.chat import ChatRequest, Completion, Reply
from looper.wire.events import Progress
from looper.wire.messages import message, with_ours


class Crew:
    """Works on a board until everything on it is over, or waits for tools that are the client's."""

    def __init__(
        self, config: WorkflowSettings, board: Board, request: ChatRequest, run: Run
    ) -> None:
        self._config = config
        self._board = board
        self._request = request
        self._run = run
        self._turn = asyncio.Semaphore(config.max_parallel)
        self._revisions: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._settled = {step.id: asyncio.Event() for step in board.steps}
        self._levels = _levels(board.steps, revises=config.on_verify_fail == "revise")
        self._begun = {agent.id for agent in board.agents.values()}
        self.failures: list[Result] = []
        self._spoken = any(agent.answer is not None for agent in board.agents.values())
        self._clocks: dict[asyncio.Timeout, float] = {}
        """Of calls that may take longer than their share, and when that is over."""
        self.overtime = False
        """Whether the first answer came when the time of its step was up, so that it is the last one, too."""

    async def work(self) -> None:
        """Work on every step that can begin, or go on."""
        left = self._board.calls_left(revises=self._config.on_verify_fail == "revise")
        self._run.ledger.plan(left)
        await _all(self._step(step) for step in self._board.steps)

    async def _step(self, step: Step) -> None:
        for need in step.needs:
            await self._settled[need].wait()
        if not self._board.over(step):
            await self._begin(step)
        self._settled[step.id].set()

    async def _begin(self, step: Step) -> None:
        needed = [each for each in self._board.steps if each.id in step.needs]
        if self.overtime or any(self._board.failed(each) for each in needed):
            self._board.skipped.add(step.id)
            return
        if not all(self._board.over(each) for each in needed):
            return  # they wait for tools, and this step will come after them
        self._run.trace.stage(self._board.name(step.id))
        await self._run.say(Progress(step.id))
        until = self._run.deadline.share(1.5 / (self._levels[step.id] + 0.5))
        if step.role == "verifier":
            await self._verify(step, until)
        else:
            agents = self._agents(step)
            await _all(self._go_on(agent, step, until) for agent in agents)

    def _agents(self, step: Step) -> list[Agent]:
        """The agents of a step; they come to be when it begins, and are told what is known then."""
        board = self._board
        for id, name in zip(step.agents, step.models, strict=True):
            if id not in board.agents:
                text = self.tell(step.prompt, board.shown_to(step.needs, step.sees), name)
                board.agents[id] = Agent(id, name, told=text)
        return board.of(step)

    def tell(
        self, prompt: str | None, shown: Sequence[Shown], model: str, *, less: bool = False
    ) -> str:
        run = self._run
        text = told(prompt, shown, self._request, run.models[model], run.fence, less=less)
        return "\n\n".join(filter(None, (text, run.terms.prompt)))

    # Workers...

    async def _go_on(self, agent: Agent, step: Step, until: float) -> None:
        """Have a worker answer, or say which tools it needs."""
        if (agent.over and not agent.revising) or agent.pending:
            return
        tools, sample = self.may_use_tools(agent), _sample(agent, step)
        shown = self._board.shown_to(step.needs, step.sees)

        def compose(less: bool) -> Draft:
            text = self.tell(step.prompt, shown, agent.model, less=True) if less else agent.told
            return self.draft(agent, "worker", told=text, tools=tools, sample=sample)

        draft = shortened(compose) if shown else compose(False)
        draft = replace(draft, among=self._sharing(agent))
        result = await self._ask(draft, step, until)
        completion = result.completion if result.state == "ok" else None
        if completion is not None and draft.tools and self._wants_tools(agent, completion):
            return
        if completion is not None and result.text.strip():
            agent.answers(completion)
            return
        self._failed(agent, result)

    def _sharing(self, agent: Agent) -> int:
        """How many agents that may begin now have not, this one included: they share what the budget has left."""
        board = self._board
        done = {step.id for step in board.steps if board.over(step)}
        ready = [step for step in board.steps if step.role == "worker" and done >= {*step.needs}]
        waiting = {id for step in ready for id in step.agents} - self._begun
        self._begun.add(agent.id)
        return max(1, len(waiting))

    def _wants_tools(self, agent: Agent, completion: Completion) -> bool:
        """Note the calls of tools that an answer consists of, if it does: the agent waits for what comes of them."""
        if not (calls := calls_of(completion, self._request, self._run.trace)):
            return False
        reply = completion.choices[0].message or Reply()
        dialect = self._run.models[agent.model].dialect
        texts = {"content": reply.content, "reasoning_content": reply.reasoning_content}
        agent.waits(as_said(texts, calls, dialect), calls)
        return True

    def may_use_tools(self, agent: Agent) -> bool:
        """Whether an agent may call the client's tools: if there are any, if it can, if the run can wait and go on."""
        run, able = self._run, self._run.models[agent.model].capabilities
        can_call = self._request.offers_tools and (able is None or "tools" in able)
        if not can_call or run.pauses is None or agent.turns >= self._config.max_tool_turns:
            return False
        if not run.ledger.has_spare_calls:
            run.trace.note(
                f"{self._board.name(agent.id)} has no tools: no call is left to go on with"
            )
        return run.ledger.has_spare_calls

    def _failed(self, agent: Agent, result: Result) -> None:
        self.failures.append(result)
        agent.fails()
        if self._config.on_error == "fail" and result.state not in _NEVER_ASKED:
            raise why_no_answer([result], everybody=False)

    def draft(
        self,
        agent: Agent,
        role: Role,
        *,
        told: str | None = None,
        stream: bool = False,
        tools: bool = False,
        sample: int = 0,
    ) -> Draft:
        """What an agent is to be asked now: the conversation, what it was told, and its own history."""
        said = (message("user", agent.told if told is None else told), *agent.history)
        client = self._request.members["messages"]
        request = self._request.with_messages(bytes(with_ours(client, said)))
        draft = answering(
            request,
            self._run.models[agent.model],
            role,
            tools=tools,
            logprobs=role == "final",
            stream=stream,
            sample=sample,
        )
        if role == "worker" and len(self._board.steps) > 1:
            draft = _of_a_part(draft)
        if role == "final":
            draft = replace(draft, grammar=self._run.terms.grammar)
        members = {**draft.members, "messages": client}
        return replace(draft, members=members, ours=said, agent=self._board.name(agent.id))

    # ... and verifiers.

    async def _verify(self, step: Step, until: float) -> None:
        """Have a step's agents say whether what it needs is right; if not, have that revised once, and ask again.

        Others may verify the same answers at the same time: each of them is revised for one of them, and all hear it.
        """
        workers = self._board.verified(step)
        while True:
            await _all(self._revise(agent, of, until) for agent, of in workers)
            if any(agent.pending for agent, _ in workers):
                return
            agents = self._agents(step)
            now = [agent.id for agent, _ in workers if agent.revised]
            if all(agent.heard == now for agent in agents):
                break
            await _all(self._judge(agent, step, now, until) for agent in agents)
            self._check_passed(agents)
            if self._config.on_verify_fail == "revise":
                self._send_back([agent for agent, _ in workers], agents)
        for agent in agents:
            agent.over = True

    async def _revise(self, worker: Agent, step: Step, until: float) -> None:
        async with self._revisions[worker.id]:
            if worker.revising:
                await self._go_on(worker, step, until)

    async def _judge(self, agent: Agent, step: Step, heard: list[str], until: float) -> None:
        model = self._run.models[agent.model]
        shown = self._board.shown_to(step.needs, step.sees)
        fence = self._run.fence

        def compose(less: bool) -> Draft:
            text = told(step.prompt, shown, self._request, model, fence, less=less)
            return private(
                self._request,
                model,
                "verifier",
                instruction=f"{text}\n\n{VERDICT}",
                schema=json_schema(Verdict),
            )

        draft = shortened(compose)
        draft = replace(draft, agent=self._board.name(agent.id))
        async with self._turn:
            read = None
            if self._has_call(draft):
                read = await self._run.ask_json(draft, Verdict, until=self._by(step, until))
            if read is None and self._config.on_error == "fail" and draft.unsuitable() is None:
                raise UpstreamFailed("A verifier of this workflow did not give its verdict.")
        agent.verdict = None if read is None else read.verdict
        agent.reasons = [] if read is None else read.reasons
        agent.heard = heard

    def _check_passed(self, verifiers: Sequence[Agent]) -> None:
        """Raises VerificationFailed where everything has to pass, and a verifier does not say that it does."""
        passed = all(agent.verdict == "pass" for agent in verifiers)
        if self._config.on_verify_fail == "fail" and not passed:
            raise VerificationFailed("A verifier of this workflow did not let its answers pass.")

    def _send_back(self, workers: Sequence[Agent], verifiers: Sequence[Agent]) -> None:
        """Put before workers what was found, behind the answers that they had given. No answer is sent back twice."""
        found = [
            "\n".join(agent.reasons) or "No reason was given."
            for agent in verifiers
            if agent.verdict == "fail"
        ]
        fresh = [worker for worker in workers if not worker.sent_back] if found else []
        if fresh:
            self._run.trace.note("a verifier rejected an answer: it is revised")
        for worker in fresh:
            worker.revising = worker.sent_back = True
            worker.history += [
                message("assistant", worker.text),
                message("user", to_revise(found, self._run.fence)),
            ]

    # Calls, under the bounds that all share.

    async def _ask(self, draft: Draft, step: Step, until: float) -> Result:
        async with self._turn:
            if not self._has_call(draft):
                error = CallFailed(Failure.BUDGET, reason="max_calls", attempts=0)
                return Result(draft.model, draft.role, "not_started", error=error)
            by = self._by(step, until)
            if by < until:
                return await self._run.ask(draft, until=by)
            return await self._patiently(draft, until)

    async def _patiently(self, draft: Draft, until: float) -> Result:
        """Ask; as long as no worker has answered, longer than its share: who comes behind has nothing to do yet."""
        run = self._run
        if self._spoken:
            return await run.ask(draft, until=until)
        clock = asyncio.timeout(None)
        self._clocks[clock] = until
        try:
            async with clock:
                last = max(until, run.deadline.share(_LAST_SHARE))
                result = await run.ask(draft, until=last)
        except TimeoutError:
            return Result(draft.model, draft.role, "timed_out")
        finally:
            del self._clocks[clock]
        if result.state == "ok":
            self._has_spoken(until)
        return result

    def _has_spoken(self, until: float) -> None:
        """Somebody has answered, whose time was up then or not: everybody else's is up when their share is over."""
        now = self._run.deadline.now()
        self.overtime = self.overtime or (not self._spoken and now > until + _MOMENT)
        self._spoken = True
        for clock, share in self._clocks.items():
            if not clock.expired():
                clock.reschedule(max(now, share))

    def _has_call(self, draft: Draft) -> bool:
        if not self.may_call():
            self._run.trace.note(f"max_calls leaves no call for {draft.agent}")
        return self.may_call()

    def may_call(self) -> bool:
        """Whether the plan's bound on calls has room for one more, beside the one that the final stage takes."""
        return self._run.ledger.all_calls + 1 < self._config.max_calls

    def _by(self, step: Step, until: float) -> float:
        """When a call of this step has to be over."""
        own = step.timeout if isinstance(step, TimedStep) else None
        timeout = own or self._config.step_timeout
        if timeout is None:
            return until
        return min(until, self._run.deadline.now() + timeout.total_seconds())

    def standing(self) -> Standing:
        """The workers' answers that could be published, the best first."""
        return standing(self._board, self._run.models, self._run.terms.contract)


_LAST_SHARE = 0.95
_MOMENT = 0.01
_NEVER_ASKED = ("not_started", "cancelled")
_OF_THE_WHOLE = frozenset({"response_format", "stop"})
"""Members of the client's that say what its answer has to be like, and not what a part of the work has to be like."""


def _of_a_part(draft: Draft) -> Draft:
    """The same for whoever does a part of the work."""
    members = {name: said for name, said in draft.members.items() if name not in _OF_THE_WHOLE}
    return replace(draft, members=members, needs=draft.needs - {"json_schema"})


def _sample(agent: Agent, step: Step) -> int:
    """How often the step named the agent's model before: asked again, it gets another seed."""
    return step.models[: step.agents.index(agent.id)].count(agent.model)


def _levels(steps: Sequence[Step], *, revises: bool) -> dict[str, int]:
    """For each step how many stages there are from its beginning to the end of the run, the final one included."""
    levels: dict[str, int] = {}
    for step in reversed(steps):
        behind = [levels[each.id] for each in steps if step.id in each.needs]
        own = 3 if step.role == "verifier" and revises else 1
        levels[step.id] = own + max(behind, default=1)
    return levels


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of it at once. Raises what any of it raises, without the group that tasks put around it."""
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
