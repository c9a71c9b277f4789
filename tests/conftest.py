"""What holds for every test."""

from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.fakes.envoy import choose

settings.register_profile(
    "usual", deadline=None
)  # an example has no time of its own on a busy machine
settings.load_profile("usual")
settings.register_profile(
    "fuzz", max_examples=100_000, deadline=None, suppress_health_check=list(HealthCheck)
)
"""What `make fuzz` runs."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--envoy", default=None, help="the Envoy that tests run, of whichever version")


def pytest_configure(config: pytest.Config) -> None:
    if (path := config.getoption("--envoy")) is not None:
        choose(str(path))


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A command that a test runs in this process sets up logs for all of it, which the next test must not see."""
    yield
    if structlog.is_configured():
        structlog.reset_defaults()
