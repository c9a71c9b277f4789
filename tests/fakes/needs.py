"""What tests need of the machine. Without it they are skipped, but not in CI, where nobody would notice."""

import os
import shutil
from typing import NoReturn

import pytest


def lacking(what: str) -> NoReturn:
    """End a test that cannot run."""
    if os.environ.get("CI") == "true":  # noqa: TID251  # a fact about the machine, not a setting
        pytest.fail(what)
    pytest.skip(what)


def command(name: str, package: str) -> str:
    """The path of a command, which Debian has in `package`."""
    found = shutil.which(name)
    if found is None:
        lacking(f"{name} is missing (Debian: apt-get install {package})")
    return found
