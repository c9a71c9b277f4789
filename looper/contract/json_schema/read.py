"""How the arguments of keywords are read."""

from decimal import Decimal

from looper.contract.json_text import Json

_MANY = Decimal(1 << 53)


class Malformed(ValueError):
    """The argument of a keyword is of the wrong type; the text goes on from the keyword's name."""


def members(argument: Json) -> dict[str, Json]:
    if not isinstance(argument, dict):
        raise Malformed("is an object")
    return argument


def items(argument: Json) -> list[Json]:
    if not isinstance(argument, list):
        raise Malformed("is an array")
    return argument


def text(argument: Json) -> str:
    if not isinstance(argument, str):
        raise Malformed("is a string")
    return argument


def number(argument: Json) -> Decimal:
    if not isinstance(argument, Decimal):
        raise Malformed("is a number")
    return argument


def count(argument: Json) -> int:
    if not isinstance(argument, Decimal) or not is_integer(argument) or argument < 0:
        raise Malformed("is a number of things")
    return int(min(argument, _MANY))


def is_integer(value: Decimal) -> bool:
    return value == value.to_integral_value()
