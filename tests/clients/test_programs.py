"""Clients as people use them, each a program of its own: those that pip installs in a few seconds, and curl."""

import sys

import pytest

from tests.clients.using import PROGRAMS, use
from tests.fakes.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")
NO_CATALOGUE = frozenset({"list", "retrieve"})


@pytest.mark.parametrize(
    ("program", "lacks"),
    [
        pytest.param("openai_python.py", frozenset(), id="openai"),
        pytest.param("pydantic_ai_client.py", NO_CATALOGUE, id="pydantic-ai"),
        pytest.param("llm_command.py", NO_CATALOGUE, id="llm"),
    ],
)
async def test_clients_for_python(
    programs_stack: Stack, program: str, lacks: frozenset[str]
) -> None:
    """Whole, streamed, tools, structured, errors, and a client that leaves, before one model and a team."""
    await use(programs_stack, (sys.executable, str(PROGRAMS / program)), lacks=lacks)


async def test_curl(programs_stack: Stack) -> None:
    """The same, in a shell."""
    await use(programs_stack, (str(PROGRAMS / "curl.sh"),), lacks=frozenset())
