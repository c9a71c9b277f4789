"""How often something may be done on the long run."""

from extproc.process.pace import Pace


def test_ten_seconds_share_may_be_taken_at_once_and_then_so_many_a_second() -> None:
    now = 0.0
    pace = Pace(2, lambda: now)
    assert [pace.take() for _ in range(21)] == [True] * 20 + [False]
    now = 0.4
    assert not pace.take()
    now = 1.0
    assert [pace.take() for _ in range(3)] == [True, True, False]
    now = 1000.0
    assert sum(pace.take() for _ in range(30)) == 20


def test_even_a_slow_pace_lets_one_by() -> None:
    assert Pace(0.001, lambda: 0.0).take()
