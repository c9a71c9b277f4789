"""One model answers. Without fallbacks Envoy routes the request to it, and the loop runtime has no part in it."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Literal

from pydantic import Field

from looper.calls import CallFailed
from looper.chat import ChatRequest
from looper.cost import PlannedCall
from looper.drafts import answering
from looper.events import Done, Event, Outcome
from looper.failures import why_no_answer
from looper.publish import is_thought, publish
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
        failures: list[CallFailed] = []
        for name in self._names:
            draft = answering(
                request,
                run.models[name],
                "single",
                tools=True,
                logprobs=True,
                choices=True,
                stream=request.stream,
            )
            run.trace.stage(name)
            # Each that may still be asked has its share of the time; the last one has all that is left.
            until = run.deadline.share(1 / (len(self._names) - len(failures)))
            spoke = False
            try:
                async with aclosing(publish(draft, run, until=until)) as events:
                    async for event in events:
                        spoke = spoke or not is_thought(event)
                        yield event
            except CallFailed as error:
                failures.append(error)
                if spoke:
                    break
                continue
            outcome: Outcome = "fallback" if failures else "ok"
            yield Done(run.ledger.usage, outcome, run.ledger.last_usage)
            return
        raise why_no_answer(failures)
