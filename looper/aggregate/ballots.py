"""What members said, and which of them said the same."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from looper.contract.base import Free

V = TypeVar("V", bound=Hashable)
Same = Callable[[V, V], bool]


@dataclass(frozen=True)
class Ballot(Generic[V]):
    """What one member said: a value, FREE for text that nothing compares, None if it was silent and abstains.

    `feature` is how sure the member was, beyond what it usually is, in logits; None is unknown and changes nothing.
    A member that is asked k times casts k ballots, each with a `share` of 1/k of its weight.
    """

    member: str
    value: V | Free | None
    feature: float | None = None
    share: float = 1.0


@dataclass(frozen=True)
class Group(Generic[V]):
    """Ballots that say the same. `value` is how the first of them says it."""

    value: V | Free
    ballots: tuple[Ballot[V], ...]

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(ballot.member for ballot in self.ballots))


def group(ballots: Iterable[Ballot[V]], same: Same[V]) -> list[Group[V]]:
    """The ballots that say something, by what they say, each group where its first ballot stands.

    Two ballots are in one group if a chain of ballots leads from one to the other, each the same as the next. So the
    groups do not depend on the order of the ballots, also where `same` is not transitive (1.0, 1.1 and 1.2 within a
    tolerance of 0.1 are one group), and another ballot can join groups but never tear one apart. Free text is never
    the same as anything.
    """
    groups: list[list[Ballot[V]]] = []
    for ballot in ballots:
        if ballot.value is None:
            continue
        touched = [each for each in groups if _joins(ballot, each, same)]
        if not touched:
            groups.append([ballot])
            continue
        first, *others = touched
        for other in others:
            first += other
            groups = [each for each in groups if each is not other]
        first.append(ballot)
    return [Group(each[0].value, tuple(each)) for each in groups if each[0].value is not None]


def _joins(ballot: Ballot[V], others: Sequence[Ballot[V]], same: Same[V]) -> bool:
    value = ballot.value
    if value is None or isinstance(value, Free):
        return False
    return any(
        not isinstance(other.value, Free) and other.value is not None and same(value, other.value)
        for other in others
    )
