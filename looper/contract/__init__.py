"""Output contracts: what an answer has to be, and what it says once it is read. The union is their registry.

May import `errors` and `settings`.
"""

from typing import Annotated

from pydantic import Field

from looper.contract.base import FREE, Contract, Free, Violation, canonical
from looper.contract.choice import ChoiceConfig
from looper.contract.code import CodeConfig
from looper.contract.exact import ExactConfig
from looper.contract.grammar import Grammar
from looper.contract.json_contract import JsonConfig, JsonContract, from_response_format
from looper.contract.number import NumberConfig
from looper.contract.reference import Reference, ReferenceConfig
from looper.contract.terms import NO_TERMS, OnViolation, Terms, Winner
from looper.contract.text import TextConfig

ContractConfig = Annotated[
    ChoiceConfig
    | NumberConfig
    | ExactConfig
    | JsonConfig
    | CodeConfig
    | ReferenceConfig
    | TextConfig,
    Field(discriminator="type"),
]

__all__ = [
    "FREE",
    "NO_TERMS",
    "ChoiceConfig",
    "CodeConfig",
    "Contract",
    "ContractConfig",
    "ExactConfig",
    "Free",
    "Grammar",
    "JsonConfig",
    "JsonContract",
    "NumberConfig",
    "OnViolation",
    "Reference",
    "ReferenceConfig",
    "Terms",
    "TextConfig",
    "Violation",
    "Winner",
    "canonical",
    "from_response_format",
]
