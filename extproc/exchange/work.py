"""What a team has to do for one exchange."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from extproc.decisions.explain import Explanation
from extproc.decisions.recipe import Decision
from extproc.protocol.actions import Metadata
from looper.patterns.workflows import WorkflowsConfig
from looper.patterns.workflows.pauses.pausing import Origin, Paused, Spent
from looper.run import Pattern

_LEAST = 0.1
"""Seconds below which what is left of a run is not worth a call."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a team has to do: what was decided, and the run that it goes on with, if it is no new one."""

    recipe: str
    decision: Decision
    facts: Metadata
    bands: Mapping[str, str]
    pattern: Pattern
    paused: Paused | None = None
    why: Callable[[], Explanation] | None = None
    """Tells how it was decided, for the record."""

    @property
    def origin(self) -> Origin | None:
        return None if self.paused is None else self.paused.origin

    @property
    def spent(self) -> Spent:
        return Spent() if self.paused is None else self.paused.spent

    @property
    def seconds(self) -> float:
        """How long it may take now: its decision's deadline, and no longer than all its turns may take together."""
        seconds = self.decision.budget.deadline.total_seconds()
        if not isinstance(self.decision.loop, WorkflowsConfig):
            return seconds
        left = self.decision.loop.run_deadline.total_seconds() - self.spent.seconds
        return min(seconds, left) if left >= _LEAST or self.paused is None else 0.0
