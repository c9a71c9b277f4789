"""How often something may be done on the long run."""

import time
from collections.abc import Callable

_AT_ONCE = 10.0
"""Seconds whose share may be taken all at once."""


class Pace:
    """At most so many a second, counted over ten seconds or more."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._left = self._most = max(1.0, per_second * _AT_ONCE)
        self._seen = clock()

    def take(self) -> bool:
        """Whether one more is within it."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._seen) * self._per_second)
        self._seen = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
