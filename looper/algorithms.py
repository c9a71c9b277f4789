"""The algorithms that a decision may name. This union is their registry."""

from typing import Annotated

from pydantic import Field

from looper.fusion import FusionConfig
from looper.single import SingleConfig

LoopConfig = FusionConfig
AlgorithmConfig = Annotated[SingleConfig | FusionConfig, Field(discriminator="type")]

__all__ = ["AlgorithmConfig", "FusionConfig", "LoopConfig", "SingleConfig"]
