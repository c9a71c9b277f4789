"""`looper up --real`, as somebody runs it who wants to see a real model at work."""

import pytest

from extproc.cli.up.llama import missing
from tests.envoy.test_up import up
from tests.fakes.needs import lacking


@pytest.mark.timeout(240)
async def test_the_tour_runs_on_a_real_model() -> None:
    """Whatever it says, three requests are answered, two of them by a team of its three names."""
    if gone := missing():
        lacking(f"{' and '.join(gone)} are missing: make test-real installs them")
    async with up("--real", "--once") as process:
        assert process.stdout is not None
        text = (await process.stdout.read()).decode()
        assert await process.wait() == 0, text

    assert "wrong (" not in text
    for word in ("terse", "plain", "bold", "panel", "judge", "final", "first token"):
        assert word in text
