"""Confidence: a chain of stages, each of which is asked only if what was said before is not sure enough."""

from looper.patterns.confidence.run import Confidence, ConfidenceConfig

__all__ = ["Confidence", "ConfidenceConfig"]
