"""Envoy's admin interface: a socket of its owner, which commands and a pod's hook ask; or a port, if wanted."""

import asyncio
import json
import stat
import sys
from pathlib import Path

import pytest

from tests.envoy.conftest import quick_models
from tests.fakes.envoy import free_port
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def looper(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "extproc", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, output.decode()


async def ready(stack: Stack) -> int:
    async with stack.session.get(f"{stack.stats}/ready") as response:
        return response.status


async def closing(stack: Stack) -> bool:
    """Whether an answer asks its client to connect anew."""
    async with stack.session.get(f"{stack.base_url}/models") as response:
        assert response.status == 200
        return response.headers.get("connection") == "close"


async def test_nobody_else_may_open_it(stack: Stack) -> None:
    """As the shipped files have it; readiness is read there by way of the statistics' listener."""
    socket = Path(stack.envoy.admin.address)
    assert stat.S_ISSOCK(socket.stat().st_mode)
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    assert await ready(stack) == 200


@pytest.mark.parametrize("port", [False, True])
async def test_doctor_and_the_hook_find_it(port: bool) -> None:
    """Where the configuration says. The hook has every answer ask its client to leave, and cuts none."""
    change = {"envoy": {"admin": f"127.0.0.1:{free_port()}"}} if port else {}
    async with run_stack(quick_models(), change) as stack:
        config = str(stack.processor.config)
        _, text = await looper("doctor", "-c", config, "--only", "envoy", "--json")
        found = {(each["about"], each["check"]) for each in json.loads(text)["findings"]}
        assert ("envoy bootstrap", "generation") in found
        assert not await closing(stack)

        status, text = await looper("drain", config)
        assert (status, "draining" in text) == (0, True)
        assert await closing(stack)
        assert await ready(stack) == 503


async def test_nobody_there_is_said(tmp_path: Path) -> None:
    """A hook that finds nobody fails, in one line."""
    status, text = await looper(
        "drain", "examples/demo.yaml", "--admin", f"unix:{tmp_path}/none.sock"
    )
    assert (status, len(text.splitlines())) == (1, 1)
