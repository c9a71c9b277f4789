"""From a request to the decision that answers for it: read the signals, then take the first rule that holds."""

import asyncio

from extproc.decisions.recipe import Decision, Recipe
from extproc.decisions.rules import Readings, holds, names
from extproc.signals import Egress, Subject
from extproc.signals.read import Signals, read_signals


class Policy:
    """A recipe, ready to be asked. Without an `egress`, signals that ask models have no reading."""

    def __init__(self, name: str, recipe: Recipe, egress: Egress | None = None) -> None:
        self.name = name
        self._egress = egress
        self._patience = recipe.signals_deadline.total_seconds()
        # Higher priority first, then as declared; nothing behind an unconditional decision can be reached.
        ranked = sorted(recipe.decisions, key=lambda decision: -decision.priority)
        end = next(at for at, decision in enumerate(ranked) if decision.when is None)
        self.decisions: tuple[Decision, ...] = tuple(ranked[: end + 1])
        needed = {
            name for decision in self.decisions if decision.when for _, name in names(decision.when)
        }
        self.signals = Signals.build(
            {name: config for name, config in recipe.signals.items() if name in needed}
        )

    async def decide(self, subject: Subject) -> Decision:
        """The decision for a request: the first whose rule holds. There always is one."""
        readings = await self.read(subject)
        return next(
            decision
            for decision in self.decisions
            if decision.when is None or holds(decision.when, readings)
        )

    async def read(self, subject: Subject) -> Readings:
        """What the signals say; only those that a decision needs are asked."""
        deadline = asyncio.get_running_loop().time() + self._patience
        return await read_signals(self.signals, subject, deadline, self._egress)
