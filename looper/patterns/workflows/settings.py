"""How a decision describes a workflow."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from looper.calling.cost import PlannedCall
from looper.calling.drafts import MORE_ROOM, PRIVATE_OUTPUT
from looper.calling.models import Model
from looper.patterns.workflows.plan import (
    MAX_STEPS,
    MISSING,
    Bounds,
    Final,
    Models,
    Problem,
    Prompt,
    Step,
    TimedStep,
    in_order,
    problems,
    raise_problems,
    seen,
    verified,
)
from looper.settings import Setting, SomeTime, Tokens

_LEAST_PLANNED = 4
"""Calls without which no planner's plan could be worked on."""


class Planner(Setting):
    """Who writes the plan. Its limits are its own, never the final stage's."""

    model: str
    prompt: Prompt | None = Field(default=None, description="what a good plan is, in your words")
    max_output: Tokens = 2048
    reasoning_effort: Annotated[str, Field(pattern=r"^[a-z]{1,16}$")] | None = None


class WorkflowSettings(Setting):
    """`algorithm: {type: workflows, steps: […], final: {model: NAME}}`"""

    type: Literal["workflows"]
    mode: Literal["static", "dynamic"] = Field(
        default="static", description="static: `steps` is the plan; dynamic: `planner` writes one"
    )
    steps: Annotated[tuple[TimedStep, ...], Field(max_length=MAX_STEPS)] = ()
    planner: Planner | None = None
    models: Models | None = Field(
        default=None, description="whom the planner may choose from; all of them, if it fails"
    )
    final: Final
    max_steps: int = Field(default=8, ge=1, le=MAX_STEPS)
    max_parallel: int = Field(default=8, ge=1, le=64, description="calls at once")
    max_calls: int = Field(default=64, ge=2, le=1000, description="of a run, over all its turns")
    max_tool_turns: int = Field(
        default=16, ge=0, le=256, description="how often one agent may ask for the client's tools"
    )
    step_timeout: SomeTime | None = Field(
        default=None, description="how long one call of a step may take"
    )
    run_deadline: SomeTime = Field(
        default=timedelta(minutes=30),
        description="time at work over all turns of a run, without what the client takes in between",
    )
    on_error: Literal["skip", "fail"] = Field(
        default="skip",
        description="fail: the request fails with the first worker, verifier or planner that does",
    )
    on_verify_fail: Literal["revise", "continue", "fail"] = Field(
        default="revise",
        description="revise: who was verified has one more go; fail: what does not pass fails the request",
    )

    @model_validator(mode="after")
    def _check_plan(self) -> Self:
        raise_problems([*self._mode_problems(), *self._plan_problems()])
        return self

    def _mode_problems(self) -> Iterator[Problem]:
        static, dynamic = ("steps",), ("planner", "models")
        belongs, strange = (static, dynamic) if self.mode == "static" else (dynamic, static)
        for name in belongs:
            if not getattr(self, name):
                yield (name,), MISSING
        for name in strange:
            if getattr(self, name):
                yield (name,), f"has no place in a plan that is {self.mode}"

    def _plan_problems(self) -> Iterator[Problem]:
        if self.mode == "static":
            yield from self._too_large()
            yield from problems(self.steps, self.final.sees, Bounds())
        elif self.final.sees is not None:
            yield ("final", "sees"), "has no place in a plan that is dynamic"
        if self.mode == "dynamic" and self.max_calls < _LEAST_PLANNED:
            text = f"must be at least {_LEAST_PLANNED}: two for the planner, one for a worker, one for the answer"
            yield ("max_calls",), text

    def _too_large(self) -> Iterator[Problem]:
        """Which bound an operator's own plan is over, and what it would have to be."""
        steps, calls = len(self.steps), sum(len(step.models) for step in self.steps) + 1
        if steps > self.max_steps:
            yield (
                ("max_steps",),
                f"is {self.max_steps}, and `steps` are {steps}: give at least that",
            )
        if calls > self.max_calls:
            text = f"is {self.max_calls}, and the plan takes {calls} calls: give at least that"
            yield ("max_calls",), text

    def bounds_of(self, calls: int | None) -> Bounds:
        """What a planner's plan may take of so many calls, one or two of which the planner itself has made."""
        most = self.max_calls if calls is None else min(calls, self.max_calls)
        return Bounds(self.max_steps, max(2, most - 2))

    def members(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        for at, step in enumerate(self.steps):
            for index, name in enumerate(step.models):
                yield ("steps", at, "models", index), name
        for index, name in enumerate(self.models or ()):
            yield ("models", index), name
        if self.planner is not None:
            yield ("planner", "model"), self.planner.model
        yield ("final", "model"), self.final.model

    def warnings(self, models: Mapping[str, Model]) -> Iterator[str]:
        """What is no error, but hardly meant."""
        verifiers = any(step.role == "verifier" for step in self.steps)
        if self.mode == "static" and not verifiers and "on_verify_fail" in self.model_fields_set:
            yield "on_verify_fail: does nothing: no step is a verifier"
        timed = bool(self.steps) and all(step.timeout is not None for step in self.steps)
        if self.step_timeout is not None and timed:
            yield "step_timeout: does nothing: every step has a `timeout` of its own"
        for at, step in enumerate(self.steps):
            for index, name in enumerate(step.models):
                if name in step.models[:index]:
                    yield f"steps: {name} works twice in step {at + 1}"

    def planned(self) -> tuple[PlannedCall, ...]:
        """The planner, the agents of each step, revisions, the final model; and what tools may bring on top."""
        steps = [*(self._of_steps() if self.planner is None else self._of_planner(self.planner))]
        final = PlannedCall(
            (self.final.model,), "final", sum(call.role == "worker" for call in steps)
        )
        calls = steps[: self.max_calls - 1]
        turns = [call for call in (*calls, final) if call.role != "verifier"] * self.max_tool_turns
        with_tools = (replace(call, need="spare") for call in turns)
        return (*calls, *islice(with_tools, self.max_calls - 1 - len(calls)), final)

    def _of_steps(self) -> Iterator[PlannedCall]:
        steps = in_order(self.steps)
        for step in steps:
            reads = len(seen(step.sees, step.needs, steps))
            yield from (
                PlannedCall((name,), step.role, reads, _output(step)) for name in step.models
            )
        if self.on_verify_fail == "revise":
            for step in steps:
                if step.role == "verifier":
                    yield from self._of_revision(step)

    def _of_revision(self, verifier: Step) -> Iterator[PlannedCall]:
        """Those who were verified once more, and then the verifier."""
        revised = verified(verifier, self.steps)
        reads = len(revised)
        for step in self.steps:
            for id, name in zip(step.agents, step.models, strict=True):
                if id in revised:
                    yield PlannedCall((name,), "worker", reads, need="perhaps")
        for name in verifier.models:
            yield PlannedCall((name,), "verifier", reads, _output(verifier), need="perhaps")

    def _of_planner(self, planner: Planner) -> Iterator[PlannedCall]:
        pool = self.models or ()
        planning = PlannedCall((planner.model,), "planner", output=planner.max_output)
        yield planning
        yield PlannedCall(pool, "worker")
        yield from [PlannedCall(pool, "worker", 1, need="perhaps")] * (
            self.max_steps * len(pool) - 1
        )
        yield replace(planning, output=planner.max_output * MORE_ROOM, need="spare")


def _output(step: Step) -> int | None:
    return PRIVATE_OUTPUT if step.role == "verifier" else None
