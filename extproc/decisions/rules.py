"""When a decision holds: a tree of `all`, `any` and `not` over names, in three-valued (Kleene) logic."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from looper.settings import Setting

Truths = Mapping[str, bool | None]
"""What each name that a rule may use says: yes, no, or unknown."""


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


AnyRule = str | All | Any_ | Not

Rule = Annotated[
    Annotated[str, Tag("name")]
    | Annotated[All, Tag("all")]
    | Annotated[Any_, Tag("any")]
    | Annotated[Not, Tag("not")],
    Discriminator(_kind),
]

for _model in (All, Any_, Not):
    _model.model_rebuild()


def holds(rule: AnyRule, truths: Truths) -> bool | None:
    """Whether `rule` holds; None when something that it hangs on is unknown. Missing is not false."""
    match rule:
        case str():
            return truths.get(rule)
        case All():
            return _first(rule.all, False, truths)
        case Any_():
            return _first(rule.any, True, truths)
        case Not():
            value = holds(rule.not_, truths)
            return None if value is None else not value


def _first(rules: tuple[AnyRule, ...], settles: bool, truths: Truths) -> bool | None:
    """What settles the matter, as soon as a rule says it; else whether all of them are known to say the opposite."""
    rest: bool | None = not settles
    for rule in rules:
        held = holds(rule, truths)
        if held is settles:
            return held
        if held is None:
            rest = None
    return rest


def names(
    rule: AnyRule, path: tuple[str | int, ...] = ()
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


def implied(rule: AnyRule) -> frozenset[str]:
    """The names that certainly hold where `rule` does."""
    match rule:
        case str():
            return frozenset({rule})
        case All():
            return frozenset().union(*map(implied, rule.all))
        case Any_():
            return frozenset.intersection(*map(implied, rule.any))
        case Not():
            return frozenset()


def entails(rule: AnyRule, other: AnyRule) -> bool:
    """Whether `other` holds wherever `rule` does, as far as their shapes show it."""
    if rule == other:
        return True
    match rule:
        case All() if any(entails(part, other) for part in rule.all):
            return True
        case Any_() if all(entails(part, other) for part in rule.any):
            return True
    match other:
        case All():
            return all(entails(rule, part) for part in other.all)
        case Any_():
            return any(entails(rule, part) for part in other.any)
        case _:
            return False
