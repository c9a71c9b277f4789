import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from looper.calling.models import Model
from looper.contract import ChoiceConfig, Contract, TextConfig
from looper.patterns.confidence import ConfidenceConfig
from looper.patterns.confidence.stage import Stage, ordered
from looper.voting import Weights
from tests.fakes.models import model

CHOICE = ChoiceConfig(type="choice", values=("A", "B")).build()
KNOTS = {"knots": [[0.0, 0.1], [1.0, 0.9]]}


def config(**settings: Any) -> ConfidenceConfig:
    return ConfidenceConfig.model_validate(
        {
            "type": "confidence",
            "stages": ["small", "large"],
            "confidence_method": "agreement",
            **settings,
        }
    )


def priced(name: str, price: float | None, rating: float | None = None, **more: Any) -> Model:
    prices = {} if price is None else {"price": {"input": price / 4, "output": 3 * price / 4}}
    return model(name, rating=rating, **prices, **more)


def stages(*names: str) -> list[Stage]:
    return [Stage(models=(name,)) for name in names]


def order(kind: Any, models: list[Model], tradeoff: float = 0.3) -> list[str]:
    by_name = {each.name: each for each in models}
    found = ordered(stages(*by_name), kind, tradeoff, by_name)
    return [stage.called for stage in found]


class TestStages:
    def test_are_written_in_three_ways(self) -> None:
        """A model, a list of them, or all that can be said of a stage."""
        found = config(
            stages=["a", ["b", "c"], {"name": "d", "models": ["e"], "prompts": ["", "Think."]}]
        ).stages
        assert [stage.called for stage in found] == ["a", "b+c", "d"]
        assert list(found[2].voters) == [("e", ""), ("e", "Think.")]

    @pytest.mark.parametrize(
        "written",
        [
            [],
            ["a", "b", "c", "d", "e"],
            ["a", "a"],
            [["a", "a"]],
            [[]],
            [{"models": ["a"], "prompts": ["x", "x"]}],
            [{"models": ["a"], "prompts": []}],
        ],
    )
    def test_repeats_and_too_many_are_refused(self, written: Any) -> None:
        """Four stages at the most, and nobody is asked the same twice in one of them."""
        with pytest.raises(ValidationError):
            config(stages=written)

    def test_a_band_names_a_stage(self) -> None:
        """Where to begin is the name of a stage; another one is refused."""
        assert config(start_stage_by={"difficulty.hard": "large"}).start_stage_by
        for wrong in ({"difficulty.hard": "huge"}, {"hard": "large"}):
            with pytest.raises(ValidationError):
                config(start_stage_by=wrong)


class TestOrder:
    MODELS = (
        priced("dear", 10, 0.9, param_size="70B"),
        priced("cheap", 1, 0.6, param_size="8B"),
        priced("unknown", None),
        priced("middle", 3, 0.8, param_size="30B"),
    )

    @pytest.mark.parametrize(
        ("kind", "tradeoff", "found"),
        [
            ("declared", 0, ["dear", "cheap", "unknown", "middle"]),
            ("size", 0, ["cheap", "middle", "dear", "unknown"]),
            ("cost", 0, ["cheap", "middle", "dear", "unknown"]),
            ("automix", 0.0, ["dear", "middle", "cheap", "unknown"]),
            ("automix", 1.0, ["cheap", "middle", "dear", "unknown"]),
        ],
    )
    def test_what_is_unknown_comes_last(self, kind: Any, tradeoff: float, found: list[str]) -> None:
        """By size, by price, or between the best and the cheapest; what nobody knows is no bargain."""
        assert order(kind, list(self.MODELS), tradeoff) == found

    def test_cost_is_input_and_output(self) -> None:
        """A model that is cheap to ask and dear to hear is dear."""
        models = [
            model("talker", price={"input": 0.1, "output": 9}),
            model("reader", price={"input": 2, "output": 1}),
        ]
        assert order("cost", models) == ["reader", "talker"]

    def test_nothing_is_not_unknown(self) -> None:
        """A price of zero is the lowest."""
        assert order("cost", [priced("dear", 1), priced("free", 0)]) == ["free", "dear"]

    def test_a_stage_of_several_costs_all_of_them(self) -> None:
        """Everybody who is asked is paid."""
        models = {each.name: each for each in self.MODELS}
        found = ordered(
            [Stage(models=("cheap", "middle")), Stage(models=("middle",))], "cost", 0, models
        )
        assert [stage.called for stage in found] == ["middle", "cheap+middle"]

    @given(
        st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1)), min_size=2, max_size=4),
        st.floats(0, 1),
        st.floats(0, 1),
    )
    def test_automix_is_monotone(
        self, drawn: list[tuple[float, float]], one: float, other: float
    ) -> None:
        """The more cost counts, the earlier comes a cheaper stage: one that is first stays first."""
        models = [
            priced(f"m{at}", round(cost, 3), round(rating, 3))
            for at, (cost, rating) in enumerate(drawn)
        ]
        low, high = sorted((one, other))
        before, after = order("automix", models, low), order("automix", models, high)
        costs = {each.name: each.price.input + each.price.output for each in models if each.price}
        for cheap in costs:
            for dear in costs:
                if costs[cheap] < costs[dear] and before.index(cheap) < before.index(dear):
                    assert after.index(cheap) < after.index(dear)


