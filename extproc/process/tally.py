"""What runs came to and cost, counted from their ledgers: also those that Envoy never heard of."""

from collections import Counter
from collections.abc import Iterator, Mapping

from looper.calling.budget import Ledger

Labels = tuple[tuple[str, str], ...]


class Tally:
    """Runs that have ended, and what they cost. Every label is of the configuration, or of a closed set."""

    def __init__(self) -> None:
        self._runs: Counter[Labels] = Counter()
        self._microusd: Counter[Labels] = Counter()
        self.unidentified = 0
        """Requests refused since nobody said who asks, where that has to be known."""
        self.aborted = 0
        """Exchanges that had to be broken off, since their end was overdue or could not be written."""

    def add(self, ledger: Ledger, facts: Mapping[str, str | int]) -> None:
        """Count a run that has ended, one way or another. `facts` are those of its exchange."""
        labels = tuple((name, str(facts[name])) for name in ("recipe", "decision", "algorithm"))
        self._runs[(*labels, ("outcome", str(facts["outcome"])))] += 1
        self._microusd[labels] += ledger.cost

    def runs(self) -> Iterator[tuple[Labels, int]]:
        yield from sorted(self._runs.items())

    def microusd(self) -> Iterator[tuple[Labels, int]]:
        yield from sorted(self._microusd.items())
