"""Workflows: a plan, written by the operator or by a planner; agents that work on its steps; a final model."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace

from looper.chat import ChatRequest
from looper.conclude import Ending, conclude, present
from looper.drafts import json_schema, private
from looper.errors import InvalidField
from looper.events import Event, Progress
from looper.failures import why_no_answer
from looper.run import Run
from looper.workflows.board import Agent, Board
from looper.workflows.crew import Crew
from looper.workflows.plan import FINAL, Final, Planned, Step, in_order, planned_type
from looper.workflows.prompts import fallback, labelled, to_plan
from looper.workflows.settings import Planner, WorkflowSettings

_PLANNER_SHARE = 0.3
_FINAL_SHARE = 0.95
"""Parts of the time that is left which a stage may use. Behind the final one the rest is the time to publish the best
of the workers' answers instead."""


class WorkflowsConfig(WorkflowSettings):
    """`algorithm: {type: workflows, steps: […], final: {model: NAME}}`"""

    def build(self) -> "Workflows":
        return Workflows(self)


class Workflows:
    """Runs `workflows`. Holds settings only; everything of one execution is on its board."""

    def __init__(self, config: WorkflowSettings) -> None:
        self._config = config
        labels = [f"m{number}" for number in range(1, len(config.models or ()) + 1)]
        self._type = planned_type(labels, config.bounds)

    async def run(self, request: ChatRequest, run: Run) -> AsyncGenerator[Event]:
        """The answer of a team that works by a plan. Raises a LooperError if there is none."""
        if request.choices != 1:
            raise InvalidField("A team of models gives one choice: `n` must be 1.", param="n")

        # There is a plan, or a planner writes one...
        config = self._config
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

    async def _plan(self, planner: Planner, request: ChatRequest, run: Run) -> Board:
        """The planner's plan; if it writes none that can be used, all models solve the task, each by itself."""
        config = self._config
        pool = [run.models[name] for name in config.models or ()]
        draft = private(
            request,
            run.models[planner.model],
            "planner",
            instruction=to_plan(
                pool, config.bounds, planner.prompt, tools="tools" in request.needs
            ),
            schema=json_schema(self._type),
            output=planner.max_output,
        )
        if planner.reasoning_effort is not None:
            effort = {"reasoning_effort": planner.reasoning_effort}
            draft = replace(draft, members={**draft.members, **effort})
        plan = await run.ask_json(draft, self._type, until=run.deadline.share(_PLANNER_SHARE))
        if plan is None:
            run.trace.note("the planner gave no plan that can be used: every model solves the task")
            return Board(fallback(config.models or ()), config.final, degraded=True)
        names = {label: model.name for label, model in labelled(pool)}
        return Board(_named(plan, names), _with_final(plan, config.final), planned=True)

    async def _work(self, board: Board, request: ChatRequest, run: Run) -> AsyncGenerator[Event]:
        crew = Crew(self._config, board, request, run)
        try:
            await crew.work()
            ending = self._end(crew, board, request, run)
            async with aclosing(ending) as events:
                async for event in events:
                    yield event
        finally:
            run.trace.described = board.describe()

    async def _end(
        self, crew: Crew, board: Board, request: ChatRequest, run: Run
    ) -> AsyncGenerator[Event]:
        """What follows when nobody can work any more: the final stage, or what has been found without it."""
        ending = Ending(run.deadline.share(_FINAL_SHARE), board.outcome)
        results = crew.results()
        if board.skipped:
            run.trace.note("nothing came of a step that another one needs: the best answer so far")
            if not results:
                raise why_no_answer(crew.failures)
            draft = crew.draft(board.best(run.models)[0], "worker")
            async with aclosing(present(results[0], run, results[1:], ending, draft=draft)) as out:
                async for event in out:
                    yield event
            return
        yield Progress(FINAL)
        run.trace.stage(FINAL)
        agent = board.agents.get(FINAL) or self._final(crew, board)
        draft = crew.draft(agent, "final", stream=request.stream, tools=True)
        async with aclosing(conclude([draft], run, results, ending)) as events:
            async for event in events:
                yield event

    def _final(self, crew: Crew, board: Board) -> Agent:
        final = board.final
        text = crew.tell(final.prompt, board.shown_to_final(), final.model)
        return Agent(FINAL, final.model, told=text)


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
