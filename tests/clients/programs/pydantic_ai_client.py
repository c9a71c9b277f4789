"""Pydantic AI."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.programs.told import QUESTION, RESULT, TOOL_QUESTION, base_url, refused, tell


class Place(BaseModel):
    answer: str


def of(name: str) -> OpenAIChatModel:
    return OpenAIChatModel(name, provider=OpenAIProvider(base_url=base_url(), api_key="unused"))


def whole(model: str) -> str:
    return Agent(of(model)).run_sync(QUESTION).output


async def _streamed(model: str, most: int) -> str:
    async with Agent(of(model)).run_stream(QUESTION) as result:
        pieces = []
        async for piece in result.stream_text(delta=True, debounce_by=None):
            pieces.append(piece)
            if len(pieces) == most:
                break
    return "".join(pieces)


def run(ask: Coroutine[Any, Any, str]) -> str:
    return asyncio.run(ask)


def tools(model: str) -> str:
    agent = Agent(of(model))

    @agent.tool_plain
    def lookup(q: str) -> str:
        """Looks it up."""
        return RESULT

    return agent.run_sync(TOOL_QUESTION).output


def structured(model: str) -> str:
    agent = Agent(of(model), output_type=NativeOutput(Place))
    return agent.run_sync(QUESTION).output.model_dump_json()


if __name__ == "__main__":
    tell(
        lambda model: bool(run(_streamed(model, 1))),
        whole=whole,
        streamed=lambda model: run(_streamed(model, -1)),
        tools=tools,
        structured=structured,
        error=lambda model: refused(lambda: whole("nobody")),
    )
