"""Who gives the answers of a round, when there are more answers than models."""

import math
from collections.abc import Sequence
from random import Random
from typing import Literal

Distribution = Literal["weighted", "equal", "round_robin", "first_only"]


def distribute(
    how: Distribution, weights: dict[str, float], breadth: int, before: int, random: Random
) -> list[str]:
    """The models of a round's answers, in the order in which they are asked; `before` answers have been given."""
    names = list(weights)
    match how:
        case "first_only":
            return [names[0]] * breadth
        case "round_robin":
            return [names[(before + at) % len(names)] for at in range(breadth)]
        case "equal":
            return _in_turn(names, apportion([1.0] * len(names), breadth, random))
        case "weighted":
            return _in_turn(names, apportion(list(weights.values()), breadth, random))


def apportion(weights: Sequence[float], seats: int, random: Random) -> list[int]:
    """Seats by weight, by the largest remainder (Hamilton's method); equal remainders by lot."""
    total = math.fsum(weights)
    quotas = [weight / total * seats for weight in weights]
    given = [math.floor(quota + 1e-9) for quota in quotas]
    lots = random.sample(range(len(weights)), len(weights))
    remainders = sorted(
        range(len(weights)), key=lambda at: (-round(quotas[at] - given[at], 9), lots[at])
    )
    for at in remainders[: seats - sum(given)]:
        given[at] += 1
    return given


def _in_turn(names: Sequence[str], counts: Sequence[int]) -> list[str]:
    """Each name as often as its count says, so that the first few are of as many as possible."""
    most = max(counts, default=0)
    return [
        name
        for turn in range(most)
        for name, count in zip(names, counts, strict=True)
        if turn < count
    ]
