"""What a pattern knows of its members before they speak: fitted weights from a file, or else their ratings."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo

from looper.calling.calls import Result
from looper.calling.heard import written
from looper.calling.models import Model
from looper.contract import Contract
from looper.settings import Setting
from looper.voting import (
    UNKNOWN,
    Advice,
    Electorate,
    Features,
    Weights,
    WeightsError,
    rated,
    read_weights,
)
from looper.voting.scoring import ALTERNATIVES, token_score
from looper.wire.chat import Choice


def _read(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str):
        return value
    context = info.context or {}
    path = Path(context.get("folder", "."), value)
    context.get("files", []).append(path)
    try:
        return read_weights(path)
    except WeightsError as error:
        raise ValueError("; ".join(error.problems)) from None


WeightsFile = Annotated[Weights, BeforeValidator(_read, json_schema_input_type=str)]
"""The path of a file that `looper calibrate` wrote, from the configuration's folder."""


SURE = 0.7
"""The confidence that is enough, unless another one is given or was measured."""

_AGAINST: tuple[Advice, ...] = ("use one model", "do not cascade")


class Weighing(Setting):
    """Whose word counts for how much: settings of every pattern that has its members vote."""

    weights: WeightsFile | None = Field(
        default=None, description="a file that `looper calibrate` wrote; without one, ratings count"
    )
    category: str | None = Field(
        default=None, description="the projection whose band is the category of a request"
    )

    def electorate(
        self,
        names: Iterable[str],
        models: Mapping[str, Model],
        *,
        category: str | None = None,
    ) -> Electorate:
        """Who of these votes, and with what weight."""
        asked = list(dict.fromkeys(names))
        if self.weights is not None:
            return self.weights.electorate(asked, category)
        return rated({name: models[name].rating_for(category) for name in asked})

    def sure_from(self, asked: Iterable[str]) -> float:
        """The confidence from which on a vote of these needs nobody else's word."""
        measured = None if self.weights is None else self.weights.team(asked).accept_at
        return SURE if measured is None else measured

    def doubts(self, voices: Iterable[str]) -> Iterator[str]:
        """Why the weights file, as it is used here, will hardly do what its data promised."""
        if self.weights is None:
            return
        if self.weights.advice in _AGAINST:
            yield f"what they were fitted to advises: {self.weights.advice}"
        if strangers := sorted(set(voices) - self.weights.members):
            yield f"they know nothing of {', '.join(strangers)}, who only fills silence"
        if self.category is None and self.weights.categories:
            yield "they differ by category, and no `category` says which one a request is of"

    @property
    def alternatives(self) -> int | None:
        """How many alternatives beside each token a member's word is weighed by; None if no probabilities count."""
        return ALTERNATIVES.get(self.weights.sureness_from or "") if self.weights else None

    def token_score(
        self, method: str, choice: Choice, value: object, contract: Contract[Any] | None
    ) -> float | None:
        """What an answer's tokens say by this method."""
        return token_score(method, choice, value, contract)

    def about(
        self, result: Result, value: object, contract: Contract[Any] | None = None
    ) -> Features:
        """What is known of an answer that says `value`, as far as the weights count with it."""
        weights, completion, name = self.weights, result.completion, result.model.name
        if weights is None or completion is None or value is None:
            return UNKNOWN
        choice, usage, method = completion.choices[0], completion.usage, weights.sureness_from
        length = weights.length(name, (usage and usage.completion_tokens) or written(choice))
        if method is None:
            return Features(length=length)
        score = self.token_score(method, choice, value, contract)
        return Features(weights.feature(name, method, score), length)


def far_ahead(electorate: Electorate) -> str | None:
    """The dominant one of three members or more; of two the better one is always."""
    return electorate.dominant if len(electorate.voters) > 2 else None


_MOST_VOTERS = 8
"""Of larger teams nobody is said to be idle: there are too many ways in which the others can vote."""


def is_idle(name: str, members: Sequence[str], electorate: Electorate) -> bool:
    """Whether the answer is the same with and without a voter, whatever the other voters say."""
    others = [each for each in members if each != name and electorate[each].votes]
    if not others or len(others) >= _MOST_VOTERS or not electorate.steady:
        return False
    weight = electorate[name].weight
    weights = [electorate[each].weight for each in others]
    return not any(
        behind <= ahead <= behind + weight
        for ahead, behind in (
            _camps(weights, camps) for camps in product(range(3), repeat=len(others))
        )
    )


def _camps(weights: Sequence[float], camps: Sequence[int]) -> tuple[float, float]:
    """The weight of the answer that leads, and of one that is behind; of the third camp each speaks for itself."""
    sums = [
        sum(weight for weight, camp in zip(weights, camps, strict=True) if camp == number)
        for number in (0, 1)
    ]
    alone = [weight for weight, camp in zip(weights, camps, strict=True) if camp == 2]
    return max(sums[0], *alone, 0.0), sums[1]
