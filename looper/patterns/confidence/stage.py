"""The stages of a chain, and the order in which they are asked."""

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Literal, Self

from pydantic import Field, model_validator

from looper.calling.models import Model
from looper.settings import Name, Setting

Order = Literal["declared", "size", "cost", "automix"]


def plain_stage(value: object) -> object:
    match value:
        case str():
            return {"models": [value]}
        case list():
            return {"models": value}
        case _:
            return value


class Stage(Setting):
    """`small`, `[small, other]`, or `{name: cheap, models: [small, other], prompts: ["", "Think step by step."]}`"""

    name: Name | None = Field(
        default=None, description="default: the models' names, with + between"
    )
    models: tuple[str, ...] = Field(min_length=1, max_length=4)
    prompts: tuple[str, ...] = Field(
        default=("",),
        min_length=1,
        max_length=4,
        description="what each model is told beside the conversation; each prompt is a voter of its own",
    )

    @model_validator(mode="after")
    def _diverse(self) -> Self:
        if len(set(self.models)) < len(self.models):
            raise ValueError("a model is named twice: `prompts` ask one model in several ways")
        if len(set(self.prompts)) < len(self.prompts):
            raise ValueError("a prompt stands twice")
        return self

    @property
    def called(self) -> str:
        return self.name or "+".join(self.models)

    @property
    def voters(self) -> Iterator[tuple[str, str]]:
        """Each model with each prompt."""
        return ((model, prompt) for model in self.models for prompt in self.prompts)


def ordered(
    stages: Sequence[Stage], order: Order, tradeoff: float, models: Mapping[str, Model]
) -> list[Stage]:
    """Stages as they are asked. What is unknown of a stage puts it last; equals stay as they are declared."""
    match order:
        case "declared":
            return list(stages)
        case "size":
            return sorted(stages, key=lambda stage: _last_if_unknown(_size(stage, models)))
        case "cost":
            return sorted(stages, key=lambda stage: _last_if_unknown(_cost(stage, models)))
        case "automix":
            return _by_tradeoff(stages, tradeoff, models)


def _last_if_unknown(value: Decimal | float | None) -> tuple[bool, Decimal | float]:
    return value is None, value or 0


def _size(stage: Stage, models: Mapping[str, Model]) -> int | None:
    """Of a stage's largest model."""
    sizes = [models[name].param_size for name in stage.models]
    known = [size for size in sizes if size is not None]
    return max(known) if len(known) == len(sizes) else None


def _cost(stage: Stage, models: Mapping[str, Model]) -> Decimal | None:
    """Input and output of everybody who is asked."""
    prices = [models[name].price for name in stage.models]
    known = [price.input + price.output for price in prices if price is not None]
    return sum(known, Decimal(0)) * len(stage.prompts) if len(known) == len(prices) else None


def _rating(stage: Stage, models: Mapping[str, Model]) -> float | None:
    """Of a stage's best model."""
    known = [rating for name in stage.models if (rating := models[name].known_rating) is not None]
    return max(known, default=None)


def _by_tradeoff(
    stages: Sequence[Stage], tradeoff: float, models: Mapping[str, Model]
) -> list[Stage]:
    """The best first or the cheapest first, or something between: each on a scale of the stages' own.

    The more `tradeoff` leans to cost, the earlier comes a cheaper stage: of two stages, once the cheaper one is first
    it stays so.
    """
    costs = _scaled([_cost(stage, models) for stage in stages])
    ratings = _scaled([_rating(stage, models) for stage in stages])
    prices = dict(zip(stages, zip(costs, ratings, strict=True), strict=True))

    def place(stage: Stage) -> tuple[bool, float]:
        cost, rating = prices[stage]
        if cost is None or rating is None:
            return True, 0.0
        return False, tradeoff * cost - (1 - tradeoff) * rating

    return sorted(stages, key=place)


def _scaled(values: Sequence[Decimal | float | None]) -> list[float | None]:
    """From 0, the lowest, to 1, the highest."""
    known = [float(value) for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    spread = (high - low) or 1.0
    return [None if value is None else (float(value) - low) / spread for value in values]
