"""What Envoy has been handed for clients that may be slow: it has no bound of its own."""

from looper.errors import Overloaded


class Outflow:
    """Bytes that all answers under way have handed to Envoy, which keeps what slow clients have not read."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0

    def add(self, size: int) -> None:
        """Raises Overloaded if that is more than the process may hand over."""
        if self.total + size > self.limit:
            raise Overloaded("Too much is being written to clients.", retry_after=1)
        self.total += size

    def remove(self, size: int) -> None:
        self.total -= size
