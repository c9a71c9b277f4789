"""Workflows: a plan, written by the operator or by a planner; agents that work on its steps; a final model."""

from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from copy import deepcopy
from dataclasses import replace
from typing import Any

import msgspec

from looper.calling.drafts import Draft, json_schema, private, shortened
from looper.calling.failures import why_no_answer
from looper.errors import InvalidField, UpstreamFailed
from looper.patterns.closing.conclude import Ending, conclude, decline, present, refusals
from looper.patterns.closing.outcome import outcome_of
from looper.patterns.workflows.board import Agent, Board
from looper.patterns.workflows.crew import Crew
from looper.patterns.workflows.plan import FINAL, Final, Planned, Step, in_order, planned_type
from looper.patterns.workflows.prompts import fallback, labelled, to_plan
from looper.patterns.workflows.saved import Saved, ToolResult
from looper.patterns.workflows.settings import Planner, WorkflowSettings
from looper.patterns.workflows.tools import (
    Outgoing,
    ToolCall,
    as_said,
    as_shown,
    one_at_a_time,
    relaxed,
)
from looper.run import Pauses, Run
from looper.wire.chat import ChatRequest
from looper.wire.events import Delta, Done, Event, Finish, Progress

_PLANNER_SHARE = 0.3
_FINAL_SHARE = 0.95
"""Parts of the time that is left which a stage may use. Behind the final one the rest is the time to publish the best
of the workers' answers instead."""


class WorkflowsConfig(WorkflowSettings):
    """`algorithm: {type: workflows, steps: […], final: {model: NAME}}`"""

    def build(self) -> "Workflows":
        return Workflows(self)


class Resumed:
    """A workflow that goes on: a pattern like another."""

    def __init__(self, workflows: "Workflows", saved: Saved, results: Sequence[ToolResult]) -> None:
        self._workflows = workflows
        self._saved = saved
        self._results = results

    def run(self, request: ChatRequest, run: Run) -> AsyncGenerator[Event]:
        return self._workflows.resume(self._saved, self._results, request, run)