class TestThreshold:
    @pytest.mark.parametrize(
        "method", ["avg_logprob", "margin", "hybrid", "answer_span", "self_verify"]
    )
    def test_a_raw_score_has_no_default(self, method: str) -> None:
        """Without a threshold or a calibration the chain is refused, and the error names what measures one."""
        with pytest.raises(ValidationError, match="looper calibrate"):
            config(confidence_method=method)
        assert config(confidence_method=method, threshold=0.5).bar_for("small", method).at == 0.5

    def test_zero_is_zero(self) -> None:
        """An explicit 0 is a threshold like any other."""
        found = config(confidence_method="avg_logprob", threshold=0)
        assert found.bar_for("small", "avg_logprob").passes(0.0, 0.0)
        assert config(threshold=0).bar_for_pool(["small"]).at == 0

    def test_agreement_and_posterior_have_one(self) -> None:
        """What is a probability by itself is enough at 0.7."""
        assert config().bar_for_pool(["small"]).at == 0.7

    def test_calibrated_is_enough(self) -> None:
        """With knots for every stage but the last a score is a probability, and 0.7 is enough."""
        found = config(confidence_method="avg_logprob", calibration={"small": KNOTS})
        assert found.worth("small", "avg_logprob", 0.75) == pytest.approx(0.7)
        bar = found.bar_for("small", "avg_logprob")
        assert bar.passes(0.76, found.worth("small", "avg_logprob", 0.76))
        assert not bar.passes(0.74, found.worth("small", "avg_logprob", 0.74))
        assert found.bar_for("large", "avg_logprob").at == math.inf

    def test_half_calibrated_is_not(self) -> None:
        """A gate whose score nobody has measured cannot be passed, so that it is refused."""
        with pytest.raises(ValidationError):
            config(
                stages=["small", "other", "large"],
                confidence_method="avg_logprob",
                calibration={"small": KNOTS},
            )

    def test_an_error_that_is_accepted_chooses_the_threshold(self) -> None:
        """From recorded outcomes: the lowest score that keeps the promise; without enough of them, none."""
        rows = [
            {"score": 0.9, "answers": 100, "wrong": 1},
            {"score": 0.5, "answers": 200, "wrong": 60},
        ]
        measured = {**KNOTS, "accepted": rows}
        found = config(
            confidence_method="margin", max_accepted_error=0.1, calibration={"small": measured}
        )
        bar = found.bar_for("small", "margin")
        assert bar.passes(0.9, 0.0)
        assert not bar.passes(0.89, 1.0)
        nothing = config(confidence_method="margin", max_accepted_error=0.1)
        assert not nothing.bar_for("small", "margin").passes(1.0, 1.0)
        nothing = config(confidence_method="auto", max_accepted_error=0.1)
        assert not nothing.bar_for_pool(["small"]).passes(1.0, 1.0)

    def test_auto_needs_one_unless_answers_compare(self) -> None:
        """`auto` votes under a contract whose values compare; under another one it has a raw score, and no default."""
        auto = config(confidence_method="auto")
        text = TextConfig(type="text", max_chars=9).build()
        assert list(auto.problems(CHOICE)) == []
        for contract in (None, text):
            ((path, problem),) = auto.problems(contract)
            assert path == ("confidence_method",)
            assert "looper calibrate" in problem
        assert list(config(confidence_method="auto", threshold=0.8).problems(None)) == []

    @pytest.mark.parametrize(
        "settings",
        [
            {"threshold": 0.5, "max_accepted_error": 0.1},
            {"confidence_method": "agreement", "max_accepted_error": 0.1},
            {"confidence_method": "verifier", "threshold": 0.5},
            {"verifier_model": "judge"},
            {"confidence_method": "automix_entailment", "threshold": 0.5},
            {"automix_verifier": {"url": "http://v", "timeout": "1s"}},
            {"escalate_early": True},
            {"threshold": 1.1},
            {"hybrid_weights": {"logprob_weight": 0, "margin_weight": 0}},
            {"calibration": {"small": {"knots": [[1, 0.5], [0, 0.6]]}}},
        ],
    )
    def test_contradictions_are_refused(self, settings: dict[str, Any]) -> None:
        """What cannot be meant is found before any request comes."""
        with pytest.raises(ValidationError):
            config(**settings)


