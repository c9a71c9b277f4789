"""The algorithms that a decision may name. This union is their registry."""

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from looper.calling.models import Model
from looper.contract import ContractConfig
from looper.patterns.confidence import ConfidenceConfig
from looper.patterns.fusion import FusionConfig
from looper.patterns.ratings import RatingsConfig
from looper.patterns.remom import RemomConfig
from looper.patterns.single import SingleConfig
from looper.patterns.workflows import WorkflowsConfig

AlgorithmConfig = Annotated[
    SingleConfig | ConfidenceConfig | RatingsConfig | RemomConfig | FusionConfig | WorkflowsConfig,
    Field(discriminator="type"),
]


def is_routed(algorithm: AlgorithmConfig) -> bool:
    """Whether Envoy routes the request by itself: there is one model, and nobody to take its place."""
    return isinstance(algorithm, SingleConfig) and not algorithm.fallbacks


def named_bands(algorithm: AlgorithmConfig) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The bands that an algorithm goes by, as rules name them, each with its place."""
    if isinstance(algorithm, ConfidenceConfig):
        yield from algorithm.bands()


def problems(
    algorithm: AlgorithmConfig, contract: ContractConfig | None
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What is wrong between an algorithm and its decision's contract."""
    if isinstance(algorithm, ConfidenceConfig):
        yield from algorithm.problems(None if contract is None else contract.build())


def warnings(
    algorithm: AlgorithmConfig, contract: ContractConfig | None, models: Mapping[str, Model]
) -> Iterator[str]:
    """What is no error, but hardly meant, each with its place before a colon."""
    yield from algorithm.warnings(models)
    if isinstance(algorithm, ConfidenceConfig | RatingsConfig | RemomConfig | FusionConfig):
        yield from algorithm.doubts_beside(None if contract is None else contract.build(), models)


__all__ = [
    "AlgorithmConfig",
    "ConfidenceConfig",
    "FusionConfig",
    "RatingsConfig",
    "RemomConfig",
    "SingleConfig",
    "WorkflowsConfig",
    "is_routed",
    "named_bands",
    "problems",
    "warnings",
]
