"""Simulated models: what each can do, how fast it is, what it does not accept, and what is wrong with it."""

from typing import Literal

from pydantic import Field

from looper.simulate.faults import Fault, Frozen


class SimulatedModel(Frozen):
    """One model. The rules at the end are checked before anything else, faults included."""

    name: str = Field(min_length=1)
    skill: float = Field(default=0.7, ge=0, le=1)
    """The probability that a known question is answered rightly."""
    seed: int = 0
    latency: float = Field(default=0.0, ge=0)
    """Seconds before the first token."""
    token_latency: float = Field(default=0.0, ge=0)
    """Seconds for each token after it."""
    reasoning: bool = False
    fault: Fault | None = None
    id_rule: Literal["max40", "alnum9"] | None = None
    """Which ids of tool calls it accepts: 40 characters at most, or exactly nine letters and digits."""
    roles: tuple[str, ...] | None = None
    """The roles that its chat template knows; None: any."""
    alternates: bool = False
    """Whether its chat template refuses two turns of the user's in a row, or two of the assistant's."""
    rejects: tuple[str, ...] = ()
    """The members of a request that it does not know."""
    context_window: int | None = Field(default=None, ge=1)
    """How many tokens a prompt may have."""
    token_length: float | None = Field(default=None, gt=0)
    """Characters of its tokens, as a tokenizer counts them. Then the window holds prompt and answer together: a request
    for more of an answer than a prompt leaves is refused, as vLLM does."""


MODELS: tuple[SimulatedModel, ...] = tuple(
    SimulatedModel(name=name, skill=skill, latency=0.15, token_latency=0.01)
    for name, skill in (("small", 0.70), ("other", 0.72), ("third", 0.68), ("large", 0.90))
)
