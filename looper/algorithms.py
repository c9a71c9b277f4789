"""The algorithms that a decision may name. This union is their registry."""

from typing import Annotated

from pydantic import Field

from looper.fusion import FusionConfig
from looper.ratings import RatingsConfig
from looper.remom import RemomConfig
from looper.single import SingleConfig
from looper.workflows import WorkflowsConfig

AlgorithmConfig = Annotated[
    SingleConfig | RatingsConfig | RemomConfig | FusionConfig | WorkflowsConfig,
    Field(discriminator="type"),
]


def is_routed(algorithm: AlgorithmConfig) -> bool:
    """Whether Envoy routes the request by itself: there is one model, and nobody to take its place."""
    return isinstance(algorithm, SingleConfig) and not algorithm.fallbacks


__all__ = [
    "AlgorithmConfig",
    "FusionConfig",
    "RatingsConfig",
    "RemomConfig",
    "SingleConfig",
    "WorkflowsConfig",
    "is_routed",
]
