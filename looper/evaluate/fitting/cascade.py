"""Where a cascade may stop: the confidences from which on a stage's answer is accepted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from looper.evaluate.fitting.logit import Flags, Floats

NEVER = 1.0
"""A confidence that no answer has: there is always a doubt."""

SILENT = -1.0
"""The confidence of a stage in which nobody says anything: the next one is asked, whatever the threshold."""

_LEVELS = 40
_PRICES = 60
_PASSES = 4


@dataclass(frozen=True, slots=True)
class Stage:
    """Of each question: how sure the team is after this stage, whether it is right, and what was spent until then."""

    confidence: Floats
    right: Flags
    cost: Floats

    def only(self, rows: Flags) -> "Stage":
        return Stage(self.confidence[rows], self.right[rows], self.cost[rows])


@dataclass(frozen=True, slots=True)
class Plan:
    """A confidence to accept at for each stage but the last, and what came of it, question by question."""

    accept_at: tuple[float, ...]
    right: Flags
    spent: Floats

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    @property
    def cost(self) -> float:
        return float(self.spent.mean())


def run(stages: Sequence[Stage], accept_at: Sequence[float]) -> Plan:
    """What a cascade with these thresholds would have answered and spent."""
    open_ = np.ones(len(stages[0].right), dtype=bool)
    right = np.zeros(len(open_), dtype=bool)
    cost = np.zeros(len(open_))
    for stage, least in zip(stages, [*accept_at, SILENT], strict=True):
        ends = open_ & (stage.confidence >= least)
        right[ends], cost[ends] = stage.right[ends], stage.cost[ends]
        open_ &= ~ends
    return Plan(tuple(accept_at), right, cost)


def frontier(stages: Sequence[Stage]) -> list[Plan]:
    """The best thresholds for many prices of a right answer, the cheapest cascade first."""
    dearest = float(stages[-1].cost.mean()) or 1.0
    found = {}
    accept_at = [NEVER] * (len(stages) - 1)
    for price in np.geomspace(0.02, 200, _PRICES):
        accept_at = _climb(stages, accept_at, dearest / float(price))
        plan = run(stages, accept_at)
        found[plan.accept_at] = plan
    return sorted(found.values(), key=lambda plan: (plan.cost, -plan.accuracy))


def _climb(stages: Sequence[Stage], start: Sequence[float], worth: float) -> list[float]:
    """Thresholds that no change of a single one improves, if a right answer is worth `worth`."""
    accept_at = list(start)
    levels = [[*_levels(stage), NEVER] for stage in stages[:-1]]
    for _ in range(_PASSES):
        before = list(accept_at)
        for at, choices in enumerate(levels):
            tried = [[*accept_at[:at], float(level), *accept_at[at + 1 :]] for level in choices]
            accept_at = max(tried, key=lambda each: _value(run(stages, each), worth))
        if accept_at == before:
            break
    return accept_at


def _levels(stage: Stage) -> Floats:
    said = stage.confidence[stage.confidence > SILENT]
    if not len(said):
        return said
    levels: Floats = np.unique(np.quantile(said, np.linspace(0, 1, _LEVELS)))
    return levels


def _value(plan: Plan, worth: float) -> float:
    return plan.accuracy * worth - plan.cost
