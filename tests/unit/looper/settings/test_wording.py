from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from looper.contract import ContractConfig
from looper.settings.wording import in_words


class Pair(BaseModel):
    a: int
    b: str = ""


def said(kind: Any, value: object) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(value)
    return [in_words(dict(each)) for each in caught.value.errors()]


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        pytest.param(int, "x", "must be a whole number", id="no-integer"),
        pytest.param(int, 1.5, "must be a whole number", id="a-fraction"),
        pytest.param(float, [], "must be a number", id="no-number"),
        pytest.param(Decimal, "x", "must be a number", id="no-decimal"),
        pytest.param(bool, "maybe", "must be true or false", id="no-switch"),
        pytest.param(str, 5, "must be a text", id="no-text"),
        pytest.param(list[int], "x", "must be a list", id="no-list"),
        pytest.param(tuple[int, ...], 5, "must be a list", id="no-tuple"),
        pytest.param(frozenset[int], 5, "must be a list", id="no-set"),
        pytest.param(dict[str, int], 5, "must have keys and values", id="no-mapping"),
        pytest.param(Pair, "x", "must have keys and values", id="no-object"),
        pytest.param(Pair, {}, "is missing", id="missing"),
        pytest.param(Annotated[int, Field(ge=1)], 0, "must be at least 1", id="at-least"),
        pytest.param(Annotated[int, Field(le=9)], 10, "must be at most 9", id="at-most"),
        pytest.param(Annotated[int, Field(gt=0)], 0, "must be above 0", id="above"),
        pytest.param(Annotated[int, Field(lt=9)], 9, "must be below 9", id="below"),
        pytest.param(
            Annotated[list[int], Field(min_length=2)], [1], "must have at least 2 items", id="few"
        ),
        pytest.param(
            Annotated[str, Field(max_length=1)], "ab", "must have at most 1 character", id="long"
        ),
        pytest.param(
            Annotated[str, Field(pattern="^a$")], "b", "must have the form '^a$'", id="pattern"
        ),
        pytest.param(Literal["a", "b"], "c", "must be 'a' or 'b'", id="no-such-word"),
        pytest.param(ContractConfig, {}, "`type` is missing", id="no-type"),
        pytest.param(ContractConfig, {"type": "x"}, "there is no type 'x'; expected", id="strange"),
    ],
)
def test_in_words(kind: Callable[..., Any], value: object, words: str) -> None:
    """Nothing of the library that checks it is named: no input, tag, tuple or dictionary."""
    (text,) = said(kind, value)
    assert text.startswith(words)
    for word in ("input", "valid", "pydantic", "tuple", "dictionary", "discriminator"):
        assert word not in text.lower().replace(words.lower(), "")
