import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from looper.calling.calls import Result
from looper.patterns.closing.weighing import Weighing
from looper.patterns.confidence import ConfidenceConfig
from looper.patterns.ratings import RatingsConfig
from looper.voting import UNKNOWN
from looper.wire.chat import WireUsage
from tests.fakes.models import completion, model

WEIGHTS: dict[str, Any] = {
    "version": 1,
    "provenance": {"date": "2026-01-31", "rows": 500, "checksum": f"sha256:{'0' * 64}"},
    "scores": {"a": {"answer_span": {"knots": [[0.1, 0.2], [0.9, 0.95]]}}},
    "sureness_from": "answer_span",
    "teams": [
        {
            "members": {
                "a": {"weight": 1.5, "rating": 0.7, "sureness": 0.5, "by_category": {"math": 2.0}},
                "b": {"weight": 0.5, "rating": 0.6},
            },
            "none_of_these": 1.0,
        }
    ],
}


def weighing(folder: Path, weights: object = WEIGHTS, **settings: Any) -> Weighing:
    (folder / "weights.json").write_text(json.dumps(weights))
    return Weighing.model_validate(
        {"weights": "weights.json", **settings}, context={"folder": folder}
    )


MODELS = {"a": model("a", rating=0.9), "b": model("b", rating={"default": 0.6, "math": 0.8})}


class TestWeightsFile:
    def test_stands_in_the_configurations_folder(self, tmp_path: Path) -> None:
        """A file that is named is read when the configuration is."""
        assert weighing(tmp_path).electorate(["a", "b"], MODELS)["a"].weight == 1.5

    def test_has_weights_of_a_category(self, tmp_path: Path) -> None:
        """What was measured of a category is added in it."""
        found = weighing(tmp_path).electorate(["a", "b"], MODELS, category="math")
        assert (found["a"].weight, found["b"].weight) == (3.5, 0.5)

    @pytest.mark.parametrize("wrong", [{}, [], {**WEIGHTS, "version": 2}, {**WEIGHTS, "teams": []}])
    def test_that_is_none_is_a_mistake(self, tmp_path: Path, wrong: object) -> None:
        """What cannot be used is refused with the file's name."""
        with pytest.raises(ValidationError, match=r"weights\.json"):
            weighing(tmp_path, wrong)

    def test_that_is_not_there_is_a_mistake(self, tmp_path: Path) -> None:
        """A name that leads nowhere is refused."""
        with pytest.raises(ValidationError, match="cannot be read"):
            RatingsConfig.model_validate(
                {"type": "ratings", "models": ["a"], "weights": "other.json"},
                context={"folder": tmp_path},
            )


class TestRatings:
    def test_count_without_a_file(self) -> None:
        """The better-rated member weighs more, in a category by its rating there."""
        plain, maths = (
            Weighing().electorate(["a", "b"], MODELS, category=each) for each in (None, "math")
        )
        assert plain["b"].weight < maths["b"].weight < maths["a"].weight
        assert maths["b"].rating == 0.8


class TestSureness:
    def test_is_read_off_the_tokens(self, tmp_path: Path) -> None:
        """Where weights count on probabilities they are asked for, and an answer surer than usual weighs more."""
        settings = weighing(tmp_path)
        sure, unsure = (
            settings.about(result_of("a", logprob), "B").sure for logprob in (-0.01, -2.0)
        )
        assert settings.alternatives == 0
        assert sure is not None
        assert unsure is not None
        assert unsure < 0 < sure

    def test_is_unknown_without_tokens(self, tmp_path: Path) -> None:
        """No probabilities, or none that were measured of this member, change nothing."""
        settings = weighing(tmp_path)
        assert settings.about(result_of("a", None), "B") == UNKNOWN
        assert settings.about(result_of("b", -0.1), "B") == UNKNOWN
        assert Weighing().about(result_of("a", -0.1), "B") == UNKNOWN
        assert Weighing().alternatives is None

    def test_is_scored_as_its_chain_scores(self, tmp_path: Path) -> None:
        """Scores that a chain recorded were weighted by its settings, and so are those that its votes count with."""
        hybrid = {"a": {"hybrid": {"knots": [[0.0, 0.1], [1.0, 0.9]]}}}
        (tmp_path / "weights.json").write_text(
            json.dumps({**WEIGHTS, "scores": hybrid, "sureness_from": "hybrid"})
        )
        beside = [{"token": "B", "logprob": -0.1}, {"token": "C", "logprob": -2.4}]
        entry = {"token": "B", "logprob": -0.1, "top_logprobs": beside}
        answer = completion("B", logprobs={"content": [entry]})
        found = [
            ConfidenceConfig.model_validate(
                {
                    "type": "confidence",
                    "stages": ["a", "b"],
                    "weights": "weights.json",
                    "hybrid_weights": {"logprob_weight": share, "margin_weight": 1 - share},
                },
                context={"folder": tmp_path},
            ).about(Result(MODELS["a"], "candidate", "ok", answer), "B")
            for share in (0.0, 0.5, 1.0)
        ]
        low, middle, high = (each.sure or 0.0 for each in found)
        assert low < middle < high


class TestLength:
    def test_is_what_the_backend_counted(self, tmp_path: Path) -> None:
        """Where weights count on lengths, all that a member wrote counts, its thoughts too; silence has no length."""
        settings = weighing(tmp_path, {**WEIGHTS, "lengths": {"b": {"typical": 50, "spread": 0.5}}})
        said = result_of("b", None, tokens=100)
        assert settings.about(said, "B").length == pytest.approx(1.386294, abs=1e-6)
        assert settings.about(said, None) == UNKNOWN
        assert settings.about(result_of("a", -0.1, tokens=100), "B").length is None
        assert settings.alternatives == 0  # for the sake of the sureness alone

    @pytest.mark.parametrize("tokens", [None, 0])
    def test_is_what_can_be_seen_where_nobody_counted(
        self, tmp_path: Path, tokens: int | None
    ) -> None:
        """As in a record of the run, whose lengths the weights were fitted to."""
        settings = weighing(tmp_path, {**WEIGHTS, "lengths": {"b": {"typical": 50, "spread": 0.5}}})
        usage = None if tokens is None else WireUsage(9, tokens)
        answer = completion("word " * 80, usage=usage)
        said = Result(MODELS["b"], "member", "ok", answer)
        assert settings.about(said, "B").length == pytest.approx(1.386294, abs=1e-6)


def result_of(name: str, logprob: float | None, tokens: int | None = 1) -> Result:
    logprobs = None if logprob is None else {"content": [{"token": "B", "logprob": logprob}]}
    usage = None if tokens is None else WireUsage(9, tokens)
    return Result(MODELS[name], "member", "ok", completion("B", logprobs=logprobs, usage=usage))
