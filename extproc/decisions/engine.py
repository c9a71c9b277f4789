"""From a request to the decision that answers for it: read the signals, then take the first rule that holds."""

from collections.abc import Mapping

from extproc.decisions.recipe import Decision, Recipe
from extproc.decisions.rules import Readings, holds, names
from extproc.signals import LocalSignal
from looper.chat import ChatRequest


class Policy:
    """A recipe, ready to be asked."""

    def __init__(self, name: str, recipe: Recipe) -> None:
        self.name = name
        # Higher priority first, then as declared; nothing behind an unconditional decision can be reached.
        ranked = sorted(recipe.decisions, key=lambda decision: -decision.priority)
        end = next(at for at, decision in enumerate(ranked) if decision.when is None)
        self.decisions: tuple[Decision, ...] = tuple(ranked[: end + 1])
        needed = {
            name for decision in self.decisions if decision.when for _, name in names(decision.when)
        }
        self.signals: Mapping[str, LocalSignal] = {
            name: config.build() for name, config in recipe.signals.items() if name in needed
        }

    def decide(self, request: ChatRequest) -> Decision:
        """The decision for `request`: the first whose rule holds. There always is one."""
        readings = self.read(request)
        return next(
            decision
            for decision in self.decisions
            if decision.when is None or holds(decision.when, readings)
        )

    def read(self, request: ChatRequest) -> Readings:
        """What the signals say; only those that a decision needs are asked."""
        if not self.signals:
            return {}
        text = request.text.casefold()
        return {name: signal.read(text, request) for name, signal in self.signals.items()}
