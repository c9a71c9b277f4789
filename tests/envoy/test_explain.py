"""Explanations beside live traffic, by one processor."""

import aiohttp
import pytest

from tests.envoy.requests import ROUTED, TEAM, chat
from tests.fakes.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("text", [ROUTED, TEAM], ids=["routed", "team"])
async def test_an_explanation_names_the_decision_that_answers(stack: Stack, text: str) -> None:
    """What the admin port says of a request is what becomes of it; and the prompt is in no log."""
    body = chat(f"{text} s3cr3t-word")
    admin = aiohttp.UnixConnector(str(stack.processor.admin))
    async with (
        aiohttp.ClientSession(connector=admin) as session,
        session.post("http://admin/explain", json=body) as response,
    ):
        explained = await response.json()
    async with stack.session.post(f"{stack.base_url}/chat/completions", json=body) as response:
        assert response.status == 200
        assert response.headers["x-looper-decision"] == explained["action"]["decision"]
        assert response.headers["x-looper-algorithm"] == explained["action"]["algorithm"]
    assert "s3cr3t" not in stack.processor.log.read_text()
