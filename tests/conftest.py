"""What holds for every test."""

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A command that a test runs in this process sets up logs for all of it, which the next test must not see."""
    yield
    if structlog.is_configured():
        structlog.reset_defaults()
