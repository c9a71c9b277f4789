"""What runs came to and cost, counted from their ledgers: also those that Envoy never heard of."""

from collections import Counter
from collections.abc import Mapping

from looper.calling.budget import Ledger


class Tally:
    """Runs that have ended, and what they cost. Names are of the configuration, the rest is a closed set."""

    def __init__(self) -> None:
        self.runs: Counter[tuple[str, ...]] = Counter()
        """By recipe, decision, algorithm and outcome."""
        self.microusd: Counter[tuple[str, ...]] = Counter()
        """By recipe, decision and algorithm."""
        self.unidentified = 0
        """Requests refused since nobody said who asks, where that has to be known."""
        self.aborted = 0
        """Exchanges that had to be broken off, since their end was overdue or could not be written."""

    def add(self, ledger: Ledger, facts: Mapping[str, str | int]) -> None:
        """Count a run that has ended, one way or another. `facts` are those of its exchange."""
        names = tuple(str(facts[name]) for name in ("recipe", "decision", "algorithm"))
        self.runs[(*names, str(facts["outcome"]))] += 1
        self.microusd[names] += ledger.cost
