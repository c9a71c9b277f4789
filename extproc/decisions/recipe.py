"""Recipes as they are written: named signals, and the decisions made from them."""

from datetime import timedelta
from typing import Literal

from pydantic import Field

from extproc.decisions.rules import Rule
from extproc.signals import SignalConfig
from looper.algorithms import AlgorithmConfig
from looper.budget import Budget
from looper.settings import Name, Setting, SomeTime


class Decision(Setting):
    """What to do with a request when `when` holds; without `when`, always."""

    name: Name
    when: Rule | None = None
    priority: int = 0
    algorithm: AlgorithmConfig
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


class Recipe(Setting):
    """A named set of signals and decisions."""

    signals: dict[Name, SignalConfig] = Field(default_factory=dict)
    signals_deadline: SomeTime = Field(
        default=timedelta(seconds=2), description="how long signals that ask a model may take"
    )
    decisions: tuple[Decision, ...] = Field(min_length=1)
