from typing import Any

import pytest
import yaml

from extproc.cli.cost.costs import costs
from extproc.config import parse_config
from extproc.config.lint import doubts
from extproc.errors import ConfigError

RATINGS = {"weak": 0.3, "small": 0.65, "other": 0.66, "third": 0.67, "large": 0.95}


def written(algorithm: dict[str, Any], **decision: Any) -> str:
    models = [
        {"name": name, "url": "http://127.0.0.1:1/v1", "rating": rating}
        for name, rating in RATINGS.items()
    ]
    recipe = {
        "signals": {"proof": {"type": "keyword", "any": ["prove"]}},
        "projections": {
            "difficulty": {
                "type": "score",
                "weights": {"proof": 1},
                "bands": [{"easy": 0.5}, {"hard": 1}],
            }
        },
        "decisions": [{"name": "only", "algorithm": algorithm, **decision}],
    }
    return yaml.safe_dump(
        {
            "version": 1,
            "egress": "unix:/run/egress.sock",
            "models": models,
            "recipes": {"r": recipe},
            "entrypoints": {"m": "r"},
        }
    )


def chain(**settings: Any) -> dict[str, Any]:
    return {"type": "confidence", "stages": ["small", "large"], **settings}


def problems(algorithm: dict[str, Any], **decision: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(written(algorithm, **decision), "looper.yaml")
    return caught.value.problems


CHOICE = {"type": "choice", "values": ["A", "B"]}


class TestThreshold:
    @pytest.mark.parametrize(
        "settings", [{}, {"confidence_method": "margin"}, {"confidence_method": "self_verify"}]
    )
    def test_a_guessed_one_is_refused(self, settings: dict[str, Any]) -> None:
        """A raw score without a threshold is an error with its line, and names the command that measures one."""
        (problem,) = problems(chain(**settings))
        assert problem.startswith("looper.yaml:")
        assert "algorithm" in problem
        assert "looper calibrate" in problem

    def test_a_vote_needs_none(self) -> None:
        """Under a contract whose values compare the posterior is a probability by itself."""
        assert parse_config(written(chain(), contract=CHOICE), "looper.yaml")


class TestBands:
    def test_a_band_that_is_there(self) -> None:
        """A projection may be named by nothing but the chain."""
        algorithm = chain(threshold=0.5, start_stage_by={"difficulty.hard": "large"})
        assert parse_config(written(algorithm), "looper.yaml")

    @pytest.mark.parametrize("band", ["dificulty.hard", "difficulty.hrd"])
    def test_one_that_is_not(self, band: str) -> None:
        """A misspelt one is an error with a suggestion."""
        algorithm = chain(threshold=0.5, start_stage_by={band: "large"})
        (problem,) = problems(algorithm)
        assert "did you mean" in problem
        assert "start_stage_by" in problem


def doubted(algorithm: dict[str, Any], **decision: Any) -> list[str]:
    config = parse_config(written(algorithm, **decision), "looper.yaml")
    return [
        text
        for _, text in doubts(config)
        if "clients may not" not in text and "hangs on it" not in text
    ]


class TestIdleMembers:
    def test_a_member_that_adds_nothing(self) -> None:
        """Who has no vote fills silence only, which is worth knowing."""
        models = ["small", "other", "third", "weak"]
        found = doubted({"type": "ratings", "models": models}, contract=CHOICE)
        assert found == ["weak only counts if all who are rated better are silent"]

    @pytest.mark.parametrize("contract", [{"contract": CHOICE}, {}])
    @pytest.mark.parametrize(
        "algorithm",
        [
            {"type": "ratings", "models": ["weak", "small", "large"]},
            {
                "type": "fusion",
                "analysis_models": ["weak", "small", "large"],
                "judge_model": "large",
            },
            {"type": "remom", "models": ["weak", "small", "large"], "synthesis_model": "large"},
        ],
    )
    def test_members_beside_one_far_ahead(
        self, algorithm: dict[str, Any], contract: dict[str, Any]
    ) -> None:
        """Where ratings show that one outvotes all the others together, labels are what tells their worth."""
        (found,) = (each for each in doubted(algorithm, **contract) if "outweighs" in each)
        assert found.startswith("by their ratings large outweighs the others together")
        assert "looper calibrate" in found
        assert not any("only counts" in each for each in doubted(algorithm, **contract))

    def test_peers_are_no_reason_to_say_so(self) -> None:
        """Nor is a chain, whose last model is meant to be better than the others."""
        models = ["small", "other", "third"]
        for algorithm in (
            {"type": "ratings", "models": models, "escalate_to": ["large"]},
            {"type": "fusion", "analysis_models": models, "judge_model": "large"},
            {"type": "ratings", "models": ["small", "large"]},
            chain(stages=["weak", "small", "large"], threshold=0.5),
        ):
            assert not any("outweighs" in each for each in doubted(algorithm, contract=CHOICE))

    def test_a_member_that_tips_no_scales(self) -> None:
        """Of two peers the better one always wins; among three each may decide."""
        two = doubted({"type": "ratings", "models": ["small", "third"]}, contract=CHOICE)
        three = doubted({"type": "ratings", "models": ["small", "other", "third"]}, contract=CHOICE)
        assert two == ["small can never change the answer while the others speak"]
        assert three == []

    def test_samples_may_tip_them(self) -> None:
        """A member whose samples contradict each other has less to say, and then the other one decides."""
        assert (
            doubted(
                {"type": "ratings", "models": ["small", "third"], "samples": 2}, contract=CHOICE
            )
            == []
        )

    def test_likeness_is_no_vote(self) -> None:
        """Free text goes by words; still, who has no vote only fills silence."""
        assert doubted({"type": "ratings", "models": ["small", "third"]}) == []
        models = ["small", "other", "third", "weak"]
        (found,) = doubted({"type": "ratings", "models": models})
        assert found == "weak only counts if all who are rated better are silent"

    @pytest.mark.parametrize(
        ("settings", "key"),
        [
            ({"aggregate": "vote"}, "texts go by likeness"),
            ({"escalate_to": ["large"]}, "calls of tools only"),
            ({"stop": "posterior>=0.9"}, "everybody is waited for"),
        ],
    )
    def test_what_only_a_vote_heeds(self, settings: dict[str, Any], key: str) -> None:
        """Without a contract there is nothing to count, and what hangs on the count does nothing."""
        algorithm = {"type": "ratings", "models": ["small", "other", "third"], **settings}
        (found,) = doubted(algorithm)
        assert key in found
        assert doubted(algorithm, contract=CHOICE) == []

    @pytest.mark.parametrize(
        "algorithm",
        [
            {"type": "ratings", "models": ["small", "third"], "min_successful_responses": 3},
            chain(threshold=0.5, min_successful_responses=2),
        ],
    )
    def test_a_minimum_that_nobody_can_reach(self, algorithm: dict[str, Any]) -> None:
        """More answers than are asked for never come."""
        (problem,) = problems(algorithm)
        assert "`min_successful_responses` is more than" in problem

    @pytest.mark.parametrize(
        ("stages", "settings", "told"),
        [
            (["small", "large"], {}, "with small the team is at most 0.65 sure"),
            ([["small", "third"], "large"], {}, None),
            (
                ["small", "other", "large"],
                {"confidence_method": "agreement"},
                "with small the team is at most 0.67",
            ),
            ([["small", "other"], "large"], {"confidence_method": "agreement"}, None),
            (["small", "large"], {"confidence_method": "agreement", "samples": 2}, None),
            (["small", "large"], {"threshold": 0.6}, None),
            (["small", "large"], {"confidence_method": "margin", "threshold": 0.9}, None),
        ],
    )
    def test_a_stage_that_is_never_sure(
        self, stages: Any, settings: dict[str, Any], told: str | None
    ) -> None:
        """Where not even agreement is enough the next stage is always asked, which is dearer than asking it at once."""
        found = doubted({"type": "confidence", "stages": stages, **settings}, contract=CHOICE)
        assert [told is not None and told in each for each in found] == [True] * (told is not None)

    def test_a_stage_that_is_never_enough(self) -> None:
        """It is asked for nothing but what it adds to the next one."""
        stages = ["small", ["other", "third"]]
        settings: Any = {
            "min_successful_responses": 2,
            "confidence_method": "margin",
            "threshold": 0.9,
        }
        (found,) = doubted({"type": "confidence", "stages": stages, **settings})
        assert found == "stage 1 has fewer, and is never enough"

    def test_a_threshold_of_zero(self) -> None:
        """A chain that never goes on is hardly meant."""
        (found,) = doubted(chain(confidence_method="margin", threshold=0))
        assert "every answer is accepted" in found


class TestVerifier:
    @staticmethod
    def chain(**verifier: Any) -> dict[str, Any]:
        address = {"url": "http://v.test:1", "timeout": "1s", **verifier}
        return chain(
            confidence_method="automix_entailment", threshold=0.5, automix_verifier=address
        )

    def test_is_an_upstream_beside_the_models(self) -> None:
        """Once for each address, however many decisions name it."""
        config = yaml.safe_load(written(self.chain()))
        (only,) = config["recipes"]["r"]["decisions"]
        config["recipes"]["other"] = {"decisions": [only]}
        parsed = parse_config(yaml.safe_dump(config), "looper.yaml")
        *models, verifier = parsed.upstreams()
        assert tuple(models) == parsed.models
        assert (verifier.url, verifier.retry.attempts) == ("http://v.test:1", 0)

    @pytest.mark.parametrize("tags", [[], ["abroad"]])
    def test_may_not_see_what_no_model_of_its_kind_may(self, tags: list[str]) -> None:
        """It reads the conversation, so that a recipe's data policy holds for it too."""
        config = yaml.safe_load(written(self.chain(tags=tags)))
        for model in config["models"]:
            model["tags"] = ["ours"]
        config["recipes"]["r"]["allow_tags"] = ["ours"]
        with pytest.raises(ConfigError) as caught:
            parse_config(yaml.safe_dump(config), "looper.yaml")
        (problem,) = caught.value.problems
        assert "automix_verifier" in problem
        config["recipes"]["r"]["decisions"][0]["algorithm"]["automix_verifier"]["tags"] = ["ours"]
        assert parse_config(yaml.safe_dump(config), "looper.yaml")

    def test_is_in_the_plan(self) -> None:
        """Each candidate may be verified once, by what is no model and has no price."""
        parsed = parse_config(written(self.chain()), "looper.yaml")
        (found,) = costs(parsed, 1000)
        assert (found.least, found.worst.calls) == (1, 4)


FUSION: dict[str, Any] = {
    "type": "fusion",
    "analysis_models": ["small", "other"],
    "judge_model": "large",
}
REMOM: dict[str, Any] = {"type": "remom", "models": ["small", "other"], "synthesis_model": "large"}
SIMILAR: dict[str, Any] = {
    "type": "ratings",
    "models": ["small", "other"],
    "aggregate": "similarity",
}
STEP: dict[str, Any] = {"id": "a", "models": ["small"], "prompt": "p", "timeout": "5s"}
WORK: dict[str, Any] = {"type": "workflows", "steps": [STEP], "final": {"model": "large"}}
RAW: dict[str, Any] = {"threshold": 0.5}
SELF: dict[str, Any] = {**RAW, "confidence_method": "self_verify"}
KNOTS: dict[str, Any] = {"knots": [[0, 0], [1, 1]]}


class TestIdle:
    """What does nothing beside what else is said is told."""

    @pytest.mark.parametrize(
        ("algorithm", "key"),
        [
            (chain(**RAW, confidence_method="margin", hybrid_weights={"margin_weight": 1}), "hybrid_weights"),
            (chain(**RAW, cost_quality_tradeoff=0.9), "cost_quality_tradeoff"),
            (chain(**SELF, token_filter="all"), "token_filter"),
            (chain(**RAW, calibration={"third": KNOTS}), "calibration"),
            (chain(confidence_method="agreement", calibration={"small": KNOTS}), "calibration"),
            (chain(**RAW, stages=["small"], overlap_after="2s"), "overlap_after"),
            ({**REMOM, "compaction_tokens": 500}, "compaction_tokens"),
            ({**REMOM, "models": [{"model": "small", "weight": 2}], "model_distribution": "equal"}, "models"),
            ({**REMOM, "model_distribution": "first_only"}, "models"),
            ({**REMOM, "adaptive": True}, "adaptive"),
            ({**REMOM, "max_responses_per_round": 9}, "max_responses_per_round"),
            ({**FUSION, "skip_judge_when": "posterior>=0.9"}, "skip_judge_when"),
            ({**FUSION, "final_fallbacks": ["large"]}, "final_fallbacks"),
            ({**FUSION, "below_quorum": "fail"}, "below_quorum"),
            ({**FUSION, "straggler_factor": 2, "min_successful_responses": 2}, "straggler_factor"),
            ({**SIMILAR, "hedge_after": "5s", "round_timeout": "3s"}, "hedge_after"),
            ({**SIMILAR, "aggregate": "all", "stop": "settled"}, "stop"),
            ({**WORK, "on_verify_fail": "continue"}, "on_verify_fail"),
            ({**WORK, "step_timeout": "9s"}, "step_timeout"),
            ({"type": "single", "models": [{"model": "small", "weight": 2}]}, "models"),
        ],
        ids=lambda each: each if isinstance(each, str) else each["type"],
    )  # fmt: skip
    def test_is_told_with_its_place(self, algorithm: dict[str, Any], key: str) -> None:
        """By its path, so that it is found."""
        config = parse_config(written(algorithm), "looper.yaml")
        told = {
            path: text
            for path, text in doubts(config)
            if "nothing" in text or "ever" in text or "already" in text
        }
        assert ("recipes", "r", "decisions", 0, "algorithm", key) in told

    @pytest.mark.parametrize(
        "algorithm",
        [
            chain(**RAW, confidence_method="hybrid", hybrid_weights={"margin_weight": 1}, token_filter="all"),
            chain(**RAW, hybrid_weights={"margin_weight": 1}),
            chain(**RAW, escalation_order="automix", cost_quality_tradeoff=0.9),
            chain(confidence_method="margin", calibration={"small": KNOTS}),
            {**REMOM, "compaction_strategy": "last_n_tokens", "compaction_tokens": 500},
            {**REMOM, "models": [{"model": "small", "weight": 2}, "other"], "max_responses_per_round": 2},
            {**FUSION, "straggler_factor": 2, "below_quorum": "fail", "min_successful_responses": 2,
             "analysis_models": ["small", "other", "third"]},
            {**SIMILAR, "hedge_after": "2s", "round_timeout": "3s"},
        ],
        ids=lambda each: each["type"],
    )  # fmt: skip
    def test_what_does_something_is_not(self, algorithm: dict[str, Any]) -> None:
        """Nobody is told to leave out what counts."""
        found = [text for _, text in doubts(parse_config(written(algorithm), "looper.yaml"))]
        assert not [text for text in found if "does nothing" in text]
