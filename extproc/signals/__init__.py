"""Signals: questions about a request. The union below is their registry."""

from extproc.signals.base import Egress, LocalSignal, Reading, RemoteSignal, Subject
from extproc.signals.keyword import KeywordConfig

SignalConfig = KeywordConfig

__all__ = [
    "Egress",
    "KeywordConfig",
    "LocalSignal",
    "Reading",
    "RemoteSignal",
    "SignalConfig",
    "Subject",
]
