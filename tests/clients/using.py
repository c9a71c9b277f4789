"""Runs a program that uses a client, and says what has to be true of what it was told."""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.fakes.stack import Stack

PROGRAMS = Path(__file__).with_name("programs")
STEPS = frozenset({"list", "retrieve", "whole", "streamed", "tools", "structured", "error"})
MODELS = ("looper/one", "looper/team")
SLOW = "looper/slow"
_SECONDS = 50
_ROOT = Path(__file__).parents[2]


async def run(
    *command: str, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """What a program prints. It is stopped if it takes longer than any client may."""
    place = (
        {} if folder is None else {"PWD": str(folder)}
    )  # some believe it more than where they are
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(_ROOT), **place, **(environment or {})},  # noqa: TID251  # what the program is to find
    )
    try:
        async with asyncio.timeout(_SECONDS):
            said, complained = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, (said.decode()[-2_000:], complained.decode()[-4_000:])
    return said.decode()


async def use(stack: Stack, command: Sequence[str], *, lacks: frozenset[str]) -> None:
    """All steps that a client has come to what they should, with one model as with a team; and it may leave."""
    stack.simulator.reset()
    stack.simulator.script("slow", "Ottawa, " * 500)
    told: dict[str, dict[str, Any]] = json.loads(
        (await run(*command, stack.base_url)).splitlines()[-1]
    )
    for model in MODELS:
        assert told[model].keys() == STEPS - lacks
        for step, said in told[model].items():
            assert _wanted(step, model) in json.dumps(said), (model, step, said)
    if "leave" in lacks:
        return
    assert told[SLOW] == {"leave": True}
    await stack.simulator.wait_for(lambda: stack.simulator.running() == 0)
    (last,) = [call for call in stack.simulator.calls if call.model == "slow"]
    assert last.outcome == "disconnected"


def _wanted(step: str, model: str) -> str:
    match step:
        case "list" | "retrieve":
            return model
        case "error":
            return "does not exist"
        case "tools":
            return "says the tool"
        case _:
            return "Ottawa"
