"""How late the event loop is: everything that waits for its turn waits that long."""

import asyncio
from collections import deque

_EVERY = 0.25
_KEPT = 40


class Lag:
    """The worst of the last ten seconds."""

    def __init__(self) -> None:
        self._late: deque[float] = deque(maxlen=_KEPT)

    @property
    def seconds(self) -> float:
        return max(self._late, default=0.0)

    async def measure(self) -> None:
        """Look at the clock for ever."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _EVERY
            await asyncio.sleep(_EVERY)
            self._late.append(max(0.0, loop.time() - due))
