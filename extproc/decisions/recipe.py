"""Recipes as they are written: named signals, and the decisions made from them."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Literal

from pydantic import Field

from extproc.decisions.projections import Key, ProjectionConfig
from extproc.decisions.rules import Rule
from extproc.signals import SignalConfig
from looper.algorithms import AlgorithmConfig, is_routed
from looper.budget import Budget
from looper.contract import ContractConfig, OnViolation
from looper.cost import PlannedCall
from looper.settings import Name, Setting, SomeTime


class Decision(Setting):
    """What to do with a request when `when` holds; without `when`, always."""

    name: Name
    when: Rule | None = None
    priority: int = 0
    percent: float = Field(
        default=100, ge=0, le=100, description="of conversations, the part that it is for"
    )
    shadow: bool = Field(default=False, description="only counted: the next one that holds answers")
    on_unknown: Literal["act", "skip"] | None = Field(
        default=None, description="what happens when nobody knows whether `when` holds; unset: skip"
    )
    algorithm: AlgorithmConfig
    contract: ContractConfig | None = Field(
        default=None, description="what every answer has to be, whatever the algorithm"
    )
    contract_prompt: str | None = Field(
        default=None,
        min_length=1,
        max_length=8000,
        description="what each model whose answer may be published is told of the contract",
    )
    on_violation: OnViolation = Field(
        default="pass",
        description="an answer that breaks its contract for good: published as degraded, or an error",
    )
    budget: Budget = Budget()
    overload: str | None = Field(
        default=None, description="the model that answers when too many teams are at work"
    )
    progress: Literal["none", "reasoning"] = Field(
        default="none",
        description="reasoning: a stream tells, as reasoning, which stage is at work",
    )
    usage: Literal["sum", "final"] = Field(
        default="sum", description="what usage counts: every call, or the one that wrote the answer"
    )
    keepalive: Literal["none", "whitespace"] = Field(
        default="none", description="whitespace: an unstreamed answer is begun early and kept alive"
    )

    def members(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Every model that is named, with its path."""
        for path, model in self.algorithm.members():
            yield ("algorithm", *path), model
        if self.overload is not None:
            yield ("overload",), self.overload

    @property
    def is_routed(self) -> bool:
        """Whether Envoy routes the request by itself: one model, nobody to take its place, and nothing to check."""
        return is_routed(self.algorithm) and self.contract is None

    def planned(self) -> tuple[PlannedCall, ...]:
        """The calls that a run may make, those included that mend an answer which breaks its contract."""
        plan = self.algorithm.planned()
        if self.contract is None:
            return plan
        writers = [call for call in plan if call.role == "single"] or plan[-1:]
        return (*plan, *(PlannedCall(each.models, "repair", 1, need="spare") for each in writers))

    @property
    def always(self) -> bool:
        """Whether it answers for everything that comes to it."""
        return self.when is None and not self.shadow and self.percent == 100


class Recipe(Setting):
    """A named set of signals, projections and decisions."""

    signals: dict[Key, SignalConfig] = Field(default_factory=dict)
    projections: dict[Key, ProjectionConfig] = Field(default_factory=dict)
    signals_deadline: SomeTime = Field(
        default=timedelta(seconds=2), description="how long signals that ask a model may take"
    )
    decisions: tuple[Decision, ...] = Field(min_length=1)

    def members(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Every model that is named, with its path."""
        for index, decision in enumerate(self.decisions):
            for path, model in decision.members():
                yield ("decisions", index, *path), model
