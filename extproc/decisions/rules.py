"""When a decision holds: a tree of `all`, `any` and `not` over readings, in three-valued (Kleene) logic."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from extproc.signals.base import Reading
from looper.settings import Setting

Readings = Mapping[str, Reading]


class All(Setting):
    """Holds if each of its rules does."""

    all: tuple["Rule", ...] = Field(min_length=1)


class Any_(Setting):
    """Holds if one of its rules does."""

    any: tuple["Rule", ...] = Field(min_length=1)


class Not(Setting):
    """Holds if its rule does not."""

    not_: "Rule" = Field(alias="not")


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "name"
    keys = value if isinstance(value, Mapping) else getattr(type(value), "model_fields", ())
    for kind in ("all", "any", "not"):
        if kind in keys or f"{kind}_" in keys:
            return kind
    return "name"


Rule = Annotated[
    Annotated[str, Tag("name")]
    | Annotated[All, Tag("all")]
    | Annotated[Any_, Tag("any")]
    | Annotated[Not, Tag("not")],
    Discriminator(_kind),
]

for _model in (All, Any_, Not):
    _model.model_rebuild()


def holds(rule: "str | All | Any_ | Not", readings: Readings) -> bool | None:
    """Whether `rule` holds; None when a reading that it hangs on is missing. Missing is not false."""
    match rule:
        case str():
            reading = readings.get(rule)
            return None if reading is None else reading.match
        case All():
            values = [holds(part, readings) for part in rule.all]
            return False if False in values else None if None in values else True
        case Any_():
            values = [holds(part, readings) for part in rule.any]
            return True if True in values else None if None in values else False
        case Not():
            value = holds(rule.not_, readings)
            return None if value is None else not value


def names(
    rule: "str | All | Any_ | Not", path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every name that `rule` refers to, with its path below the rule."""
    match rule:
        case str():
            yield path, rule
        case All():
            for index, part in enumerate(rule.all):
                yield from names(part, (*path, "all", index))
        case Any_():
            for index, part in enumerate(rule.any):
                yield from names(part, (*path, "any", index))
        case Not():
            yield from names(rule.not_, (*path, "not"))
