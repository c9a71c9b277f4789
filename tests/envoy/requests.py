"""What the tests of this tier send."""

import json
from typing import Any

from tests.fakes.stack import Stack

ROUTED = "What is the capital of Canada?"
TEAM = "Think step by step: What is the time complexity of binary search?"


def chat(text: str = ROUTED, **members: Any) -> dict[str, Any]:
    """A chat request to the demo's public model."""
    return {"model": "looper/auto", "messages": [{"role": "user", "content": text}], **members}


def body(text: str = ROUTED, **members: Any) -> bytes:
    return json.dumps(chat(text, **members)).encode()


async def ask(stack: Stack, **members: Any) -> tuple[int, Any, Any]:
    """Status, headers and JSON of an unstreamed answer."""
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json=chat(TEAM, **members)
    ) as response:
        return response.status, response.headers, await response.json()
