"""What members said, and which of them said the same."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from looper.contract.base import Free

V = TypeVar("V", bound=Hashable)
Same = Callable[[V, V], bool]


@dataclass(frozen=True, slots=True)
class Features:
    """What is known of an answer beside what it says; None is unknown and changes nothing.

    `sure` is how sure the member was beyond what it usually is, in logits; `length` by how many standard deviations
    its answer is longer than usual.
    """

    sure: float | None = None
    length: float | None = None


UNKNOWN = Features()


@dataclass(frozen=True)
class Ballot(Generic[V]):
    """What one member said: a value, FREE for text that nothing compares, None if it was silent and abstains.

    A member that is asked k times casts k ballots, each with a `share` of 1/k of its weight.
    """

    member: str
    value: V | Free | None
    features: Features = UNKNOWN
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
    groups: list[list[_Kind[V]]] = []
    for kind in _kinds(ballots):
        touched = [each for each in groups if kind.joins(each, same)]
        if not touched:
            groups.append([kind])
            continue
        first, *others = touched
        for other in others:
            first += other
            groups = [each for each in groups if each is not other]
        first.append(kind)
    return [
        Group(kinds[0].value, tuple(ballot for kind in kinds for ballot in kind.ballots))
        for kinds in groups
    ]


@dataclass(frozen=True, slots=True)
class _Kind(Generic[V]):
    """Ballots with the very same value, which are compared with others once for all of them."""

    value: V | Free
    ballots: list[Ballot[V]]

    def joins(self, others: "Sequence[_Kind[V]]", same: Same[V]) -> bool:
        value = self.value
        if isinstance(value, Free):
            return False
        return any(
            not isinstance(other.value, Free) and same(value, other.value) for other in others
        )


def _kinds(ballots: Iterable[Ballot[V]]) -> list[_Kind[V]]:
    """The ballots that say something by their values, each free text by itself."""
    kinds: list[_Kind[V]] = []
    known: dict[V, _Kind[V]] = {}
    for ballot in ballots:
        match ballot.value:
            case None:
                continue
            case Free():
                kinds.append(_Kind(ballot.value, [ballot]))
            case value if value in known:
                known[value].ballots.append(ballot)
            case value:
                known[value] = _Kind(value, [ballot])
                kinds.append(known[value])
    return kinds
