"""What was agreed on an answer: its contract, and what goes with it."""

from dataclasses import dataclass
from typing import Any, Literal

from looper.contract.base import Contract

OnViolation = Literal["pass", "fail"]


@dataclass(frozen=True, slots=True)
class Terms:
    """An answer's contract, what models are told of it, and what becomes of an answer that breaks it for good."""

    contract: Contract[Any] | None = None
    prompt: str | None = None
    on_violation: OnViolation = "pass"


NO_TERMS = Terms()
