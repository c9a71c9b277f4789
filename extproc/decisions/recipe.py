"""Recipes as they are written: named signals, and the decisions made from them."""

from pydantic import Field

from extproc.decisions.rules import Rule
from extproc.signals import SignalConfig
from looper.algorithms import AlgorithmConfig
from looper.budget import Budget
from looper.settings import Name, Setting


class Decision(Setting):
    """What to do with a request when `when` holds; without `when`, always."""

    name: Name
    when: Rule | None = None
    priority: int = 0
    algorithm: AlgorithmConfig
    budget: Budget = Budget()


class Recipe(Setting):
    """A named set of signals and decisions."""

    signals: dict[Name, SignalConfig] = Field(default_factory=dict)
    decisions: tuple[Decision, ...] = Field(min_length=1)
