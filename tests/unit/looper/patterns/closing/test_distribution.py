from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from looper.patterns.closing.distribution import Distribution, apportion, distribute

WEIGHTS = {"a": 2.0, "b": 1.0, "c": 1.0}


@pytest.mark.parametrize(
    ("how", "breadth", "before", "asked"),
    [
        pytest.param("weighted", 4, 0, "abca", id="weighted"),
        pytest.param("equal", 3, 0, "abc", id="equal"),
        pytest.param("equal", 6, 0, "abcabc", id="equal-twice"),
        pytest.param("round_robin", 4, 0, "abca", id="round-robin"),
        pytest.param("round_robin", 4, 4, "bcab", id="round-robin-goes-on"),
        pytest.param("first_only", 3, 2, "aaa", id="first-only"),
    ],
)
def test_who_is_asked(how: Distribution, breadth: int, before: int, asked: str) -> None:
    """Models take turns, so that the first few answers are of as many as possible."""
    assert distribute(how, WEIGHTS, breadth, before, Random(1)) == list(asked)


@pytest.mark.parametrize(
    ("weights", "seats", "given_"),
    [
        pytest.param([1, 1], 4, [2, 2], id="even"),
        pytest.param([5, 3, 2], 10, [5, 3, 2], id="exact"),
        pytest.param([47, 16, 15.9, 12, 6, 3.1], 10, [5, 2, 1, 1, 1, 0], id="largest-remainders"),
        pytest.param([1, 100], 1, [0, 1], id="one-seat"),
    ],
)
def test_seats_go_by_the_largest_remainder(
    weights: list[float], seats: int, given_: list[int]
) -> None:
    """Whole quotas first, then the largest fractions."""
    assert apportion(weights, seats, Random(1)) == given_


def test_equal_remainders_are_drawn_by_lot() -> None:
    """With one seat for two equals, each gets it in about half of all runs; the same seed gives the same."""
    first = [apportion([1, 1], 1, Random(seed))[0] for seed in range(400)]
    assert 140 < sum(first) < 260
    assert first == [apportion([1, 1], 1, Random(seed))[0] for seed in range(400)]


@given(
    st.lists(st.floats(0.01, 100), min_size=1, max_size=8), st.integers(0, 40), st.integers(0, 9)
)
def test_every_seat_is_given_and_nobody_is_far_from_its_quota(
    weights: list[float], seats: int, seed: int
) -> None:
    """The numbers add up, and differ from the quotas by less than one."""
    counts = apportion(weights, seats, Random(seed))
    assert sum(counts) == seats
    total = sum(weights)
    for weight, count in zip(weights, counts, strict=True):
        assert abs(count - weight / total * seats) < 1 + 1e-6