class TestPlan:
    def test_is_everything_that_may_be_asked(self) -> None:
        """The first stage always, the others perhaps, and for each candidate whoever grades it."""
        found = config(
            stages=[["a", "b"], "c"],
            confidence_method="verifier",
            verifier_model="v",
            threshold=0.5,
        ).planned()
        assert [(call.models[0], call.role, call.need) for call in found if call.need != "spare"] == [
            ("a", "candidate", "always"), ("b", "candidate", "always"),
            ("v", "verifier", "perhaps"), ("v", "verifier", "perhaps"),
            ("c", "candidate", "perhaps"), ("v", "verifier", "perhaps"),
        ]  # fmt: skip

    def test_grades_each_sample(self) -> None:
        """Whoever is asked twice is graded twice."""
        found = config(stages=["a"], confidence_method="self_verify", samples=2, threshold=0.5)
        roles = [call.role for call in found.planned() if call.need != "spare"]
        assert roles == ["candidate", "candidate", "verifier", "verifier"]

    def test_members_are_where_the_file_names_them(self) -> None:
        """Each name comes with its place."""
        found = config(
            stages=["a", ["b", "c"]],
            confidence_method="verifier",
            verifier_model="v",
            threshold=0.5,
        )
        assert list(found.members()) == [
            (("stages", 0, "models", 0), "a"), (("stages", 1, "models", 0), "b"),
            (("stages", 1, "models", 1), "c"), (("verifier_model",), "v"),
        ]  # fmt: skip


class TestWeights:
    @pytest.mark.parametrize(
        ("accept_at", "threshold", "at"), [(0.55, None, 0.55), (None, None, 0.7), (0.55, 0.9, 0.9)]
    )
    def test_say_when_a_vote_is_enough(
        self, accept_at: float | None, threshold: float | None, at: float
    ) -> None:
        """What was fitted for those who were asked counts, unless a threshold is given."""
        found = config(weights=weights(accept_at), threshold=threshold)
        assert found.bar_for_pool(["small"]).at == at

    def test_calibrate_each_models_scores(self) -> None:
        """Scores of the method that was measured are probabilities; of another one they are raw, and refused."""
        found = config(weights=weights(None), confidence_method="avg_logprob")
        assert found.worth("small", "avg_logprob", 0.5) == pytest.approx(0.5)
        assert found.bar_for("small", "avg_logprob").at == 0.7
        with pytest.raises(ValidationError):
            config(weights=weights(None), confidence_method="margin")


