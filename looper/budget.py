"""What a run may spend, and the ledger that keeps to it."""

from datetime import timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Annotated

from pydantic import Field

from looper.chat import Usage
from looper.models import Model
from looper.settings import Duration, Setting


class Budget(Setting):
    """A decision's limits."""

    calls: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="default: unlimited"
    )
    deadline: Duration = timedelta(seconds=120)


class Ledger:
    """Counts what one run spends. Each call is reserved before it is made, and settled after."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.calls = 0
        self.usage = Usage()
        self.cost_microusd = Decimal(0)

    def reserve(self) -> bool:
        """Take one call out of the budget; False if there is none left, and then nothing is taken."""
        if self._budget.calls is not None and self.calls >= self._budget.calls:
            return False
        self.calls += 1
        return True

    def settle(self, model: Model, usage: Usage | None, *, attempts: int = 1) -> None:
        """Book what a call really took. Each attempt that Envoy made beyond the first counts as a call."""
        self.calls += max(0, attempts - 1)
        if usage is None:
            return
        self.usage += usage
        if model.price is not None:
            self.cost_microusd += usage.prompt_tokens * model.price.input
            self.cost_microusd += usage.completion_tokens * model.price.output

    @property
    def cost(self) -> int:
        """Micro-USD, rounded up."""
        return int(self.cost_microusd.to_integral_value(ROUND_CEILING))
