"""Clients that take longer to install, and coding agents. `make test-clients` installs them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.using import run, use
from tests.fakes.needs import lacking
from tests.fakes.stack import Stack

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

HERE = Path(__file__).parent
CLIENTS = HERE.parents[2] / ".clients"
NODE = CLIENTS / "node"
PYTHON = CLIENTS / "python" / "bin" / "python"
NO_CATALOGUE = frozenset({"list", "retrieve"})


def installed(name: str) -> None:
    if not (CLIENTS / f"{name}.ready").exists():
        lacking(f"the clients for {name} are not installed: make test-clients")


@pytest.mark.parametrize(
    ("program", "lacks"),
    [
        pytest.param("litellm_client.py", frozenset({"retrieve"}), id="litellm"),
        pytest.param("langchain_client.py", NO_CATALOGUE, id="langchain"),
        pytest.param("llama_index_client.py", NO_CATALOGUE, id="llama-index"),
        pytest.param("instructor_client.py", NO_CATALOGUE | {"whole", "leave"}, id="instructor"),
    ],
)
async def test_clients_for_python(
    programs_stack: Stack, program: str, lacks: frozenset[str]
) -> None:
    """What each of them can do."""
    installed("python")
    await use(programs_stack, (str(PYTHON), str(HERE / program)), lacks=lacks)


@pytest.mark.parametrize(
    ("program", "lacks"),
    [
        pytest.param("openai_node.mjs", frozenset(), id="openai"),
        pytest.param("vercel_ai.mjs", NO_CATALOGUE, id="vercel-ai"),
    ],
)
async def test_clients_for_node(programs_stack: Stack, program: str, lacks: frozenset[str]) -> None:
    """What each of them can do."""
    installed("node")
    await use(programs_stack, ("node", str(NODE / program)), lacks=lacks)


async def test_go_openai(programs_stack: Stack) -> None:
    """All of it."""
    installed("go_openai")
    await use(programs_stack, (str(CLIENTS / "go-openai"),), lacks=frozenset())


SECRET = "The word is xylophone."


def works(tool: str, argument: str, path: Path) -> Any:
    """A model that reads a file with the agent's own tool, and then says what is in it."""

    def answer(request: dict[str, Any]) -> Any:
        last = request["messages"][-1]
        offered = [each["function"]["name"] for each in request.get("tools") or ()]
        if last["role"] == "tool":
            return f"Done. {SECRET}" if "xylophone" in json.dumps(last) else "It was not there."
        if tool not in offered:
            return "A title"
        arguments = json.dumps({argument: str(path)})
        function = {"name": tool, "arguments": arguments}
        return {
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        }

    return answer


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "note.txt").write_text(SECRET)
    return folder


async def test_qwen_code(programs_stack: Stack, project: Path, tmp_path: Path) -> None:
    """The agent reads a file and says what was made of it."""
    installed("node")
    stack = programs_stack
    stack.simulator.reset()
    stack.simulator.script("agent", *[works("read_file", "file_path", project / "note.txt")] * 20)
    environment = {
        "HOME": str(tmp_path),
        "OPENAI_API_KEY": "unused",
        "OPENAI_BASE_URL": stack.base_url,
        "OPENAI_MODEL": "looper/agent",
    }

    said = await run(
        *(str(NODE / "node_modules/.bin/qwen"), "--auth-type", "openai", "--yolo"),
        *("-p", "Read note.txt, and say what the word is."),
        folder=project,
        environment=environment,
    )

    assert SECRET in said
    assert {call.outcome for call in stack.simulator.calls} == {"finished"}


async def test_opencode(programs_stack: Stack, project: Path, tmp_path: Path) -> None:
    """The same, of the agent that comes as a binary."""
    installed("node")
    stack = programs_stack
    stack.simulator.reset()
    stack.simulator.script("agent", *[works("read", "filePath", project / "note.txt")] * 20)
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": stack.base_url, "apiKey": "unused"},
        "models": {"looper/agent": {"tool_call": True}},
    }
    settings = {"provider": {"looper": provider}, "autoupdate": False, "share": "disabled"}
    (project / "opencode.json").write_text(json.dumps(settings))
    said = await run(
        *(str(NODE / "node_modules/.bin/opencode"), "run", "--model", "looper/looper/agent"),
        "Read note.txt, and say what the word is.",
        folder=project,
        environment={"HOME": str(tmp_path), "OPENCODE_DISABLE_MODELS_FETCH": "1"},
    )

    assert SECRET in said
