"""Recipes as they are written: named signals, and the decisions made from them."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Literal, Self

from pydantic import Field, model_validator

from extproc.decisions.canned import Canned, OnUnknown
from extproc.decisions.mutations import NO_MUTATIONS, HeaderMutations
from extproc.decisions.projections import Key, ProjectionConfig
from extproc.decisions.rules import Rule
from extproc.signals import SignalConfig
from looper.algorithms import AlgorithmConfig, is_routed
from looper.calling.budget import Budget
from looper.calling.cost import PlannedCall
from looper.calling.models import Model
from looper.calling.parameters import Parameters
from looper.contract import ContractConfig, OnViolation, Winner
from looper.patterns.closing.verify import AutomixVerifier
from looper.patterns.closing.weighing import Weighing
from looper.patterns.confidence import ConfidenceConfig
from looper.settings import Name, Setting, SomeTime
from looper.wire.chat import ChatRequest

OF_MODELS = frozenset(
    {"contract", "contract_prompt", "contract_wins", "on_violation", "budget", "overload"}
    | {"progress", "usage", "keepalive", "parameters", "headers", "tools"}
)
"""What a decision says of the models that answer, and cannot say where none does."""


class ToolTurns(Setting):
    """`tools: {bypass: NAME}`"""

    bypass: str = Field(description="the model that answers whenever tools are in play")


class Decision(Setting):
    """What to do with a request when `when` holds; without `when`, always."""

    name: Name
    when: Rule | None = None
    priority: int = 0
    percent: float = Field(
        default=100, ge=0, le=100, description="of conversations, the part that it is for"
    )
    shadow: bool = Field(default=False, description="only counted: the next one that holds answers")
    on_unknown: OnUnknown | None = Field(
        default=None, description="what happens when nobody knows whether `when` holds; unset: skip"
    )
    algorithm: AlgorithmConfig | None = Field(default=None, description="who answers, and how")
    respond: Canned | None = Field(
        default=None, description="the answer, if no model is to give it"
    )
    parameters: Parameters = Field(
        default=Parameters(), description="what is set in the client's request, or bounded"
    )
    headers: HeaderMutations = Field(
        default=NO_MUTATIONS, description="what is changed in the headers that models get"
    )
    tools: ToolTurns | None = Field(
        default=None, description="unset: tools are the algorithm's business"
    )
    contract: ContractConfig | None = Field(
        default=None, description="what every answer has to be, whatever the algorithm"
    )
    contract_prompt: str | None = Field(
        default=None,
        min_length=1,
        max_length=8000,
        description="what each model whose answer may be published is told of the contract",
    )
    on_violation: OnViolation = Field(
        default="pass",
        description="an answer that breaks its contract for good: published as degraded, or an error",
    )
    contract_wins: Winner = Field(
        default="client",
        description="which form holds where the client's `response_format` has another: its own, or "
        "`decision`, and then one that contradicts the contract is an error",
    )
    budget: Budget = Budget()
    overload: str | None = Field(
        default=None, description="the model that answers when too many teams are at work"
    )
    progress: Literal["none", "reasoning"] = Field(
        default="none",
        description="reasoning: a stream tells, as reasoning, which stage is at work",
    )
    usage: Literal["sum", "final"] = Field(
        default="sum", description="what usage counts: every call, or the one that wrote the answer"
    )
    keepalive: Literal["none", "whitespace"] = Field(
        default="none", description="whitespace: an unstreamed answer is begun early and kept alive"
    )

    @model_validator(mode="after")
    def _acts_in_one_way(self) -> Self:
        if (self.algorithm is None) == (self.respond is None):
            raise ValueError("give exactly one of `algorithm` and `respond`")
        if self.contract is not None and self.tools is not None:
            raise ValueError("a `contract` holds for every answer, and `tools` sends some past it")
        if self.contract_wins == "decision" and self.contract is None:
            raise ValueError("`contract_wins: decision` needs a `contract`")
        if self.respond is not None:
            self._says_what_it_must(self.model_fields_set & OF_MODELS)
        return self

    def _says_what_it_must(self, of_models: set[str]) -> None:
        if self.when is not None and self.on_unknown is None:
            raise ValueError(
                "`respond` must say `on_unknown: act` or `skip`, for when `when` is unknown"
            )
        for name in sorted(of_models):
            raise ValueError(f"`{name}` goes with `algorithm`: no model is asked for a `respond`")

    @property
    def action(self) -> Canned | AlgorithmConfig:
        """What is done."""
        action = self.respond or self.algorithm
        assert action is not None
        return action

    @property
    def label(self) -> str:
        """The name of what is done, in statistics and headers."""
        return "respond" if self.algorithm is None else self.algorithm.type

    @property
    def is_routed(self) -> bool:
        """Whether Envoy routes the request by itself: one model, nobody to take its place, and nothing to check."""
        return self.algorithm is not None and is_routed(self.algorithm) and self.contract is None

    def bypasses(self, request: ChatRequest) -> bool:
        """Whether one model answers in the algorithm's place, as tools are in play."""
        return self.tools is not None and request.has_tools

    @property
    def loop(self) -> AlgorithmConfig | None:
        """The algorithm, if it is one that the loop runtime has to run."""
        return None if self.is_routed else self.algorithm

    def members(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Every model that may come to see the request, with its path below the decision."""
        for below, name in self.algorithm.members() if self.algorithm is not None else ():
            yield ("algorithm", *below), name
        if self.overload is not None:
            yield ("overload",), self.overload
        if self.tools is not None:
            yield ("tools", "bypass"), self.tools.bypass

    @property
    def verifier(self) -> Model | None:
        """An upstream that is no model, and sees the request and its answers all the same."""
        match self.algorithm:
            case ConfidenceConfig(automix_verifier=AutomixVerifier() as verifier):
                return verifier.upstream
            case _:
                return None

    def projections(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Every projection that the algorithm itself asks for, with its path below the decision."""
        if isinstance(self.algorithm, Weighing) and self.algorithm.category is not None:
            yield ("algorithm", "category"), self.algorithm.category

    def planned(self, routed: str | None = None) -> tuple[PlannedCall, ...]:
        """The calls that a run may make, those included that mend an answer which breaks its contract.

        With `routed`, the one call of a request that goes to this model by Envoy's route.
        """
        if self.algorithm is None:
            return ()
        limit = self.parameters.max_tokens
        calls = (PlannedCall((routed,), "single"),) if routed else self.algorithm.planned()
        plan = tuple(
            call if limit is None or call.output else replace(call, output=limit.cap)
            for call in calls
        )
        if self.contract is None:
            return plan
        writers = [call for call in plan if call.role == "single"] or plan[-1:]
        return (*plan, *(PlannedCall(each.models, "repair", 1, need="spare") for each in writers))

    @property
    def always(self) -> bool:
        """Whether it answers for everything that comes to it."""
        return self.when is None and not self.shadow and self.percent == 100


class Recipe(Setting):
    """A named set of signals, projections and decisions."""

    signals: dict[Key, SignalConfig] = Field(default_factory=dict)
    projections: dict[Key, ProjectionConfig] = Field(default_factory=dict)
    signals_deadline: SomeTime = Field(
        default=timedelta(seconds=2), description="how long signals that ask a model may take"
    )
    allow_tags: frozenset[Name] | None = Field(
        default=None,
        min_length=1,
        description="of models that may see its requests; unset: all may",
    )
    decisions: tuple[Decision, ...] = Field(min_length=1)

    def allows(self, model: Model) -> bool:
        """Whether a model may see what this recipe decides on: it has one of the tags that are allowed."""
        return self.allow_tags is None or bool(self.allow_tags & model.tags)

    @property
    def is_strict(self) -> bool:
        """Whether it keeps something from models: requests by answering itself, or all by the models' tags."""
        guarded = any(decision.respond is not None for decision in self.decisions)
        return guarded or self.allow_tags is not None

    def members(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Every model that may come to see a request, to judge or to answer it, with its path below the recipe."""
        for name, signal in self.signals.items():
            for below, model in signal.members():
                yield ("signals", name, *below), model
        for index, decision in enumerate(self.decisions):
            for below, model in decision.members():
                yield ("decisions", index, *below), model