class Workflows:
    """Runs `workflows`. Holds settings only; everything of one execution is on its board."""

    def __init__(self, config: WorkflowSettings) -> None:
        self._config = config

    async def run(self, request: ChatRequest, run: Run) -> AsyncGenerator[Event]:
        """The answer of a team that works by a plan. Raises a LooperError if there is none."""
        if request.choices != 1:
            raise InvalidField("A team of models gives one choice: `n` must be 1.", param="n")

        # There is a plan, or a planner writes one...
        config = self._config
        run.ledger.keep_to(config.max_calls)
        if config.planner is None:
            board = Board(in_order(config.steps), config.final)
        else:
            yield Progress("planner")
            run.trace.stage("planner")
            board = await self._plan(config.planner, request, run)

        # ... its steps are worked on, and the final model writes the answer.
        async with aclosing(self._work(board, request, run)) as events:
            async for event in events:
                yield event

    def going_on(self, saved: Saved, results: Sequence[ToolResult]) -> "Resumed":
        """The pattern that goes on with a run which waited for these."""
        return Resumed(self, saved, results)

    async def resume(
        self, saved: Saved, results: Sequence[ToolResult], request: ChatRequest, run: Run
    ) -> AsyncGenerator[Event]:
        """Go on with a run that waited: each agent with what its own calls came to, under their own ids."""
        if request.choices != 1:
            raise InvalidField("A team of models gives one choice: `n` must be 1.", param="n")
        run.ledger.keep_to(self._config.max_calls)
        board = saved.board()
        board.turns += 1
        answers = {saved.waiting[result.id]: result for result in results}
        for agent in board.waiting:
            own = [(agent.id, call["id"]) for call in agent.pending]
            if not all(each in answers for each in own):
                continue  # its calls were not shown yet
            agent.history += [answers[each].to(each[1]) for each in own]
            agent.turns += 1
            agent.pending = []
        request = request.with_messages(bytes(saved.messages), **relaxed(request))
        async with aclosing(self._work(board, request, replace(run, fence=saved.fence))) as events:
            async for event in events:
                yield event

    async def _plan(self, planner: Planner, request: ChatRequest, run: Run) -> Board:
        """The planner's plan; if it writes none that can be used, all models solve the task, each by itself."""
        config = self._config
        pool = [run.models[name] for name in config.models or ()]
        bounds = config.bounds_of(run.ledger.limits.calls)
        type = planned_type(tuple(label for label, _ in labelled(pool)), bounds)
        # Room for the planner, and for doing without a plan; what is beyond it, for asking again.
        run.ledger.plan(1 + len(pool) + 1)
        draft = private(
            request,
            run.models[planner.model],
            "planner",
            instruction=to_plan(
                pool, bounds, planner.prompt, tools=request.offers_tools and run.pauses is not None
            ),
            schema=_of_plans(tuple(label for label, _ in labelled(pool)), bounds.max_steps),
            output=planner.max_output,
        )
        if planner.reasoning_effort is not None:
            effort = {"reasoning_effort": planner.reasoning_effort}
            draft = replace(draft, members={**draft.members, **effort})
        plan = await run.ask_json(draft, type, until=run.deadline.share(_PLANNER_SHARE))
        if plan is None and config.on_error == "fail":
            raise UpstreamFailed("The planner of this workflow gave no plan that can be used.")
        if plan is None:
            run.trace.note("the planner gave no plan that can be used: every model solves the task")
            return Board(fallback(config.models or ()), config.final, degraded=True)
        names = {label: model.name for label, model in labelled(pool)}
        return Board(_named(plan, names), _with_final(plan, config.final), planned=True)

    async def _work(self, board: Board, request: ChatRequest, run: Run) -> AsyncGenerator[Event]:
        crew = Crew(self._config, board, request, run)
        run.trace.described = board.describe(full=run.trace.full)
        try:
            await crew.work()
            ending = self._end(crew, board, request, run)
            async with aclosing(ending) as events:
                async for event in events:
                    yield event
        finally:
            run.trace.described = board.describe(full=run.trace.full)

    def _end(
        self, crew: Crew, board: Board, request: ChatRequest, run: Run
    ) -> AsyncGenerator[Event]:
        """What follows when nobody can work any more."""
        if crew.overtime and crew.standing():
            run.trace.note(
                "nobody had answered in a step's share of the deadline: the first answer"
            )
            return self._best(crew, board, run)
        if board.skipped and (crew.standing() or not board.waiting):
            run.trace.note("nothing came of a step that another one needs: the best answer so far")
            return self._best(crew, board, run)
        if board.waiting and run.pauses is not None:
            return _hand_over(board, request, run, run.pauses)
        return self._write(crew, board, request, run)

    async def _best(self, crew: Crew, board: Board, run: Run) -> AsyncGenerator[Event]:
        """The best answer so far, as it is."""
        if standing := crew.standing():
            (best, winner), *rest = standing
            others = [result for _, result in rest]
            draft, ending = crew.draft(best, "worker"), _ending(board, run)
            answer = present(winner, run, others, ending, draft=draft)
        elif refusing := refusals(crew.failures):
            answer = decline(refusing, crew.failures, run)
        else:
            raise why_no_answer(crew.failures)
        async with aclosing(answer) as events:
            async for event in events:
                yield event

    async def _write(
        self, crew: Crew, board: Board, request: ChatRequest, run: Run
    ) -> AsyncGenerator[Event]:
        """The final model's answer, as it is written; or its calls of tools, and then the run waits."""
        yield Progress(FINAL)
        run.trace.stage(FINAL)
        agent = board.agents.get(FINAL) or self._final(crew, board)
        tools = crew.may_use_tools(agent) and crew.may_call()

        def compose(less: bool) -> Draft:
            text = self._final(crew, board, less=True).told if less else agent.told
            return crew.draft(agent, "final", told=text, stream=request.stream, tools=tools)

        draft = shortened(compose)
        answers = [result for _, result in crew.standing()]
        events = conclude([draft], run, answers, _ending(board, run))
        if tools and run.pauses is not None:
            events = _keeping(events, agent, board, request, run, run.pauses)
        async with aclosing(events):
            async for event in events:
                yield event

    def _final(self, crew: Crew, board: Board, *, less: bool = False) -> Agent:
        final = board.final
        text = crew.tell(final.prompt, board.shown_to_final(), final.model, less=less)
        return Agent(FINAL, final.model, told=text)


