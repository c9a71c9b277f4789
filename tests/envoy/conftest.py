"""One Envoy for the whole tier: the shipped configuration, with only addresses and paths replaced.

An older Envoy than what that is for has what is written for it.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from extproc.config.envoy_versions import NEWEST
from looper.simulate.server import MODELS, Simulator
from tests.fakes.envoy import envoy_version
from tests.fakes.stack import Stack, run_stack


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_stack() -> AsyncIterator[Stack]:
    async with run_stack(quick_models(), shipped=envoy_version() == NEWEST) as stack:
        yield stack


@pytest.fixture
def stack(shared_stack: Stack) -> Stack:
    shared_stack.simulator.reset()
    return shared_stack


def quick_models() -> Simulator:
    """The demo's models without their delays."""
    models = (model.model_copy(update={"latency": 0.0, "token_latency": 0.0}) for model in MODELS)
    return Simulator(models)
