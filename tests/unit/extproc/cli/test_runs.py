"""`looper runs` and `looper top`: what a process does, in a terminal."""

import asyncio
import json
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from extproc.cli.figures import seconds, usd
from extproc.cli.main import main
from extproc.config import load_config
from extproc.serving.admin import Access, Facts, admin
from extproc.serving.lag import Lag
from extproc.serving.reload import Reloads
from extproc.serving.versions import at_work
from tests.fakes.envoy import free_port
from tests.fakes.records import record
from tests.fakes.stack import DEMO

TOKEN = "a token of some length"
CALL = record()["calls"][0]
VARIED = record(
    3,
    outcome="degraded",
    calls=[
        {**CALL, "state": "cancelled", "reason": "the other call was quicker"},
        {**CALL, "at": 0.2, "stands_in": "hedge", "answer": "[bold]B[/bold]", "queued": 0.1},
    ],
    votes=[
        {
            "at": 1.0,
            "confidence": 0.7,
            "none": 0.3,
            "groups": [
                {"posterior": 0.7, "ballots": [{"call": 1, "model": "small", "weight": 2, "votes": True}]}
            ],
            "silent": [],
        }
    ],
    checks=[
        {"at": 1.0, "stage": "panel", "method": "posterior", "score": 0.7, "threshold": 0.8, "enough": False}
    ],
    notes=["[red]a note[/red]"],
)  # fmt: skip


@pytest.fixture
async def facts() -> AsyncIterator[Facts]:
    async with at_work(load_config(DEMO)) as versions:
        found = Facts(versions, Reloads(), Lag())
        for number in range(3):
            outcome = "failed" if number == 1 else "ok"
            found.process.runs.add(record(number, outcome=outcome))
        found.process.runs.add(VARIED)
        yield found


@pytest.fixture
async def address(facts: Facts, tmp_path: Path) -> AsyncIterator[str]:
    address = f"unix:{tmp_path}/admin.sock"
    async with admin(facts, Access(address)):
        yield address


async def looper(*arguments: str, columns: int = 120) -> Result:
    runner = CliRunner(env={"COLUMNS": str(columns)})
    return await asyncio.to_thread(runner.invoke, main, list(arguments))


@pytest.mark.parametrize("columns", [80, 120])
async def test_the_last_runs_are_listed_the_newest_last_and_fit(address: str, columns: int) -> None:
    found = await looper("runs", "--admin", address, columns=columns)
    lines = found.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        "run",
        *(f"{number:016x}" for number in range(4)),
    ]
    assert max(map(len, lines)) <= columns
    assert ("small, large" in found.stdout) is (columns == 120)
    assert "panel fusion" in lines[1]


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (("--outcome", "failed"), [1]),
        (("--decision", "panel"), [0, 1, 2, 3]),
        (("--decision", "general.panel", "--limit", "2"), [2, 3]),
        (("--model", "large"), [0, 1, 2]),
        (("--decision", "default"), []),
    ],
)
async def test_those_that_are_wanted_are_listed(
    address: str, wanted: tuple[str, ...], numbers: list[int]
) -> None:
    found = await looper("runs", "--admin", address, "--json", *wanted)
    runs = [json.loads(line)["run"] for line in found.stdout.splitlines()]
    assert runs == [f"{number:016x}" for number in numbers]


@pytest.mark.parametrize("columns", [80, 120])
async def test_one_is_shown_on_a_time_axis(address: str, columns: int) -> None:
    """What waited, what the first token took, why calls were made and given up; words are words."""
    found = await looper("runs", "--admin", address, f"{3:016x}", columns=columns)
    text = found.stdout
    assert max(map(len, text.splitlines())) <= columns
    for told in ("degraded", "#0 small", "█", "░", "·", "0.7 < 0.8", "goes on", "70.0 %"):
        assert told in text
    flat = " ".join(text.split())
    assert "[bold]B[/bold]: small" in flat
    assert "[red]a note[/red]" in flat
    if columns == 120:
        assert "made a second time" in flat
        assert "the other call was quicker" in flat


