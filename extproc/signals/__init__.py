"""Signals: questions about a request. The union below is their registry.

May import `protocol`, `errors` and `headers`; `model` alone asks somebody.
"""

from typing import Annotated

from pydantic import Field

from extproc.signals.attribute import AttributeConfig
from extproc.signals.base import Egress, LocalSignal, Reading, RemoteSignal, Subject
from extproc.signals.context import ContextConfig
from extproc.signals.conversation import ConversationConfig
from extproc.signals.header import HeaderConfig
from extproc.signals.keyword import KeywordConfig
from extproc.signals.language import LanguageConfig
from extproc.signals.model import ModelConfig
from extproc.signals.request import RequestConfig
from extproc.signals.structure import StructureConfig

SignalConfig = Annotated[
    KeywordConfig
    | ContextConfig
    | StructureConfig
    | ConversationConfig
    | LanguageConfig
    | RequestConfig
    | HeaderConfig
    | AttributeConfig
    | ModelConfig,
    Field(discriminator="type"),
]

__all__ = [
    "AttributeConfig",
    "ContextConfig",
    "ConversationConfig",
    "Egress",
    "HeaderConfig",
    "KeywordConfig",
    "LanguageConfig",
    "LocalSignal",
    "ModelConfig",
    "Reading",
    "RemoteSignal",
    "RequestConfig",
    "SignalConfig",
    "StructureConfig",
    "Subject",
]
