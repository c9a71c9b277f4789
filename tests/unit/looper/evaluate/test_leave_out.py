import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from looper.evaluate.fitting import leave_out, splits
from looper.evaluate.fitting.leave_out import CANDIDATES, KNOWING, POOLS, Gains, Line
from looper.evaluate.fitting.team import Constants
from looper.evaluate.outcomes import Question


def rows_of(rates: Sequence[float], count: int = 60, seed: int = 0) -> list[Question]:
    """Members that are right so often, and err by themselves."""
    chance = random.Random(seed)
    return [
        Question(
            gold="A",
            answers={
                f"m{at}": "A" if chance.random() < rate else chance.choice("BCD")
                for at, rate in enumerate(rates)
            },
        )
        for _ in range(count)
    ]


def test_every_team_is_measured_with_everything_that_may_be_known_of_it() -> None:
    cases = list(leave_out.cases(rows_of([0.9, 0.6, 0.5, 0.4]), seed=0))
    assert [(case.pool, case.knowing) for case in cases] == [
        (pool, knowing) for pool in POOLS for knowing in KNOWING
    ]
    assert [len(case.seen.team.members) for case in cases[:: len(KNOWING)]] == [3, 4, 3, 4, 4]
    for case in cases:
        assert len(case.seen.rows) == len(case.unseen.rows) == 30
        assert not {id(row) for row in case.seen.rows} & {id(row) for row in case.unseen.rows}
        assert bool(case.seen.team.ratings) == (case.knowing == "100 labels, ratings")
    assert "m0" not in cases[2 * len(KNOWING)].seen.team.members  # ranks 2-6


def test_constants_are_those_that_gain_most_on_the_other_sets() -> None:
    """What is best on the set that is left out makes no difference."""
    last = len(CANDIDATES) - 1
    flat = [0.0] * len(CANDIDATES)
    gains: Gains = {
        ("one", "1-3", "half"): [*flat[:-1], 1.0],
        ("two", "1-3", "half"): [*flat[:-1], 0.5],
        ("left", "1-3", "half"): [9.0, *flat[1:]],
    }
    assert leave_out.choose(gains, ["one", "two"]) == CANDIDATES[last]
    assert leave_out.choose(gains, ["one", "two", "left"]) == CANDIDATES[0]


def test_what_is_lost_counts_twice() -> None:
    flat = [0.2] * (len(CANDIDATES) - 1)
    gains: Gains = {("one", "1-3", "half"): [2.0, *flat], ("one", "1-5", "half"): [-1.2, *flat]}
    assert leave_out.choose(gains, ["one"]) == CANDIDATES[1]  # a mean of 0.4, and of -0.2 by that


def test_what_is_shipped_is_among_the_candidates() -> None:
    assert Constants() in CANDIDATES


@pytest.fixture
def one_team(monkeypatch: pytest.MonkeyPatch) -> None:
    """One team of a split, and few constants to choose from: what is measured of it is the same."""
    monkeypatch.setattr(leave_out, "POOLS", ("1-",))
    monkeypatch.setattr(leave_out, "CANDIDATES", CANDIDATES[:2])


@pytest.mark.usefixtures("one_team")
@pytest.mark.parametrize(
    ("rates", "gained", "beside"),
    [
        pytest.param([0.7, 0.7, 0.7, 0.7, 0.7], (5, 30), (-5, 5), id="peers"),
        pytest.param([1.0, 0.2, 0.1], (0, 0), (0, 0), id="one-that-is-always-right"),
    ],
)
def test_a_line_compares_on_the_other_half(
    rates: list[float], gained: tuple[float, float], beside: tuple[float, float]
) -> None:
    """Peers that err by themselves gain on the best of them; beside one that is always right nobody differs."""
    found: list[Line] = list(leave_out.lines("set", rows_of(rates, 120), Constants(), seeds=1))
    assert [line.knowing for line in found] == list(KNOWING)
    for line in found:
        assert gained[0] <= line.gained <= gained[1]
        assert beside[0] <= line.beside <= beside[1]
        assert line.low <= line.beside <= line.high


def test_an_interval_counts_a_question_once_however_often_it_was_asked() -> None:
    difference, counted = np.array([3.0, 0.0, 0.0, 0.0]), np.array([3.0, 3.0, 3.0, 3.0])
    low, high = leave_out._interval(difference, counted)
    assert low == 0
    assert high >= 50


def written(folder: Path, name: str, rows: Sequence[Question]) -> str:
    path = folder / f"{name}.jsonl.gz"
    text = "".join(json.dumps({"gold": row.gold, "answers": row.answers}) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()))
    return str(path)


@pytest.mark.usefixtures("one_team")
def test_the_command_reports_every_set_and_holds_small_ones_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leave_out, "LARGE", 50)
    files = [
        written(tmp_path, name, rows_of([0.8, 0.7, 0.6], count, seed))
        for seed, (name, count) in enumerate({"one": 60, "two": 60, "small": 40}.items())
    ]
    options = ["--leave-out", "--seeds", "1", "--searched", "1"]
    result = CliRunner().invoke(splits.main, [*files, *options])
    assert result.exit_code == 0, result.output
    assert "small: 40 questions, by common 0.4, wrong 4" in result.output
    summaries = [line for line in result.output.splitlines() if "at worst" in line]
    assert len(summaries) == len(KNOWING)
    assert not any("(small" in line for line in summaries)
    assert result.output.splitlines()[-1].startswith("on all: common 0.4")


def test_to_leave_one_out_takes_others(tmp_path: Path) -> None:
    file = written(tmp_path, "one", rows_of([0.8, 0.7]))
    result = CliRunner().invoke(splits.main, [file, file, "--leave-out"])
    assert result.exit_code == 2
    assert "three or more" in result.output