async def test_one_is_told_as_json(address: str) -> None:
    found = await looper("runs", "--admin", address, f"{3:016x}", "--json")
    assert json.loads(found.stdout) == VARIED


async def test_runs_are_followed(address: str, facts: Facts) -> None:
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "extproc",
            "runs",
            "--admin",
            address,
            "--follow",
            "--json",
            "--limit",
            "1",
        ),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            assert json.loads(await process.stdout.readline())["run"] == f"{3:016x}"
            facts.process.runs.add(record(9))
            assert json.loads(await process.stdout.readline())["run"] == f"{9:016x}"
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize("columns", [80, 120])
async def test_top_shows_decisions_and_models(address: str, facts: Facts, columns: int) -> None:
    facts.reloads.problems = ["looper.yaml:7: nonsense"]
    found = await looper("top", "--admin", address, "--once", columns=columns)
    text = found.stdout
    assert max(map(len, text.splitlines())) <= columns
    for told in ("4 runs", "invalid file", "looper.yaml:7", "panel fusion", "1 failed", "small"):
        assert told in text
    assert ("dearest alone" in text) is (columns == 120)


async def test_top_looks_again_and_again(address: str, facts: Facts) -> None:
    """On a terminal, until it is interrupted."""
    ours, its = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        # A shell has what it starts in the background ignore interrupts, the tests and all below them.
        *("env", "--default-signal=INT"),
        *("TERM=xterm-256color", "COLUMNS=120", "LINES=50"),  # a terminal that can redraw
        *(sys.executable, "-m", "extproc", "top", "--admin", address, "--interval", "0.1"),
        stdout=its,
        stdin=its,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(its)
    seen = ""
    try:
        async with asyncio.timeout(30):
            while "4 runs" not in seen:
                seen += (await asyncio.to_thread(os.read, ours, 65536)).decode(errors="replace")
            facts.process.runs.add(record(9))
            while "5 runs" not in seen:
                seen += (await asyncio.to_thread(os.read, ours, 65536)).decode(errors="replace")
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
    finally:
        os.close(ours)
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert errors == b""


async def test_top_is_told_as_json(address: str) -> None:
    told = json.loads((await looper("top", "--admin", address, "--json")).stdout)
    assert told["overview"]["runs"] == 4
    assert told["config"]["valid"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("runs", "nobody"), "unknown run"),
        (("runs", "x", "--follow"), "either RUN or --follow"),
        (("top", "--admin", "127.0.0.1:1"), "Nobody answers at 127.0.0.1:1"),
        (("runs", "--admin", "unix:/nowhere/admin.sock"), "Nobody answers"),
        (("runs", "--admin-token-file", "/nowhere"), "cannot be read"),
    ],
)
async def test_what_cannot_be_shown_is_said(
    address: str, arguments: tuple[str, ...], said: str
) -> None:
    place = () if "--admin" in arguments else ("--admin", address)
    found = await looper(*arguments, *place)
    assert found.exit_code != 0
    assert said in found.stderr


async def test_a_token_is_asked_for_and_given(facts: Facts, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    address = f"127.0.0.1:{free_port()}"
    async with admin(facts, Access(address, TOKEN)):
        without = await looper("runs", "--admin", address)
        given = await looper("runs", "--admin", address, "--admin-token-file", str(token))
    assert "wants a token" in without.stderr
    assert given.exit_code == 0, given.output


@pytest.mark.parametrize(
    ("micro", "told"),
    [(None, "–"), (0, "$0.00"), (8.49, "$0.0000085"), (5, "$0.000005"),
     (1846, "$0.0018"), (12_000, "$0.012"), (2.5e6, "$2.50")],
)  # fmt: skip
def test_money_has_two_digits_that_count(micro: Any, told: str) -> None:
    assert usd(micro) == told


@pytest.mark.parametrize(
    ("value", "told"), [(None, "–"), (0.0004, "0.4 ms"), (0.25, "250 ms"), (1.5, "1.50 s")]
)
def test_times_are_short(value: Any, told: str) -> None:
    assert seconds(value) == told
