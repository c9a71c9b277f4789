"""One model answers. Without fallbacks Envoy routes the request to it, and the loop runtime has no part in it."""

import math
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from functools import cached_property
from hashlib import blake2b
from typing import Literal, Self

from pydantic import Field, model_validator

from looper.calling.cost import PlannedCall
from looper.calling.drafts import Draft, answering
from looper.calling.models import Model
from looper.patterns.closing.conclude import Ending, conclude
from looper.run import Run
from looper.settings import Setting
from looper.wire.chat import ChatRequest
from looper.wire.events import Event


class Share(Setting):
    """One of several models, and its part of all conversations in proportion to the others' weights."""

    model: str
    weight: float = Field(default=1, ge=0, le=1_000_000)


class SingleConfig(Setting):
    """`algorithm: {type: single, model: NAME}`, or `models: [{model: NAME, weight: 3}, …]`"""

    type: Literal["single"]
    model: str | None = None
    models: tuple[Share, ...] = Field(
        default=(), max_length=32, description="several, each for a part of all conversations"
    )
    fallbacks: tuple[str, ...] = Field(
        default=(), max_length=8, description="models that answer, in turn, if it cannot"
    )

    @model_validator(mode="after")
    def _shares_out(self) -> Self:
        if (self.model is None) == (not self.models):
            raise ValueError("give exactly one of `model` and `models`")
        names = [share.model for share in self.models]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the model {name!r} stands twice in `models`")
        if names and not any(share.weight for share in self.models):
            raise ValueError("one of the weights must be above 0")
        return self

    @cached_property
    def shares(self) -> tuple[Share, ...]:
        """The models that may be asked first."""
        if self.model is not None:
            return (Share(model=self.model),)
        return tuple(share for share in self.models if share.weight)

    @cached_property
    def main(self) -> str:
        """The model of the greatest part; of equals, the one declared first."""
        return max(self.shares, key=lambda share: share.weight).model

    def ranked(self, request: ChatRequest) -> list[str]:
        """The models as this conversation prefers them: the same in each of its turns, and in every process.

        Each model draws a number for the conversation on its own, so that another weight moves no more conversations
        than it has to, and none between the other models.
        """
        if len(self.shares) == 1:
            return [self.main]
        return [
            share.model
            for share in sorted(
                self.shares, key=lambda share: _distance(share, request.fingerprint)
            )
        ]

    def members(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if self.model is not None:
            yield ("model",), self.model
        for index, share in enumerate(self.models):
            yield ("models", index, "model"), share.model
        for index, name in enumerate(self.fallbacks):
            yield ("fallbacks", index), name

    def planned(self) -> tuple[PlannedCall, ...]:
        """The model, whichever it is, and then each fallback in its turn."""
        instead = (
            PlannedCall((name,), "single", need="perhaps", stands_in=True)
            for name in self.fallbacks
        )
        first = tuple(share.model for share in self.shares)
        return (PlannedCall(first, "single"), *instead)

    def warnings(self, models: Mapping[str, Model]) -> Iterator[str]:
        """What is no error, but hardly meant."""
        if len(self.models) == 1 and "weight" in self.models[0].model_fields_set:
            yield "models: a `weight` does nothing where there is one model"
        first = {share.model for share in self.shares}
        for at, name in enumerate(self.fallbacks):
            if first == {name} or name in self.fallbacks[:at]:
                yield f"fallbacks: {name} has failed already by then"

    def build(self) -> "Single":
        return Single(self)


def _distance(share: Share, fingerprint: bytes) -> float:
    """How far a model is from a conversation: exponentially distributed, so that the nearest follow the weights."""
    digest = blake2b(share.model.encode(), key=fingerprint, digest_size=7).digest()
    drawn = (int.from_bytes(digest) + 0.5) / (1 << 56)
    return -math.log(drawn) / share.weight


class Single:
    """Runs `single` with fallbacks: a team of one, replaced by the next as long as it has not said a word."""

    def __init__(self, config: SingleConfig) -> None:
        self._config = config

    async def run(self, request: ChatRequest, run: Run) -> AsyncGenerator[Event]:
        run.trace.stage("single")
        ranked = [_draft(request, name, run) for name in self._config.ranked(request)]
        first = next((draft for draft in ranked if draft.unsuitable() is None), ranked[0])
        others = (_draft(request, name, run) for name in self._config.fallbacks)
        drafts = [first, *(draft for draft in others if draft.model is not first.model)]
        async with aclosing(conclude(drafts, run, (), Ending(run.deadline.at))) as events:
            async for event in events:
                yield event


def _draft(request: ChatRequest, name: str, run: Run) -> Draft:
    return answering(
        request,
        run.models[name],
        "single",
        tools=True,
        logprobs=True,
        choices=True,
        stream=request.stream,
        terms=run.terms,
    )
