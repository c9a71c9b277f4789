"""A chain of stages as it is written: who is in each, in which order they are asked, and when an answer will do."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from looper.calibration import ALWAYS_ESCALATE, Calibration, threshold_for, thresholds_for
from looper.cost import PlannedCall
from looper.drafts import PRIVATE_OUTPUT
from looper.fanout import Round
from looper.models import Model
from looper.scoring import ALTERNATIVES, TokenFilter
from looper.settings import Name, Probability, Setting, SomeTime
from looper.verify import AutomixVerifier
from looper.weighing import Weighing

Method = Literal[
    "auto",
    "avg_logprob",
    "margin",
    "hybrid",
    "answer_span",
    "self_verify",
    "verifier",
    "automix_entailment",
    "agreement",
]
Order = Literal["declared", "size", "cost", "automix"]

SURE = 0.7
"""The threshold of what is a probability by itself, unless another one is given."""


def _plain_stage(value: object) -> object:
    match value:
        case str():
            return {"models": [value]}
        case list():
            return {"models": value}
        case _:
            return value


class Stage(Setting):
    """`small`, `[small, other]`, or `{name: cheap, models: [small, other], prompts: ["", "Think step by step."]}`"""

    name: Name | None = Field(
        default=None, description="default: the models' names, with + between"
    )
    models: tuple[str, ...] = Field(min_length=1, max_length=4)
    prompts: tuple[str, ...] = Field(
        default=("",),
        min_length=1,
        max_length=4,
        description="what each model is told beside the conversation; each prompt is a voter of its own",
    )

    @model_validator(mode="after")
    def _diverse(self) -> Self:
        if len(set(self.models)) < len(self.models):
            raise ValueError("a model is named twice: `prompts` ask one model in several ways")
        if len(set(self.prompts)) < len(self.prompts):
            raise ValueError("a prompt stands twice")
        return self

    @property
    def called(self) -> str:
        return self.name or "+".join(self.models)

    @property
    def voters(self) -> Iterator[tuple[str, str]]:
        """Each model with each prompt."""
        return ((model, prompt) for model in self.models for prompt in self.prompts)


class HybridWeights(Setting):
    """`{logprob_weight: 0.6, margin_weight: 0.4}`: together they are 1, whatever is written."""

    logprob_weight: Annotated[float, Field(ge=0, le=1000)] = 0.5
    margin_weight: Annotated[float, Field(ge=0, le=1000)] = 0.5

    @model_validator(mode="after")
    def _weigh_something(self) -> Self:
        if not self.logprob_weight + self.margin_weight:
            raise ValueError("one of the weights must be above 0")
        return self

    @property
    def shares(self) -> tuple[float, float]:
        total = self.logprob_weight + self.margin_weight
        return self.logprob_weight / total, self.margin_weight / total


@dataclass(frozen=True, slots=True)
class Bar:
    """What is high enough: of scores as they were measured if `raw`, else of what they are worth."""

    at: float
    raw: bool = False

    def passes(self, raw: float, worth: float) -> bool:
        return (raw if self.raw else worth) >= self.at


class ConfidenceSettings(Round, Weighing):
    """Everything that can be said of a chain."""

    stages: tuple[Annotated[Stage, BeforeValidator(_plain_stage)], ...] = Field(
        min_length=1, max_length=4
    )
    escalation_order: Order = "declared"
    cost_quality_tradeoff: Probability = Field(
        default=0.3, description="for `automix`: from 0, the best stage first, to 1, the cheapest"
    )
    confidence_method: Method = "auto"
    threshold: Probability | None = Field(
        default=None, description="the score from which on an answer is accepted"
    )
    max_accepted_error: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="the share of accepted answers that may be wrong"
    )
    calibration: dict[str, Calibration] = Field(
        default={}, description="by model: what its scores are worth"
    )
    hybrid_weights: HybridWeights = HybridWeights()
    token_filter: TokenFilter = "tool_call_args"
    samples: int = Field(
        default=1, ge=1, le=16, description="how often each voter of a stage is asked"
    )
    verifier_model: str | None = None
    automix_verifier: AutomixVerifier | None = None
    escalate_early: bool = Field(
        default=False, description="give an answer up as soon as its score can no longer pass"
    )
    overlap_after: SomeTime | None = Field(
        default=None, description="the next stage begins if one takes longer"
    )
    start_stage_by: dict[str, str] = Field(
        default={}, description="a projection's band, as projection.band: the stage to begin with"
    )

    @model_validator(mode="after")
    def _stages_differ(self) -> Self:
        names = [stage.called for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError("two stages have one name: give one of them a `name`")
        for band, name in self.start_stage_by.items():
            if band.count(".") != 1:
                raise ValueError(f"{band!r} is no projection.band")
            if name not in names:
                raise ValueError(f"there is no stage {name!r}: there are {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _can_be_enough(self) -> Self:
        most = max(len(list(stage.voters)) for stage in self.stages) * self.samples
        if self.min_successful_responses > most:
            raise ValueError(f"`min_successful_responses` is more than the {most} of any stage")
        return self

    @model_validator(mode="after")
    def _has_what_its_method_needs(self) -> Self:
        method = self.confidence_method
        if (method == "verifier") != (self.verifier_model is not None):
            raise ValueError("`verifier_model` and `confidence_method: verifier` go together")
        if (method == "automix_entailment") != (self.automix_verifier is not None):
            raise ValueError(
                "`automix_verifier` and `confidence_method: automix_entailment` go together"
            )
        if self.escalate_early and method not in (*MEANS, "auto"):
            raise ValueError(f"`escalate_early` needs one of {', '.join(MEANS)}")
        return self

    @model_validator(mode="after")
    def _accepts_by_something(self) -> Self:
        if self.threshold is not None and self.max_accepted_error is not None:
            raise ValueError("give `threshold` or `max_accepted_error`, not both")
        if self.max_accepted_error is not None and self.confidence_method == "agreement":
            raise ValueError("`agreement` has a `threshold`, and no `max_accepted_error`")
        method = self.confidence_method
        if method not in ("auto", "agreement") and not self.accepts_raw(method):
            raise ValueError(no_threshold(method))
        return self

    # What an answer is accepted by...

    def accepts_raw(self, method: str) -> bool:
        """Whether there is a way to accept an answer by a raw score of this method."""
        if self.threshold is not None or self.max_accepted_error is not None:
            return True
        gates = {name for stage in self.stages[:-1] for name in stage.models}
        calibrated = {name for name in gates if self.calibration_of(name, method) is not None}
        return bool(calibrated) and calibrated == gates if gates else True

    def calibration_of(self, model: str, method: str) -> Calibration | None:
        """What a model's scores of this method are worth, where it was measured."""
        if model in self.calibration:
            return self.calibration[model]
        measured = {} if self.weights is None else self.weights.scores.get(model, {})
        return next((found for kind, found in measured.items() if kind == method), None)

    def worth(self, model: str, method: str, score: float) -> float:
        """A score as a probability, where it was measured what it is worth, else as it is."""
        calibration = self.calibration_of(model, method)
        return score if calibration is None else calibration.probability(score)

    def bar_for(self, model: str, method: str) -> Bar:
        """What a model's score must reach."""
        calibration = self.calibration_of(model, method)
        if self.threshold is not None:
            return Bar(self.threshold)
        if self.max_accepted_error is None:
            return Bar(SURE if calibration is not None else math.inf)
        if model in self.calibration:
            return Bar(self._chosen_for[model], raw=True)
        named = (stage.models for stage in self.stages)
        return Bar(
            max((self.enough(method, each) for each in named if model in each), default=math.inf)
        )

    def bar_for_pool(self, asked: Sequence[str]) -> Bar:
        """What the vote of everybody who was asked must reach."""
        if self.threshold is not None:
            return Bar(self.threshold)
        if self.max_accepted_error is None:
            team = None if self.weights is None else self.weights.team(asked)
            return Bar(SURE if team is None or team.accept_at is None else team.accept_at)
        return Bar(self.enough("posterior", asked))

    def enough(self, method: str, asked: Sequence[str]) -> float:
        """The confidence with which no more answers than `max_accepted_error` are wrong, once these have been asked."""
        chosen = self._chosen.get(method, ())
        if self.weights is None or not chosen:
            return ALWAYS_ESCALATE
        team = self.weights.teams.index(self.weights.team(asked))
        return chosen[team] if team < len(chosen) else ALWAYS_ESCALATE

    def never_enough(self, models: Mapping[str, Model]) -> Iterator[str]:
        """The stages but the last whose answers are never accepted, as nothing shows that so few are wrong."""
        method = "posterior" if self.confidence_method == "auto" else self.confidence_method
        asked: tuple[str, ...] = ()
        for stage in self.in_order(models)[:-1] if self.max_accepted_error is not None else ():
            asked = (*asked, *stage.models)
            inline = any(name in self.calibration for name in stage.models)
            if not inline and self.enough(method, asked) == ALWAYS_ESCALATE:
                yield stage.called

    @cached_property
    def _chosen_for(self) -> Mapping[str, float]:
        """The same for each model of `calibration`."""
        most = self.max_accepted_error or 0.0
        return {name: threshold_for(each.accepted, most) for name, each in self.calibration.items()}

    @cached_property
    def _chosen(self) -> Mapping[str, tuple[float, ...]]:
        """By method: for each team but the last what `max_accepted_error` comes to. It takes a while to find out."""
        if self.weights is None or self.max_accepted_error is None:
            return {}
        most = self.max_accepted_error
        return {
            method: tuple(thresholds_for(stages, most))
            for method, stages in self.weights.held_out.items()
        }

    @property
    def needed_alternatives(self) -> int | None:
        """How many alternatives beside each token a score needs; None if it needs no probabilities."""
        method = "hybrid" if self.confidence_method == "auto" else self.confidence_method
        needed = (ALTERNATIVES.get(method), self.alternatives)
        return max((each for each in needed if each is not None), default=None)

    # ... and whom it asks

    def in_order(self, models: Mapping[str, Model]) -> list[Stage]:
        """The stages as they are asked."""
        return ordered(self.stages, self.escalation_order, self.cost_quality_tradeoff, models)

    def named(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        for at, stage in enumerate(self.stages):
            for index, name in enumerate(stage.models):
                yield ("stages", at, "models", index), name
        for name in self.calibration:
            yield ("calibration", name), name
        if self.verifier_model is not None:
            yield ("verifier_model",), self.verifier_model
        yield from self.substitute_members()

    def calls(self) -> Iterator[PlannedCall]:
        """Every stage's candidates, and whoever grades them, who may be asked once more, as may who was given up."""
        for at, stage in enumerate(self.stages):
            sure = at == 0 and self.escalation_order == "declared" and not self.start_stage_by
            need: Literal["always", "perhaps"] = "always" if sure else "perhaps"
            yield from self.in_round(
                PlannedCall((model,), "candidate", need=need)
                for model, _ in stage.voters
                for _ in range(self.samples)
            )
            for model, _ in stage.voters:
                for _ in range(self.samples):
                    yield from self._grading(model)
                    if self.escalate_early:
                        yield PlannedCall((model,), "candidate", need="spare")

    def _grading(self, model: str) -> Iterator[PlannedCall]:
        if self.automix_verifier is not None:
            yield PlannedCall((), "verifier", need="perhaps")
        grader = model if self.confidence_method in ("self_verify", "auto") else self.verifier_model
        if grader is not None:
            yield PlannedCall((grader,), "verifier", 1, PRIVATE_OUTPUT, "perhaps")
            yield PlannedCall((grader,), "verifier", 2, PRIVATE_OUTPUT, "spare")


MEANS = ("avg_logprob", "margin", "hybrid")
"""Scores that are a mean over tokens, so that they can be told before the end."""


def no_threshold(method: str) -> str:
    """Why a chain cannot be run with this method."""
    return (
        f"`{method}` has no default threshold, as a guessed one accepts everything or nothing: give `threshold`, "
        "or `weights` or `calibration` for every stage but the last; `looper calibrate FILE --data OUTCOMES.jsonl` "
        "measures them, and until then `max_accepted_error` escalates always"
    )


# --- The order of stages ----------------------------------------------------------------------------


def ordered(
    stages: Sequence[Stage], order: Order, tradeoff: float, models: Mapping[str, Model]
) -> list[Stage]:
    """Stages as they are asked. What is unknown of a stage puts it last; equals stay as they are declared."""
    match order:
        case "declared":
            return list(stages)
        case "size":
            return sorted(stages, key=lambda stage: _last_if_unknown(_size(stage, models)))
        case "cost":
            return sorted(stages, key=lambda stage: _last_if_unknown(_cost(stage, models)))
        case "automix":
            return _by_tradeoff(stages, tradeoff, models)


def _last_if_unknown(value: Decimal | float | None) -> tuple[bool, Decimal | float]:
    return value is None, value or 0


def _size(stage: Stage, models: Mapping[str, Model]) -> int | None:
    """Of a stage's largest model."""
    sizes = [models[name].param_size for name in stage.models]
    known = [size for size in sizes if size is not None]
    return max(known) if len(known) == len(sizes) else None


def _cost(stage: Stage, models: Mapping[str, Model]) -> Decimal | None:
    """Input and output of everybody who is asked."""
    prices = [models[name].price for name in stage.models]
    known = [price.input + price.output for price in prices if price is not None]
    return sum(known, Decimal(0)) * len(stage.prompts) if len(known) == len(prices) else None


def _rating(stage: Stage, models: Mapping[str, Model]) -> float | None:
    """Of a stage's best model."""
    known = [rating for name in stage.models if (rating := models[name].known_rating) is not None]
    return max(known, default=None)


def _by_tradeoff(
    stages: Sequence[Stage], tradeoff: float, models: Mapping[str, Model]
) -> list[Stage]:
    """The best first or the cheapest first, or something between: each on a scale of the stages' own.

    The more `tradeoff` leans to cost, the earlier comes a cheaper stage: of two stages, once the cheaper one is first
    it stays so.
    """
    costs = _scaled([_cost(stage, models) for stage in stages])
    ratings = _scaled([_rating(stage, models) for stage in stages])
    prices = dict(zip(stages, zip(costs, ratings, strict=True), strict=True))

    def place(stage: Stage) -> tuple[bool, float]:
        cost, rating = prices[stage]
        if cost is None or rating is None:
            return True, 0.0
        return False, tradeoff * cost - (1 - tradeoff) * rating

    return sorted(stages, key=place)


def _scaled(values: Sequence[Decimal | float | None]) -> list[float | None]:
    """From 0, the lowest, to 1, the highest."""
    known = [float(value) for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    spread = (high - low) or 1.0
    return [None if value is None else (float(value) - low) / spread for value in values]
