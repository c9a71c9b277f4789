"""What projections cost by themselves, in the recipes that are shipped."""

import asyncio
import timeit

import pytest

from extproc.cli.offline import asking
from extproc.config.includes import shipped
from extproc.decisions.engine import Policy
from extproc.decisions.projections import Readings
from extproc.signals import Subject
from tests.unit.extproc.decisions.test_recipes import included

_TIMES = 500
_MOST_US = 50


@pytest.mark.parametrize("name", shipped())
def test_projections_take_some_microseconds(name: str) -> None:
    """The best of many tries, which what else runs on the machine can only make worse."""
    policy = Policy(name, included(name).recipes["it"])
    subject = Subject(asking("Prove the theorem step by step, with the trade-offs.", "m"))
    readings: Readings = asyncio.run(policy.read(subject))
    tries = timeit.repeat(lambda: policy.projections.project(readings), number=_TIMES, repeat=20)
    assert min(tries) / _TIMES * 1e6 < _MOST_US


def test_there_is_a_recipe_of_many_signals() -> None:
    """What is measured is worth measuring."""
    policy = Policy("general", included("general").recipes["it"])
    assert len(policy.signals.names) >= 12
