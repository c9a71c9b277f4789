"""`make run` on machines whose Python is not what it takes."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OLD = """#!/bin/sh
[ "$1" = --version ] && echo "Python 3.9.2" && exit 0
exit 1
"""

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


def make(venv: Path, python: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["make", *options, f"{venv}/.run", f"VENV={venv}", f"PYTHON={python}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def old(tmp_path: Path) -> str:
    path = tmp_path / "python3.9"
    path.write_text(OLD)
    path.chmod(0o755)
    return str(path)


@needs_make
def test_a_python_that_is_too_old_is_told_which_one_it_takes(tmp_path: Path, old: str) -> None:
    done = make(tmp_path / "venv", old)
    assert done.returncode != 0
    assert f"This needs Python 3.11 or later, and {old} is Python 3.9.2." in done.stdout
    assert not (tmp_path / "venv").exists()


@needs_make
def test_one_that_is_not_there_is_told_too(tmp_path: Path) -> None:
    done = make(tmp_path / "venv", "no-such-python")
    assert "3.11 or later, and no-such-python is not there." in done.stdout


@needs_make
def test_what_an_old_one_has_left_is_made_anew(tmp_path: Path, old: str) -> None:
    """Given another Python, it begins again, and says so; here that is as far as it gets, without a network."""
    bin = tmp_path / "venv" / "bin"
    bin.mkdir(parents=True)
    (bin / "python").symlink_to(old)
    done = make(tmp_path / "venv", sys.executable, "-e", "PIP_NO_INDEX=1")
    assert "Setting up" in done.stdout
    assert "Installing the product" in done.stdout
    made = subprocess.run([bin / "python", "-c", "import sys"], check=False)
    assert made.returncode == 0
