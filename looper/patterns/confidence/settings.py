"""A chain as it is written: when an answer will do, whom it asks, and what is hardly meant."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from looper.calling.cost import PlannedCall
from looper.calling.drafts import AGAIN_OUTPUT, PRIVATE_OUTPUT
from looper.calling.fanout import Round
from looper.calling.models import Model
from looper.contract import Contract
from looper.patterns.closing.verify import AutomixVerifier
from looper.patterns.closing.weighing import SURE, Weighing
from looper.patterns.confidence.stage import Order, Stage, ordered, plain_stage
from looper.settings import Probability, Setting, SomeTime
from looper.voting import Ballot, decide
from looper.voting import Method as Scored
from looper.voting.calibration import ALWAYS_ESCALATE, Calibration, threshold_for, thresholds_for
from looper.voting.scoring import ALTERNATIVES, TokenFilter, agreement, token_score
from looper.wire.chat import Choice

Method = Literal["auto", Scored, "agreement"]

MEANS = ("avg_logprob", "margin", "hybrid")
"""Scores that are a mean over tokens, so that they can be told before the end."""


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

    stages: tuple[Annotated[Stage, BeforeValidator(plain_stage)], ...] = Field(
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
    verifier_share: float = Field(
        default=0.3, ge=0.05, le=0.9, description="part of a stage's time that is kept for grading"
    )
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

    # What an answer is scored by...

    def method_for(self, contract: Contract[Any] | None) -> str:
        """How sure an answer is, where the contract decides on it: by vote if its values compare."""
        votes = contract is not None and contract.comparable
        return "posterior" if self.confidence_method == "auto" and votes else self.confidence_method

    def token_method_for(self, contract: Contract[Any] | None) -> str:
        """What an answer is scored by as long as nobody is asked."""
        method = self.method_for(contract)
        return "hybrid" if method == "auto" else method

    def token_score(
        self, method: str, choice: Choice, value: object, contract: Contract[Any] | None
    ) -> float | None:
        """What an answer's tokens say by this method, in a vote as by itself."""
        shares = self.hybrid_weights.shares
        return token_score(method, choice, value, contract, which=self.token_filter, weights=shares)

    def grades(self, contract: Contract[Any] | None) -> bool:
        """Whether somebody may be asked how good an answer is."""
        asking = ("auto", "self_verify", "verifier", "automix_entailment")
        return self.method_for(contract) in asking

    def alternatives_for(self, contract: Contract[Any] | None) -> int | None:
        """How many alternatives beside each token are needed; None if no probabilities are."""
        needed = (ALTERNATIVES.get(self.token_method_for(contract)), self.alternatives)
        return max((each for each in needed if each is not None), default=None)

    # ... when it will do...

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
            return Bar(SURE if calibration is not None else ALWAYS_ESCALATE)
        if model in self.calibration:
            return Bar(self._chosen_for[model], raw=True)
        named = (stage.models for stage in self.stages)
        return Bar(
            max(
                (self.enough(method, each) for each in named if model in each),
                default=ALWAYS_ESCALATE,
            )
        )

    def bar_for_pool(self, asked: Sequence[str]) -> Bar:
        """What the vote of everybody who was asked must reach."""
        if self.threshold is not None:
            return Bar(self.threshold)
        if self.max_accepted_error is None:
            return Bar(self.sure_from(asked))
        return Bar(self.enough("posterior", asked))

    @property
    def bar_for_agreement(self) -> Bar:
        """What the share of those who agree must reach."""
        return Bar(SURE if self.threshold is None else self.threshold)

    def enough(self, method: str, asked: Sequence[str]) -> float:
        """The confidence with which no more answers than `max_accepted_error` are wrong, once these have been asked."""
        chosen = self._chosen.get(method, ())
        if self.weights is None or not chosen:
            return ALWAYS_ESCALATE
        team = self.weights.teams.index(self.weights.team(asked))
        return chosen[team] if team < len(chosen) else ALWAYS_ESCALATE

    def never_enough(self, method: str, models: Mapping[str, Model]) -> Iterator[str]:
        """The stages but the last whose answers are never accepted, as nothing shows that so few are wrong."""
        asked: tuple[str, ...] = ()
        for stage in self.in_order(models)[:-1] if self.max_accepted_error is not None else ():
            asked = (*asked, *stage.models)
            votes = method == "posterior"
            bars = (
                [self.bar_for_pool(asked)]
                if votes
                else [self.bar_for(n, method) for n in stage.models]
            )
            if all(bar.at == ALWAYS_ESCALATE for bar in bars):
                yield stage.called

    @cached_property
    def _chosen_for(self) -> Mapping[str, float]:
        """For each model of `calibration` what `max_accepted_error` comes to, as a raw score."""
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

    # ... whom it asks...

    def in_order(self, models: Mapping[str, Model]) -> list[Stage]:
        """The stages as they are asked."""
        return ordered(self.stages, self.escalation_order, self.cost_quality_tradeoff, models)

    def members(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        for at, stage in enumerate(self.stages):
            for index, name in enumerate(stage.models):
                yield ("stages", at, "models", index), name
        for name in self.calibration:
            yield ("calibration", name), name
        if self.verifier_model is not None:
            yield ("verifier_model",), self.verifier_model
        yield from self.substitute_members()

    def planned(self) -> tuple[PlannedCall, ...]:
        """Every stage, and whoever grades its answers."""
        return tuple(self._calls())

    def _calls(self) -> Iterator[PlannedCall]:
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
            yield PlannedCall((grader,), "verifier", 2, AGAIN_OUTPUT, "spare")

    # ... and what is hardly meant

    def bands(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """What a run wants to know of the request, by the names that rules use."""
        for band in self.start_stage_by:
            yield ("start_stage_by", band), band

    def problems(
        self, contract: Contract[Any] | None
    ) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """What is missing beside the contract of the decision."""
        votes = contract is not None and contract.comparable
        if self.confidence_method == "auto" and not votes and not self.accepts_raw("hybrid"):
            yield ("confidence_method",), no_threshold("auto` without a comparable `contract")

    def warnings(self, models: Mapping[str, Model]) -> Iterator[str]:
        """What is no error, but hardly meant."""
        yield from self._idle()
        if self.threshold == 0 and len(self.stages) > 1:
            yield "threshold: at 0 every answer is accepted, and no further stage is asked"
        for at, stage in enumerate(self.stages):
            if len(list(stage.voters)) * self.samples < self.min_successful_responses:
                yield f"min_successful_responses: {stage.name or f'stage {at + 1}'} has fewer, and is never enough"
        if self.verifier_model in {name for stage in self.stages for name in stage.models}:
            yield f"verifier_model: {self.verifier_model} grades answers of its own"

    def doubts_beside(
        self, contract: Contract[Any] | None, models: Mapping[str, Model]
    ) -> Iterator[str]:
        """Which settings do nothing, and which stages are asked for nothing but their word: by then nobody can be sure
        enough, though all agree.
        """
        yield from self._unscored(contract)
        yield from self._without_probabilities(contract, models)
        if never := list(self.never_enough(self.token_method_for(contract), models)):
            yield (
                f"max_accepted_error: no recorded outcomes show that answers of {', '.join(never)} are so seldom wrong,"
                " and what comes there is always escalated"
            )
        asked: list[str] = []
        for stage in self.in_order(models)[:-1]:
            asked += [model for model, _ in stage.voters for _ in range(self.samples)]
            most, bar = self._most(asked, contract, models)
            if most < bar:
                yield (
                    f"stages: with {stage.called} the team is at most {most:.2f} sure, though all agree,"
                    f" and {bar:g} is enough: the next stage is always asked"
                )

    def _without_probabilities(
        self, contract: Contract[Any] | None, models: Mapping[str, Model]
    ) -> Iterator[str]:
        """Whom scores of tokens cannot be of. What the last stage says needs none."""
        if (method := self.method_for(contract)) not in MEANS:
            return
        mute = dict.fromkeys(
            name
            for stage in self.in_order(models)[:-1]
            for name in stage.models
            if (able := models[name].capabilities) is not None and "logprobs" not in able
        )
        if mute:
            yield (
                f"confidence_method: `{method}` reads the probabilities of tokens, which {', '.join(mute)}"
                " cannot give by their `capabilities`: what they say is always escalated"
            )

    def _idle(self) -> Iterator[str]:
        """The settings that do nothing beside the others."""
        given = self.model_fields_set
        yield from self.idle(max(len(list(each.voters)) for each in self.stages) * self.samples)
        if self.escalation_order != "automix" and "cost_quality_tradeoff" in given:
            yield "cost_quality_tradeoff: does nothing without `escalation_order: automix`"
        if len(self.stages) == 1:
            after_one = {"escalation_order", "overlap_after", "start_stage_by", "escalate_early"}
            for key in sorted(given & after_one):
                yield f"{key}: does nothing: there is one stage"
        staged = {name for stage in self.stages for name in stage.models}
        for name in self.calibration:
            if name not in staged:
                yield f"calibration: {name} is in no stage, and its calibration does nothing"

    def _unscored(self, contract: Contract[Any] | None) -> Iterator[str]:
        """The settings of scores that nobody has."""
        given, method = self.model_fields_set, self.token_method_for(contract)
        counted = {method, self.weights.sureness_from if self.weights is not None else None}
        if "hybrid_weights" in given and "hybrid" not in counted:
            yield f"hybrid_weights: does nothing: answers are scored by `{method}`, not by `hybrid`"
        if "token_filter" in given and not counted & {*MEANS}:
            yield f"token_filter: does nothing: `{method}` is no mean over an answer's tokens"
        if self.calibration and method in ("agreement", "posterior"):
            yield f"calibration: does nothing: `{method}` is a probability already"

    def _most(
        self, asked: Sequence[str], contract: Contract[Any] | None, models: Mapping[str, Model]
    ) -> tuple[float, float]:
        """How sure these are if they agree, as far as that is known beforehand, and how sure is enough."""
        if self.confidence_method == "agreement":
            share = agreement(len(asked), len(asked))
            return share or 0.0, self.bar_for_agreement.at
        compares = contract is not None and contract.comparable
        electorate = self.electorate(asked, models)
        known = self.category is None and self.max_accepted_error is None and electorate.steady
        if self.confidence_method != "auto" or not compares or not known:
            return 1.0, 0.0
        ballots = [Ballot(name, True, share=1 / asked.count(name)) for name in asked]
        verdict = decide(ballots, electorate, lambda one, other: one == other)
        return verdict.confidence, self.bar_for_pool(asked).at


def no_threshold(method: str) -> str:
    """Why a chain cannot be run with this method."""
    return (
        f"`{method}` has no default threshold, as a guessed one accepts everything or nothing: give `threshold`, "
        "or `weights` or `calibration` for every stage but the last; `looper calibrate FILE --data OUTCOMES.jsonl` "
        "measures them, and until then `max_accepted_error` escalates always"
    )
