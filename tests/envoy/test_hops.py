"""A model's URL that leads back to our own ingress: the request that comes back is refused, and asks nobody again."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from looper.simulate.server import SimulatedModel, Simulator
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

NAMES = ("plain", "back")


def leading_back(folder: Path) -> None:
    """Have the cluster of `back` lead to the ingress, as its URL would."""
    bootstrap = yaml.safe_load((folder / "bootstrap.yaml").read_text())
    (ingress,) = (
        each["address"]["socket_address"]
        for each in bootstrap["static_resources"]["listeners"]
        if each["name"] == "ingress"
    )
    path = folder / "cds.yaml"
    clusters = yaml.safe_load(path.read_text())
    for cluster in clusters["resources"]:
        if cluster["name"] == "model:back":
            (locality,) = cluster["load_assignment"]["endpoints"]
            locality["lb_endpoints"][0]["endpoint"]["address"]["socket_address"] = ingress
    path.write_text(yaml.safe_dump(clusters))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running() -> AsyncIterator[Stack]:
    simulator = Simulator(SimulatedModel(name=name) for name in NAMES)
    panel = {"type": "ratings", "models": ["back", "plain"], "aggregate": "vote"}
    change: dict[str, Any] = {
        "models": [
            {"name": "plain", "url": ""},
            {"name": "back", "url": "", "upstream_model": "routed", "retry": {"attempts": 2}},
        ],
        "recipes": {
            "routed": {
                "decisions": [{"name": "one", "algorithm": {"type": "single", "model": "back"}}]
            },
            "team": {"decisions": [{"name": "all", "algorithm": panel}]},
        },
        "entrypoints": {"routed": "routed", "team": "team"},
    }
    async with run_stack(simulator, change, edit=leading_back) as stack:
        yield stack


async def ask(stack: Stack, model: str, **headers: str) -> tuple[int, dict[str, Any]]:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    url = f"{stack.base_url}/chat/completions"
    async with stack.session.post(url, json=body, headers=headers) as response:
        return response.status, json.loads(await response.read())


async def test_a_routed_request_that_comes_back_is_refused(running: Stack) -> None:
    """With the error that says why; it went around once, and reached no model."""
    running.simulator.reset()
    status, answer = await ask(running, "routed")

    assert (status, answer["error"]["code"]) == (508, "loop_detected")
    assert running.simulator.count() == 0


async def test_a_team_loses_the_member_that_leads_back(running: Stack) -> None:
    """And goes on with the others: each was asked once."""
    running.simulator.reset()
    status, _ = await ask(running, "team")

    assert status == 200
    assert [call.model for call in running.simulator.calls] == ["plain"]


async def test_other_marks_pass_and_one_of_ours_harms_who_forged_it(running: Stack) -> None:
    """Chains of deployments are no loops; who says that a request was here before is believed."""
    running.simulator.reset()
    status, _ = await ask(running, "team", **{"looper-hop": "0123456789abcdef"})
    (call,) = running.simulator.calls
    passed = call.headers["looper-hop"].split(",")

    assert status == 200
    assert passed[0] == "0123456789abcdef"
    assert len(passed) == 2
    status, answer = await ask(running, "team", **{"looper-hop": passed[1]})
    assert (status, answer["error"]["code"]) == (508, "loop_detected")
