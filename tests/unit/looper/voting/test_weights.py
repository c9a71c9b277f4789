import json
from pathlib import Path
from typing import Any

import pytest

from looper.voting import Ballot, WeightsError, decide, read_weights

MEMBER = {"weight": 1.5, "rating": 0.7}
FILE: dict[str, Any] = {
    "version": 1,
    "provenance": {"date": "2026-01-31", "rows": 100, "checksum": "sha256:" + "0" * 64},
    "scores": {"a": {"answer_span": {"knots": [[0.0, 0.3], [1.0, 0.9]]}}},
    "sureness_from": "answer_span",
    "lengths": {"b": {"typical": 100, "spread": 0.5}},
    "teams": [
        {
            "members": {
                "a": {**MEMBER, "sureness": 0.5, "by_category": {"law": -0.5}},
                "b": {**MEMBER, "length": -0.25},
            },
            "none_of_these": 1.0,
            "posterior": {"knots": [[0.0, 0.0], [1.0, 0.5]]},
        },
        {
            "members": {"a": MEMBER, "b": MEMBER, "c": {**MEMBER, "votes": False}},
            "none_of_these": 2.0,
        },
    ],
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "weights.json"
    path.write_text(json.dumps({**FILE, **changes}))
    return path


def test_weights_are_those_of_the_team_and_the_category(tmp_path: Path) -> None:
    weights = read_weights(written(tmp_path))
    assert weights.members == {"a", "b", "c"}
    assert weights.electorate(["a"])["a"].weight == 1.5
    assert weights.electorate(["b", "a"], "law")["a"].weight == 1.0
    assert weights.electorate(["a", "c"]).none_of_these == 2.0
    assert weights.electorate(["a", "substitute"]).none_of_these == 1.0
    assert not weights.electorate(["c"])["c"].votes


def test_confidence_is_what_the_posterior_was_worth(tmp_path: Path) -> None:
    voters = read_weights(written(tmp_path)).electorate(["a", "b"])
    verdict = decide([Ballot("a", 1), Ballot("b", 1)], voters, lambda a, b: a == b)
    # e³ against e¹
    assert verdict.groups[0].posterior == pytest.approx(0.880797, abs=1e-6)
    assert verdict.confidence == pytest.approx(0.440399, abs=1e-6)


def test_a_feature_is_how_much_surer_a_member_is_than_usual(tmp_path: Path) -> None:
    weights = read_weights(written(tmp_path))
    # P(1.0) = .9: ln 9 - ln(7/3) = 2.197225 - 0.847298
    assert weights.feature("a", "answer_span", 1.0) == pytest.approx(1.349927, abs=1e-6)
    assert weights.feature("a", "answer_span", 2 / 3) == pytest.approx(0, abs=1e-9)
    for unknown in (
        weights.feature("a", "answer_span", None),
        weights.feature("a", "margin", 1.0),
        weights.feature("b", "answer_span", 1.0),
        weights.feature("nobody", "answer_span", 1.0),
    ):
        assert unknown is None


def test_a_length_is_told_in_deviations_of_its_logarithm(tmp_path: Path) -> None:
    weights = read_weights(written(tmp_path))
    assert weights.electorate(["b"])["b"].length == -0.25
    # ln(200/100) / 0.5
    assert weights.length("b", 200) == pytest.approx(1.386294, abs=1e-6)
    assert weights.length("b", 100) == pytest.approx(0, abs=1e-9)
    assert weights.length("b", None) is None
    assert weights.length("b", 0) is None
    assert weights.length("a", 200) is None


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"version": 2}, "version: must be 1", id="version"),
        pytest.param({"wieghts": 1}, "wieghts: Extra inputs are not permitted", id="unknown-key"),
        pytest.param(
            {"teams": [{"members": {"a": {"weight": 1.0}}, "none_of_these": 0}]},
            "teams[0].members.a.rating: is missing",
            id="missing",
        ),
        pytest.param(
            {"sureness_from": "margin"},
            "'a' has a sureness, and `scores` has no calibration of it",
            id="no-calibration",
        ),
        pytest.param(
            {"lengths": {}},
            "'b' has a length, and `lengths` does not say what is usual",
            id="no-length",
        ),
        pytest.param(
            {"lengths": {"b": {"typical": 9, "spread": 0}}},
            "lengths.b.spread: must be above 0",
            id="no-spread",
        ),
        pytest.param(
            {"held_out": {"posterior": []}},
            "`held_out.posterior` is not about each team but the last",
            id="held-out",
        ),
        pytest.param(
            {"held_out": {"posterior": [{"sure": [0.5], "right": "2"}]}},
            "held_out.posterior[0].right",
            id="held-out-right",
        ),
        pytest.param(
            {"scores": {"d": {}, **FILE["scores"]}}, "`scores` has 'd', who is in no", id="stranger"
        ),
        pytest.param(
            {"lengths": {"d": {"typical": 9, "spread": 1}, **FILE["lengths"]}},
            "`lengths` has 'd', who is in no team",
            id="length-of-a-stranger",
        ),
    ],
)
def test_what_is_wrong_is_said_with_file_and_path(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    assert any(str(path) in line and problem in line for line in caught.value.problems)


def test_every_problem_is_said(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        read_weights(written(tmp_path, version=3, advice="vote twice", teams=[]))
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    "content", [b"{", b"\xff", b"[" * 200_000, b'{"version": NaN}', b" " * (5 << 20)]
)
def test_what_is_no_weights_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.json"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"weights\.json"):
        read_weights(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read: No such file"):
        read_weights(tmp_path / "none.json")
