"""One model answers. Without fallbacks Envoy routes the request to it, and the loop runtime has no part in it."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Literal

from pydantic import Field

from looper.chat import ChatRequest
from looper.conclude import Ending, conclude
from looper.cost import PlannedCall
from looper.drafts import answering
from looper.events import Event
from looper.run import Run
from looper.settings import Setting


class SingleConfig(Setting):
    """`algorithm: {type: single, model: NAME}`"""

    type: Literal["single"]
    model: str
    fallbacks: tuple[str, ...] = Field(
        default=(), max_length=8, description="models that answer, in turn, if it cannot"
    )

    def members(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        yield ("model",), self.model
        for index, name in enumerate(self.fallbacks):
            yield ("fallbacks", index), name

    def planned(self) -> tuple[PlannedCall, ...]:
        """The model, and then each fallback in its turn."""
        instead = (PlannedCall((name,), "single", need="perhaps") for name in self.fallbacks)
        return (PlannedCall((self.model,), "single"), *instead)

    def build(self) -> "Single":
        return Single(self)


class Single:
    """Runs `single` with fallbacks: a team of one, replaced by the next as long as it has not said a word."""

    def __init__(self, config: SingleConfig) -> None:
        self._names = (config.model, *config.fallbacks)

    async def run(self, request: ChatRequest, run: Run) -> AsyncGenerator[Event]:
        run.trace.stage("single")
        drafts = [
            answering(
                request,
                run.models[name],
                "single",
                tools=True,
                logprobs=True,
                choices=True,
                stream=request.stream,
                terms=run.terms,
            )
            for name in self._names
        ]
        async with aclosing(conclude(drafts, run, (), Ending(run.deadline.at))) as events:
            async for event in events:
                yield event
