"""`looper up`, as a newcomer runs it."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import yaml

from looper.simulate.server import Simulator
from tests.fakes.envoy import free_port
from tests.fakes.stack import DEMO

pytestmark = pytest.mark.asyncio(loop_scope="session")


@asynccontextmanager
async def up(*arguments: str, columns: str = "120") -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "extproc", "up", "--port", str(free_port()), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "COLUMNS": columns},  # noqa: TID251  # what a shell hands on
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def printed(process: asyncio.subprocess.Process, end: str) -> str:
    """What it prints, up to a line with `end` in it."""
    assert process.stdout is not None
    text = ""
    async with asyncio.timeout(40):
        while line := (await process.stdout.readline()).decode():
            text += line
            if end in line:
                return text
    raise AssertionError(f"it ended without a word of {end!r}:\n{text}")


def children_of(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()]


async def until_gone(pids: list[int]) -> None:
    async with asyncio.timeout(10):
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("columns", ["80", "120"])
async def test_once_shows_the_tour_and_ends_well(columns: str) -> None:
    """`looper up --once` sends three requests to simulated models and ends with 0, as every reply was right.

    It fits, begins with where the console is, and ends with what to try next.
    """
    async with up("--once", columns=columns) as process:
        assert process.stdout is not None
        text = (await process.stdout.read()).decode()
        assert await process.wait() == 0, text

    assert "curl http://127.0.0.1:" in text
    assert text.count("right") == 3
    assert "wrong" not in text
    for word in ("default", "panel", "fusion", "small", "judge", "first token"):
        assert word in text
    assert text.startswith("Console    http://127.0.0.1:")
    table = [line for line in text.splitlines() if line.startswith(("│", "┃", "┏", "└"))]
    assert max(map(len, table)) == int(columns)
    for next_one in ("looper top", "looper runs", "looper explain"):
        assert next_one in text


async def test_once_fails_when_a_reply_is_wrong(tmp_path: Path) -> None:
    """With models that cannot be reached the tour says so, and the status is 1."""
    config = yaml.safe_load(DEMO.read_text())
    for model in config["models"]:
        model["url"] = f"http://127.0.0.1:{free_port()}/v1"
    path = tmp_path / "looper.yaml"
    path.write_text(yaml.safe_dump(config))

    async with up("--once", "-c", str(path)) as process:
        assert process.stdout is not None
        text = (await process.stdout.read()).decode()
        assert await process.wait() == 1, text

    assert "wrong (502 upstream_failed)" in text


async def test_edits_of_the_file_are_followed(tmp_path: Path) -> None:
    """A good one is put to work while everything runs; of a bad one the problems are told, and nothing changes."""
    path = tmp_path / "looper.yaml"
    config = yaml.safe_load(DEMO.read_text())
    async with Simulator().serve() as models:
        for model in config["models"]:
            model["url"] = f"{models.url}/v1"
        path.write_text(yaml.safe_dump(config))
        async with up("-c", str(path)) as process, aiohttp.ClientSession() as session:
            text = await printed(process, "edits of")
            found = re.search(r"OpenAI API at (\S+)\)", text)
            assert found is not None

            async def names() -> set[str]:
                async with session.get(f"{found[1]}/models") as response:
                    return {each["id"] for each in (await response.json())["data"]}

            path.write_text("version: 1\nnonsense: here\n")
            assert "nonsense" in await printed(process, "nonsense")
            config["entrypoints"]["looper/new"] = next(iter(config["recipes"]))
            path.write_text(yaml.safe_dump(config))
            await printed(process, "is at work as it is now")
            async with asyncio.timeout(20):
                while "looper/new" not in await names():
                    await asyncio.sleep(0.1)


async def test_a_key_that_is_not_set_is_named(tmp_path: Path) -> None:
    """A configuration whose key is not in the environment does not start, and says which one is missing."""
    config = yaml.safe_load(DEMO.read_text())
    config["models"][0]["api_key"] = {"env": "NO_SUCH_KEY"}
    path = tmp_path / "looper.yaml"
    path.write_text(yaml.safe_dump(config))

    async with up("--once", "-c", str(path)) as process:
        assert process.stdout is not None
        text = (await process.stdout.read()).decode()
        assert await process.wait() == 1

    assert "NO_SUCH_KEY" in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_nothing_outlives_it(number: signal.Signals) -> None:
    """However it ends, Envoy and the processor end with it."""
    async with up() as process:
        await printed(process, "curl http:")
        children = children_of(process.pid)
        assert len(children) == 2

        process.send_signal(number)
        await process.wait()
        await until_gone(children)
