"""What was agreed on an answer: its contract, and what goes with it."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from looper.contract.base import Contract
from looper.contract.grammar import Grammar
from looper.errors import InvalidField

OnViolation = Literal["pass", "fail"]
Winner = Literal["client", "decision"]
"""Whose word on an answer's form counts, where both have one."""


@dataclass(frozen=True, slots=True)
class Terms:
    """An answer's contract, what models are told of it, and what becomes of an answer that breaks it for good."""

    contract: Contract[Any] | None = None
    prompt: str | None = None
    on_violation: OnViolation = "pass"
    wins: Winner = "client"

    @property
    def grammar(self) -> Grammar | None:
        """What holds a model to the contract."""
        return None if self.contract is None else self.contract.grammar

    def beside(self, wanted: Contract[str] | None) -> "Terms":
        """These terms for a client that wants JSON of this form; None: it does not say.

        Raises InvalidField if no answer could be both, and the client may not choose.
        """
        if wanted is None:
            return self
        if self.wins == "client" or self.contract is None:
            return replace(self, contract=wanted)
        if not self.contract.allows(wanted):
            text = "`response_format` contradicts the form that answers of this model have."
            raise InvalidField(text, param="response_format")
        return self

    def remarks(self) -> list[str]:
        """What a trace should say of them: keywords that are not checked, without the client's own words."""
        unchecked = () if self.contract is None else self.contract.unchecked
        kinds = dict.fromkeys(
            each if each.startswith("a schema") else each.partition(" ")[0] for each in unchecked
        )
        return [f"of the schema this is not checked: {', '.join(kinds)}"] if kinds else []


NO_TERMS = Terms()
