"""How many tokens has the conversation?"""

from typing import Literal

from extproc.signals.base import Reading, Subject
from extproc.signals.bounds import Bounds


class ContextConfig(Bounds):
    """`{type: context, at_least: 16k}`"""

    type: Literal["context"]

    def build(self) -> "Context":
        return Context(self)


class Context:
    """Reads a `context` signal."""

    def __init__(self, config: ContextConfig) -> None:
        self._config = config

    def read(self, subject: Subject) -> Reading:
        return self._config.reading(subject.tokens)
