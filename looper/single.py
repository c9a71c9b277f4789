"""One model answers: Envoy routes the request to it, and the loop runtime has no part in it."""

from collections.abc import Iterator
from typing import Literal

from looper.settings import Setting


class SingleConfig(Setting):
    """`algorithm: {type: single, model: NAME}`"""

    type: Literal["single"]
    model: str

    def members(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        yield ("model",), self.model
