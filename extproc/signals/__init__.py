"""Signals: questions about a request. The union below is their registry."""

from extproc.signals.base import LocalSignal, Reading
from extproc.signals.keyword import KeywordConfig

SignalConfig = KeywordConfig

__all__ = ["KeywordConfig", "LocalSignal", "Reading", "SignalConfig"]
