"""`exact`: an answer that has the form of a regular expression."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from looper.contract.extraction import Extracting, Extraction, Mode, check_template
from looper.contract.grammar import Grammar
from looper.contract.patterns import Pattern, PatternSource
from looper.settings import Setting

_PLACEHOLDER = "{exact}"
_WRAPPING = "*_`\"'“”"


class ExactConfig(Setting):
    """`contract: {type: exact, regex: "[0-9]{4}-[0-9]{2}"}`"""

    type: Literal["exact"]
    regex: PatternSource
    extract: Extraction = Extraction()
    render: str | None = Field(default=None, description="how a published answer has to end")

    @model_validator(mode="after")
    def _usable(self) -> Self:
        check_template(self.render, _PLACEHOLDER)
        return self

    def build(self) -> "Exact":
        return Exact(self)


class Exact(Extracting[str]):
    """A value is the text that the whole expression matches; of `last_match`, its last match."""

    placeholder = _PLACEHOLDER
    default_mode: ClassVar[Mode] = "exact"

    def __init__(self, config: ExactConfig) -> None:
        super().__init__(config.extract, config.render)
        self._pattern = Pattern(config.regex)

    def _characters(self, text: str) -> str:
        return text  # what the expression says about them is meant

    @property
    def grammar(self) -> Grammar | None:
        return self._framed(self._pattern.source)

    def _wanted(self) -> str:
        return f"a text of the form {self._pattern.source[:80]}"

    def _write(self, value: str) -> str:
        return value

    def _whole(self, text: str) -> str | None:
        return text if text and self._pattern.whole(text) else None

    def _read(self, place: str) -> str | None:
        """All of a place; else all but the quotes or emphasis around it, and a full stop."""
        bare = place.strip()
        unquoted = bare.strip(_WRAPPING)
        tries = (bare, unquoted, unquoted.removesuffix(".").strip(_WRAPPING))
        return next((each for each in tries if self._whole(each)), None)

    def _search(self, text: str) -> str | None:
        return self._pattern.last(text)