def _of_plans(labels: tuple[str, ...], most: int) -> dict[str, Any]:
    """The schema of plans of so many steps by these models."""
    schema: dict[str, Any] = deepcopy(json_schema(Planned))
    schema["properties"]["steps"]["maxItems"] = most
    models = schema["$defs"]["Step"]["properties"]["models"]
    models["items"] = {"type": "string", "enum": list(labels)}
    return schema


def _ending(board: Board, run: Run) -> Ending:
    return Ending(run.deadline.share(_FINAL_SHARE), board.lack)


async def _hand_over(
    board: Board, request: ChatRequest, run: Run, pauses: Pauses
) -> AsyncGenerator[Event]:
    """Tell the client what all agents wait for; of a client that takes one call at a time, the first of them."""
    waiting: dict[str, tuple[str, str]] = {}
    shown: list[ToolCall] = []
    for agent in board.waiting[:1] if one_at_a_time(request) else board.waiting:
        for call in agent.pending:
            id = pauses.call()
            waiting[id] = (agent.id, call["id"])
            shown.append(as_shown(call, id, len(shown)))
    await _keep(board, request, run, pauses, waiting)
    yield Delta("tool_calls", shown)
    yield Finish("tool_calls")
    yield Done(run.ledger.usage, outcome_of(board.lack), lack=board.lack)


async def _keeping(
    events: AsyncGenerator[Event],
    agent: Agent,
    board: Board,
    request: ChatRequest,
    run: Run,
    pauses: Pauses,
) -> AsyncGenerator[Event]:
    """The final model's answer on its way out. If it calls tools, the run is kept before the client can answer."""
    calls = Outgoing(pauses, request, run.trace)
    said: defaultdict[str, list[str]] = defaultdict(list)
    async with aclosing(events):
        async for event in events:
            match event:
                case Delta(kind="tool_calls"):
                    for shown in calls.rewrite(event):
                        yield shown
                    continue
                case Delta(kind="content" | "reasoning_content" as kind):
                    said[kind].append(event.value)
                case Finish() if calls.ids:
                    texts = {kind: "".join(bits) for kind, bits in said.items()}
                    dialect = run.models[agent.model].dialect
                    agent.waits(as_said(texts, calls.calls, dialect), calls.calls)
                    board.agents[FINAL] = agent
                    await _keep(board, request, run, pauses, calls.owners(FINAL))
                    event = Finish("tool_calls", event.choice)
                case Finish(reason="tool_calls"):
                    event = Finish("stop", event.choice)
                case _:
                    pass
            yield event


async def _keep(
    board: Board,
    request: ChatRequest,
    run: Run,
    pauses: Pauses,
    waiting: Mapping[str, tuple[str, str]],
) -> None:
    run.trace.note(f"the run waits for {len(waiting)} calls of the client's tools")
    await pauses.keep(msgspec.json.encode(Saved.of(board, request, run.fence, waiting)))


def _named(plan: Planned, names: Mapping[str, str]) -> list[Step]:
    """A planner's steps with the models' names in place of their labels."""
    return [
        step.model_copy(update={"models": tuple(names[label] for label in step.models)})
        for step in in_order(plan.steps)
    ]


def _with_final(plan: Planned, final: Final) -> Final:
    """The final stage as the planner wants it; its model is the operator's."""
    prompt = plan.final.prompt or final.prompt
    return final.model_copy(update={"prompt": prompt, "sees": plan.final.sees})