class TestHeldOut:
    @pytest.mark.parametrize(("most", "at"), [(0.1, 0.8), (0.05, math.inf)])
    def test_chooses_the_threshold_of_a_vote(self, most: float, at: float) -> None:
        """The lowest confidence that keeps the promise; too little data is no promise."""
        found = config(confidence_method="auto", weights=measured(), max_accepted_error=most)
        bar = found.bar_for_pool(["small"])
        assert (bar.at, bar.raw) == (at, False)
        assert found.bar_for_pool(["small", "large"]).at == math.inf

    def test_chooses_the_threshold_of_a_score(self) -> None:
        """As a probability; of a model that is in no stage, and of a method that nobody measured, there is none."""
        found = config(weights=measured(), max_accepted_error=0.1, confidence_method="avg_logprob")
        bar = found.bar_for("small", "avg_logprob")
        assert (bar.at, bar.raw) == (0.6, False)
        assert found.bar_for("stranger", "avg_logprob").at == math.inf
        assert found.bar_for("small", "margin").at == math.inf

    def test_what_is_never_enough_is_told(self) -> None:
        """A stage that always escalates is hardly meant."""
        models = {name: model(name) for name in ("small", "large")}

        def told(contract: Contract[Any] | None = CHOICE, **settings: Any) -> list[str]:
            found = config(confidence_method="auto", **settings)
            return list(found.doubts_beside(contract, models))

        (never,) = told(weights=measured(), max_accepted_error=0.05)
        assert "answers of small" in never
        assert told(weights=measured(), max_accepted_error=0.1) == []
        (never,) = told(max_accepted_error=0.1)
        assert "always escalated" in never

    def test_what_is_never_enough_goes_by_what_the_contract_has_scored(self) -> None:
        """Where answers do not compare nobody votes, and thresholds for votes help nothing."""
        models = {name: model(name) for name in ("small", "large")}
        found = config(confidence_method="auto", weights=measured(), max_accepted_error=0.1)
        (never,) = found.doubts_beside(None, models)
        assert "answers of small" in never

    def test_a_calibration_that_shows_nothing_is_never_enough(self) -> None:
        """Knots say what a score is worth, and not how many answers are wrong of what is accepted."""
        models = {name: model(name) for name in ("small", "large")}
        found = config(
            confidence_method="avg_logprob", calibration={"small": KNOTS}, max_accepted_error=0.1
        )
        (never,) = found.doubts_beside(None, models)
        assert "answers of small" in never


def measured() -> Weights:
    """Of sixty questions: of those that are surest fifty are right, and one is wrong."""
    sure = [0.9] * 30 + [0.8] * 21 + [0.3] * 9
    right = "1" * 50 + "0" * 10
    member = {"weight": 1.5, "rating": 0.7}
    file = {
        "version": 1,
        "provenance": {"date": "2026-01-31", "rows": 500, "checksum": f"sha256:{'0' * 64}"},
        "scores": {"small": {"avg_logprob": KNOTS}},
        "teams": [
            {"members": {"small": member}, "none_of_these": 1.0},
            {"members": {"small": member, "large": member}, "none_of_these": 1.0},
        ],
        "held_out": {
            "posterior": [{"sure": sure, "right": right}],
            "avg_logprob": [{"sure": [0.6] * 51 + [0.3] * 9, "right": right}],
        },
    }
    return Weights.model_validate(file)


def weights(accept_at: float | None) -> Weights:
    return Weights.model_validate(
        {
            "version": 1,
            "provenance": {"date": "2026-01-31", "rows": 500, "checksum": f"sha256:{'0' * 64}"},
            "scores": {"small": {"avg_logprob": KNOTS}},
            "teams": [
                {
                    "members": {
                        "small": {"weight": 1.5, "rating": 0.7},
                        "large": {"weight": 2.5, "rating": 0.8},
                    },
                    "none_of_these": 1.0,
                    "accept_at": accept_at,
                }
            ],
        }
    )
