"""What early stops are for: fewer calls for answers that are as good."""

from tests.bench.savings import TEAMS, play


async def test_a_team_that_stops_early_saves_money_and_no_accuracy() -> None:
    """Over the same seeded questions the stops of both patterns save a tenth of the cost at least."""
    rows = {row.team: row for row in await play(60, TEAMS)}

    for stopping, full in (
        (rows["fusion, unless unanimous"], rows["fusion, always judged"]),
        (rows["remom, adaptive"], rows["remom, all nine"]),
    ):
        assert stopping.calls < full.calls
        assert stopping.microusd < 0.9 * full.microusd
        assert stopping.right >= full.right - 1
        assert stopping.right > rows["large alone"].right
