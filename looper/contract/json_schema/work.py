"""What a check may cost, what it finds, and the checks of one schema."""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType, NoneType
from typing import Any

from looper.contract.json_text import Json

MOST_WORK = 600_000
_DEEPEST = 160
_SHOWN = 40


class TooMuchWork(Exception):
    """A check was given up."""


class Work:
    """What checks have cost so far, in steps of about a microsecond."""

    def __init__(self, most: int = MOST_WORK) -> None:
        self._left = most
        self._depth = 0

    def spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise TooMuchWork

    def enter(self) -> None:
        self.spend(1)
        self._depth += 1
        if self._depth > _DEEPEST:
            raise TooMuchWork

    def leave(self) -> None:
        self._depth -= 1


class Fault:
    """What is wrong, and where: the path is put together from its end while the checks return."""

    def __init__(self, message: str) -> None:
        self._message = message
        self._path: list[str] = []

    def under(self, key: str | int) -> "Fault":
        self._path.append(f"[{key}]" if isinstance(key, int) else f".{shorten(key)}")
        return self

    def __str__(self) -> str:
        path = "".join(reversed(self._path))
        at = f"`${path[:_SHOWN]}{'…' * (len(path) > _SHOWN)}`" if path else "It"
        return f"{at} {self._message}"


def shorten(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


Check = Callable[[Any, Work], Fault | None]
Checks = Mapping[type, Check]
Mark = Callable[[Any, Work], set[Any]]
"""Which members of an object, or items of an array, a keyword has looked at, of a value that it lets pass."""
Marks = Mapping[type, Mark]
TYPES: Mapping[str, type] = MappingProxyType(
    {
        "object": dict,
        "array": list,
        "string": str,
        "number": Decimal,
        "boolean": bool,
        "null": NoneType,
    }
)
ANY = tuple(TYPES.values())


class Node:
    """A compiled schema: the checks for each type of value, and which parts of it they look at."""

    def __init__(self) -> None:
        self.checks: dict[type, list[Check]] = {type: [] for type in ANY}
        self.marks: dict[type, list[Mark]] = {dict: [], list: []}

    def add(self, checks: Checks) -> None:
        for type, check in checks.items():
            self.checks[type].append(check)

    def add_marks(self, marks: Marks) -> None:
        for type, mark in marks.items():
            self.marks[type].append(mark)

    def fault(self, value: Json, work: Work) -> Fault | None:
        work.enter()
        for check in self.checks[type(value)]:
            if fault := check(value, work):
                return fault
        work.leave()
        return None

    def holds(self, value: Json, work: Work) -> bool:
        depth = work._depth
        held = self.fault(value, work) is None
        work._depth = depth
        return held

    def seen(self, value: Json, work: Work) -> set[Any]:
        """What of an object or array is looked at, as `unevaluatedProperties` and `unevaluatedItems` want to know."""
        work.enter()
        seen = marked(self.marks[type(value)], value, work)
        work.leave()
        return seen


def marked(marks: Sequence[Mark], value: Any, work: Work) -> set[Any]:
    work.spend(len(marks) * (1 + len(value) // 8))
    return set().union(*(mark(value, work) for mark in marks))


def everything(value: Any, work: Work) -> set[Any]:
    return set(value) if isinstance(value, dict) else set(range(len(value)))


def never(value: Json, work: Work) -> Fault | None:
    return Fault("must not be there")


def test(type: type, holds: Callable[[Any], bool], message: str) -> Checks:
    """A check that needs only the value."""
    return {type: lambda value, work: None if holds(value) else Fault(message)}
