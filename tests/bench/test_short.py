"""The benchmark still works: every case once, in its short mode. Nothing here depends on how fast anything is."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.echo import PACKAGES, ROOT, install_hint, missing_tools
from tests.bench.results import Results, read
from tests.bench.routed import CPU
from tests.fakes.needs import lacking

# Installing compilers and building the C++ peer may take most of it; the run itself takes half a minute.
pytestmark = pytest.mark.timeout(600)
_RUN_SECONDS = 240
BASELINE = Path(__file__).with_name("baseline.json")


@pytest.fixture(scope="module")
def tools() -> None:
    """What the benchmark needs of Debian, installed where that is allowed."""
    if missing_tools() and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-qq"], check=True, timeout=120)
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES]
        subprocess.run(install, check=True, timeout=400)
    if missing := missing_tools():
        lacking(f"not found: {', '.join(missing)}; {install_hint()}")


@pytest.fixture(scope="module")
def path(tools: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a short run."""
    path = tmp_path_factory.mktemp("bench") / "short.json"
    status, said = _bench("run", "--short", "--output", str(path))
    assert status == 0, said
    return path


@pytest.fixture(scope="module")
def results(path: Path) -> Results:
    return read(path)


def test_every_case_that_is_there_works(results: Results) -> None:
    assert [case.name for case in results.cases if case.failed] == []
    assert {case.missing for case in results.cases if not case.sides} == {
        case.missing for case in results.cases if case.missing
    }
    measured = {case.name.partition("/")[0] for case in results.cases if case.sides}
    assert measured >= {
        *("start", "imports", "open-runs", "first-token", "fusion"),
        *("signals", "immediate", "routed"),
    }


def test_every_side_was_answered_without_errors(results: Results) -> None:
    loads = [
        numbers
        for case in results.cases
        for rounds in case.sides.values()
        for numbers in rounds
        if "requests" in numbers
    ]
    assert loads
    assert all(numbers["requests"] > 0 and numbers["errors"] == 0 for numbers in loads)


def test_no_open_run_is_lost(results: Results) -> None:
    case = results.case("open-runs")
    assert case is not None
    assert case.figures["lost"] == [0]
    assert case.figures["open"][0]


def test_two_results_are_compared(path: Path) -> None:
    status, said = _bench("compare", str(path), str(path))
    assert status == 0, said
    assert "added p50 ÷ echo's" in said


def test_a_request_costs_what_it_did(tools: None, tmp_path: Path) -> None:
    """The CPU of a routed request, divided by the peer's in the same run, stays below 1.5 times what it was."""
    path = tmp_path / "now.json"
    case = "routed/fast/full_duplex/1kB/c32"
    plan = ("--seconds", "1", "--rounds", "3", "--output", str(path))
    status, said = _bench("run", "--cases", case, *plan)
    assert status == 0, said
    status, said = _bench("compare", "--most", "1.5", str(BASELINE), str(path))
    assert status == 0, said


def test_a_request_that_costs_more_is_noticed(tmp_path: Path) -> None:
    """Half as much again is too much; a little more is not."""
    now = json.loads(BASELINE.read_text())
    for factor, expected in ((1.4, 0), (1.6, 1)):
        more = json.loads(BASELINE.read_text())
        for case, before in zip(more["cases"], now["cases"], strict=True):
            figures = before["figures"][CPU]
            case["figures"][CPU] = [factor * each for each in figures]
        path = tmp_path / f"{factor}.json"
        path.write_text(json.dumps(more))
        status, said = _bench("compare", "--most", "1.5", str(BASELINE), str(path))
        assert status == expected, said


def _bench(*arguments: str) -> tuple[int, str]:
    """The exit status of the command, and all that it said."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=_RUN_SECONDS)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)  # it ends what it has started
    return process.returncode, said
