"""How often a client may send what brings nothing."""

from collections.abc import Callable

from extproc.serving.http2.frames import Code, ConnectionFault


class Allowance:
    """So many at once, and so many more a second."""

    __slots__ = ("_clock", "_left", "_most", "_rate", "_since")

    def __init__(self, most: int, rate: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left = self._most = most
        self._rate = rate
        self._since = self._clock()

    def spend(self, number: int = 1) -> None:
        """Raises ConnectionFault when there is nothing left."""
        self._left -= number
        if self._left < 0:  # only then is it worth a look at the clock
            self._refill()

    def _refill(self) -> None:
        now = self._clock()
        self._left = min(self._most, self._left + int((now - self._since) * self._rate))
        self._since = now
        if self._left < 0:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many frames that bring nothing")
