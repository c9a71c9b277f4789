"""What happens to a request when the processor goes away."""

import asyncio
import signal

import pytest

from looper.simulate.server import Address, Hang
from tests.envoy.conftest import quick_models
from tests.envoy.requests import ROUTED, TEAM, ask, chat
from tests.fakes.envoy import free_port
from tests.fakes.stack import run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_run_is_paid_once_when_the_processor_is_killed() -> None:
    """SIGKILL in the middle of a run gives one 503 in OpenAI's shape, and no call is ever made again."""
    simulator = quick_models()
    for name in ("small", "other", "third"):
        simulator.fault(name, Hang())
    async with run_stack(simulator) as stack:
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(ask(stack))
            await simulator.wait_for(lambda: simulator.running() == 3)
            await stack.processor.stop(signal.SIGKILL)
            await stack.processor.start()
        status, headers, answer = asking.result()
        await simulator.wait_for(lambda: simulator.running() == 0)
        await stack.until_ready()

        assert (status, answer["error"]["code"]) == (503, "router_unavailable")
        assert headers["retry-after"] == "1"
        assert simulator.count() == 3


async def test_without_a_processor_the_client_reads_openais_shape() -> None:
    """While no processor answers, a request is a 503 with Retry-After, and what went wrong stays inside."""
    async with run_stack(quick_models()) as stack:
        await stack.processor.stop(signal.SIGKILL)

        async with stack.session.post(
            f"{stack.base_url}/chat/completions", json=chat()
        ) as response:
            text = await response.text()

        assert response.status == 503
        assert response.headers["content-type"] == "application/json"
        assert response.headers["retry-after"] == "1"
        assert '"router_unavailable"' in text
        assert ".sock" not in text


async def test_a_restart_fails_no_request() -> None:
    """Requests that arrive while the processor restarts wait for the new one, and are answered."""
    simulator = quick_models()
    async with run_stack(simulator) as stack:
        statuses: list[int] = []

        async def client() -> None:
            for _ in range(30):
                async with stack.session.post(
                    f"{stack.base_url}/chat/completions", json=chat()
                ) as response:
                    await response.read()
                    statuses.append(response.status)
                await asyncio.sleep(0.02)

        async def restart() -> None:
            await asyncio.sleep(0.1)
            await stack.processor.stop(signal.SIGTERM)
            await stack.processor.start()

        await asyncio.gather(client(), client(), restart())

    assert set(statuses) == {200}


@pytest.mark.parametrize("text", [ROUTED, TEAM], ids=["routed", "team"])
async def test_models_that_are_not_there_could_not_be_reached(text: str) -> None:
    """Nobody has given an answer that is no good: it is the operator who has something to mend."""
    nobody = Address("127.0.0.1", free_port())
    async with (
        run_stack(quick_models(), models_at=nobody) as stack,
        stack.session.post(f"{stack.base_url}/chat/completions", json=chat(text)) as response,
    ):
        status, answer = response.status, await response.json()
    assert (status, answer["error"]["code"]) == (502, "upstream_failed")
    assert "could not be reached" in answer["error"]["message"]
