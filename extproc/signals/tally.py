"""What signals' calls came to and cost: they are no run's, so no run's ledger tells."""

from collections import Counter


class SignalTally:
    """Calls that signals made and their micro-USD, by model."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.microusd: Counter[str] = Counter()

    def add(self, model: str, calls: int, microusd: int) -> None:
        self.calls[model] += calls
        self.microusd[model] += microusd
