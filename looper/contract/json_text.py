"""JSON read strictly and exactly: numbers stay what they are, whatever their size; and one text for one value."""

import json
import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import NoReturn, TypeAlias

from looper.contract.fences import blocks

Json: TypeAlias = dict[str, "Json"] | list["Json"] | str | Decimal | bool | None
_DEEPEST = 64
_MOST_DIGITS = 4_000
_MOST_TRIALS = 200
_WRITTEN_OUT = 40
_BEGINNING = re.compile(r'[\[{]\s*"|\[\s*[\[{]')


class NotJson(ValueError):
    """A text is no JSON, or none that can be handled."""


def parse(text: str) -> Json:
    """Raises NotJson. All numbers become Decimal, which holds each of them exactly."""
    try:
        value: Json = json.loads(
            text, parse_int=_number, parse_float=_number, parse_constant=_not_a_number
        )
    except RecursionError:
        raise NotJson("it is nested too deeply") from None
    except ValueError as error:
        raise NotJson(str(error)) from None
    _check_depth(value)
    return value


def _number(digits: str) -> Decimal:
    if len(digits) > _MOST_DIGITS:
        raise ValueError("it has a number of too many digits")
    try:
        return Decimal(digits)
    except InvalidOperation:
        raise ValueError("it has a number that is too large") from None


def _not_a_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _check_depth(value: Json) -> None:
    level = [value]
    for _ in range(_DEEPEST):
        level = [inner for outer in level for inner in _containers(outer)]
        if not level:
            return
    raise NotJson("it is nested too deeply")


def _containers(value: Json) -> Iterator[Json]:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (each for each in inside if isinstance(each, (dict, list)))


def is_json(text: str) -> bool:
    try:
        parse(text)
    except NotJson:
        return False
    return True


def canonical(value: Json) -> str:
    """One text for all ways to write a value: keys sorted, no blanks, 1.0 and 10e-1 as 1."""
    match value:
        case dict():
            members = (f"{_string(key)}:{canonical(value[key])}" for key in sorted(value))
            return "{" + ",".join(members) + "}"
        case list():
            return "[" + ",".join(map(canonical, value)) + "]"
        case str():
            return _string(value)
        case Decimal():
            return number_text(value)
        case _:
            return {True: "true", False: "false", None: "null"}[value]


def _string(value: str) -> str:
    # Half a surrogate pair has no UTF-8; it stays escaped.
    return json.dumps(value, ensure_ascii=not value.isprintable())


def number_text(value: Decimal) -> str:
    """A number in its shortest exact form, written out unless it has very many zeros."""
    if not value:
        return "0"
    plain = str(value)
    if plain.isdigit() and len(plain) <= _WRITTEN_OUT:
        return plain
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    written = "".join(map(str, digits)).lstrip("0")
    bare = written.rstrip("0")
    exponent += len(written) - len(bare)
    return "-" * sign + _with_exponent(bare, exponent)


def _with_exponent(digits: str, exponent: int) -> str:
    if 0 <= exponent <= _WRITTEN_OUT:
        return digits + "0" * exponent
    if -_WRITTEN_OUT <= exponent < 0:
        padded = digits.rjust(1 - exponent, "0")
        return f"{padded[:exponent]}.{padded[exponent:]}"
    return f"{digits}e{exponent}"


def sources(text: str) -> list[str]:
    """The JSON objects and arrays in a text, as they are written: all of it, in fences, or amid prose; in order."""
    if is_json(text):
        return [text.strip()]
    fenced = [block.content.strip() for block in blocks(text)]
    found = [each for each in fenced[-_MOST_TRIALS:] if each[:1] in ("{", "[") and is_json(each)]
    return found or list(_amid_prose(text))


def _amid_prose(text: str) -> Iterator[str]:
    """Values that begin at any bracket. Nothing behind a broken one: what can be read there is a part of it."""
    # Numbers are left as they are: here it only matters where a value ends.
    decoder = json.JSONDecoder(parse_int=str, parse_float=str)
    at, left = 0, 4 * len(text) + 1_000
    for _ in range(_MOST_TRIALS):
        start = _next_bracket(text, at)
        if start < 0 or left < 0:
            return
        try:
            _, at = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            if _BEGINNING.match(text, start):
                return
            left -= error.pos - start
            at = start + 1
        except RecursionError:
            return
        else:
            yield text[start:at]


def _next_bracket(text: str, at: int) -> int:
    found = [start for start in (text.find("{", at), text.find("[", at)) if start >= 0]
    return min(found, default=-1)


def member(source: str, name: str) -> str | Decimal | bool | None:
    """A member of the object that `source` is; None if it has none, or one that is no single value."""
    try:
        value = parse(source)
    except NotJson:
        return None
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, (str, Decimal, bool)) else None
