"""The configuration that the overlay for several pods ships, at work: two processors, Redis over TLS, a real Envoy."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from looper.simulate.server import SimulatedModel, Simulator
from tests.envoy.test_tools import TOOL, answered, ask, billed, calls_of
from tests.envoy.test_two_processors import only
from tests.fakes.redis import RedisServer, run_redis_tls
from tests.fakes.stack import ROOT, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

SHIPPED = ROOT / "deploy/kustomize/overlays/redis/config/looper.yaml"
PASSWORD = "password-of-a-test"


def shipped(server: RedisServer, folder: Path) -> dict[str, Any]:
    """With what a cluster would resolve, mount or route in the places of this machine."""
    config: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())
    key, password = folder / "key", folder / "redis-password"
    key.write_text("k" * 64)
    password.write_text(PASSWORD)
    config["state"] |= {
        "url": server.url,
        "ca": str(folder / "ca.pem"),
        "password": {"file": str(password)},
        "keys": [{"file": str(key)}],
    }
    return config


async def test_each_turn_in_another_pod() -> None:
    """A run begins in one processor, goes on in another and ends in the first; what was billed is what is reported."""
    models = [SimulatedModel(name=name, skill=1.0) for name in ("qwen3-8b", "qwen3-32b")]
    question = {"role": "user", "content": "Use lookup. What is the capital of Canada?"}
    body = {"model": "looper/auto", "messages": [question], "tools": [TOOL]}
    with tempfile.TemporaryDirectory(prefix="lo-", dir="/tmp") as path:
        async with run_redis_tls(Path(path), password=PASSWORD) as server:
            config = shipped(server, Path(path))
            async with run_stack(Simulator(models), config, processors=2) as stack:
                usages = []
                for turn in range(3):
                    await only(stack, stack.processors[turn % 2])
                    status, headers, answer = await ask(stack, body)
                    assert (status, headers["x-looper-decision"]) == (200, "agents")
                    usages.append(answer["usage"]["total_tokens"])
                    body = answered(body, answer)
                assert calls_of(answer) == []
                assert answer["choices"][0]["message"]["content"] == "The tools say: result 0"
                assert (headers["x-looper-outcome"], sum(usages)) == ("ok", billed(stack))
