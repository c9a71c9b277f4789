"""Keywords for numbers and strings."""

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType

from looper.contract.json_schema import read
from looper.contract.json_schema.compiling import Compiler, KeywordChecks
from looper.contract.json_schema.read import Malformed
from looper.contract.json_schema.work import Checks, Fault, Work, shorten, test
from looper.contract.json_text import Json
from looper.contract.patterns import Pattern


def _minimum(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    limit = read.number(argument)
    if _is_exclusive(schema, "exclusiveMinimum"):
        return _exclusive_minimum(compiler, argument, schema)
    return test(Decimal, lambda value: value >= limit, f"must be at least {limit}")


def _maximum(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    limit = read.number(argument)
    if _is_exclusive(schema, "exclusiveMaximum"):
        return _exclusive_maximum(compiler, argument, schema)
    return test(Decimal, lambda value: value <= limit, f"must be at most {limit}")


def _is_exclusive(schema: Json, keyword: str) -> bool:
    """Whether a limit itself is excluded, in the way of draft 4: by a mark beside it."""
    return isinstance(schema, dict) and schema.get(keyword) is True


def _exclusive_minimum(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    if isinstance(argument, bool):
        return {}
    limit = read.number(argument)
    return test(Decimal, lambda value: value > limit, f"must be over {limit}")


def _exclusive_maximum(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    if isinstance(argument, bool):
        return {}
    limit = read.number(argument)
    return test(Decimal, lambda value: value < limit, f"must be under {limit}")


def _multiple_of(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    step = read.number(argument)
    if step <= 0:
        raise Malformed("is a positive number")
    unit, places = _whole(step)
    digits = len(str(unit))

    def check(value: Decimal, work: Work) -> Fault | None:
        times, zeros = _whole(value)
        zeros -= places
        work.spend(1 + digits * digits * zeros.bit_length() // 100_000)
        if _is_multiple(times, zeros, unit):
            return None
        return Fault(f"must be a multiple of {shorten(str(step))}")

    return {Decimal: check}


def _whole(value: Decimal) -> tuple[int, int]:
    """A number as a whole one, times so many tens."""
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    return int("".join(map(str, digits))), exponent


def _is_multiple(times: int, zeros: int, unit: int) -> bool:
    """Exactly, without writing out the zeros, of which there may be a billion."""
    if zeros >= 0:
        return times * pow(10, zeros, unit) % unit == 0
    if not times:
        return True
    return -zeros <= len(str(times)) and times % (unit * 10**-zeros) == 0


def _min_length(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    least = read.count(argument)
    return test(str, lambda value: len(value) >= least, f"must have {least} or more characters")


def _max_length(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    most = read.count(argument)
    return test(str, lambda value: len(value) <= most, f"must have at most {most} characters")


def _pattern(compiler: Compiler, argument: Json, schema: Json) -> Checks:
    source = read.text(argument)
    pattern = compiler.pattern(source)
    if pattern is None:
        return {}

    def check(value: str, work: Work) -> Fault | None:
        return None if matches(pattern, value, work) else Fault(f"must match {shorten(source)}")

    return {str: check}


def matches(pattern: Pattern, value: str, work: Work) -> bool:
    # RE2 may take a step for each character and each instruction of the pattern, though it seldom does.
    work.spend(8 + len(value) * pattern.size // 200)
    return pattern.found(value)


CHECKS: Mapping[str, KeywordChecks] = MappingProxyType(
    {
        "minimum": _minimum,
        "maximum": _maximum,
        "exclusiveMinimum": _exclusive_minimum,
        "exclusiveMaximum": _exclusive_maximum,
        "multipleOf": _multiple_of,
        "minLength": _min_length,
        "maxLength": _max_length,
        "pattern": _pattern,
    }
)
