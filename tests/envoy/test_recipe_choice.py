"""Which recipe a request gets, through a real Envoy: by the name that the client uses, or by Envoy's own route."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from tests.envoy.conftest import quick_models
from tests.envoy.requests import chat
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

README = Path(__file__).parents[2] / "envoy" / "README.md"


def single(model: str) -> dict[str, Any]:
    return {"decisions": [{"name": model, "algorithm": {"type": "single", "model": model}}]}


def for_teams(folder: Path) -> None:
    """Behind the models' routes, two more, as the README shows: one to a recipe, one to a recipe that is gone."""
    path = folder / "rds-ingress.yaml"
    file = yaml.safe_load(path.read_text())
    routes = file["resources"][0]["virtual_hosts"][0]["routes"]
    block = re.search(r"^```yaml\n(- name: \(careful\).*?)^```$", README.read_text(), re.M | re.S)
    assert block is not None
    gone = block[1].replace("careful", "gone").replace("research", "gone")
    behind_models = [each["name"] for each in routes].index("(chat/completions)")
    routes[behind_models:behind_models] = [*yaml.safe_load(block[1]), *yaml.safe_load(gone)]
    path.write_text(yaml.safe_dump(file, sort_keys=False))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def several() -> AsyncIterator[Stack]:
    change = {
        "recipes": {"cheap": single("small"), "other": single("other"), "careful": single("large")},
        "entrypoints": {"looper/auto": "cheap", "looper/other": "other"},
    }
    async with run_stack(quick_models(), change, edit=for_teams) as stack:
        yield stack


async def called(stack: Stack, model: str, **headers: str) -> tuple[int, list[str]]:
    """The status, and the backends that were called."""
    stack.simulator.reset()
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json={**chat(), "model": model}, headers=headers
    ) as response:
        await response.read()
        return response.status, [call.model for call in stack.simulator.calls]


@pytest.mark.parametrize(
    ("model", "expected"), [("looper/auto", "small"), ("looper/other", "other")]
)
async def test_each_public_name_has_a_recipe(several: Stack, model: str, expected: str) -> None:
    """Several entrypoints lead to several recipes."""
    assert await called(several, model) == (200, [expected])


@pytest.mark.parametrize("model", ["looper/auto", "looper/other"])
async def test_a_route_chooses_the_recipe(several: Stack, model: str) -> None:
    """`ExtProcPerRoute` overrides the entrypoint's recipe, whatever name the client uses."""
    assert await called(several, model, **{"x-team": "research"}) == (200, ["large"])


async def test_other_routes_are_not_touched_by_that(several: Stack) -> None:
    """A header that no route asks for chooses nothing."""
    assert await called(several, "looper/auto", **{"x-team": "nobody"}) == (200, ["small"])


async def test_a_client_cannot_choose_the_recipe(several: Stack) -> None:
    """The header of that name is a client's own word, and removed."""
    assert await called(several, "looper/auto", **{"x-looper-recipe": "careful"}) == (
        200,
        ["small"],
    )


async def test_a_route_does_not_make_names(several: Stack) -> None:
    """A name that is not public stays unknown on every route."""
    assert await called(several, "large", **{"x-team": "research"}) == (404, [])


async def test_a_route_that_names_an_unknown_recipe_reaches_nobody(several: Stack) -> None:
    """Another recipe in its place could let through what it was there to stop."""
    status, models = await called(several, "looper/auto", **{"x-team": "gone"})
    assert (status, models) == (503, [])
