"""The `llm` command, as it is used in a shell."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.clients.programs.told import (
    MODELS,
    QUESTION,
    RESULT,
    SCHEMA,
    SLOW,
    TOOL_QUESTION,
    base_url,
    tell,
)

FUNCTION = f'def lookup(q: str) -> str:\n    "Looks it up."\n    return {RESULT!r}\n'


def command(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("llm")), *arguments]


def llm(*arguments: str) -> str:
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    return (done.stdout + done.stderr).strip()


def leave(model: str) -> bool:
    process = subprocess.Popen(
        command("-m", model, "--key", "unused", "--no-log", QUESTION),
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    read = process.stdout.read(1)
    process.kill()
    process.wait()
    return bool(read)


def main() -> None:
    def ask(model: str, *arguments: str) -> str:
        return llm("-m", model, "--key", "unused", "--no-log", *arguments)

    tell(
        leave,
        whole=lambda model: ask(model, "--no-stream", QUESTION),
        streamed=lambda model: ask(model, QUESTION),
        tools=lambda model: ask(model, "--functions", FUNCTION, TOOL_QUESTION),
        structured=lambda model: ask(
            model, "--no-stream", "--schema", json.dumps(SCHEMA), QUESTION
        ),
        error=lambda model: ask("nobody", QUESTION),
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LLM_USER_PATH"] = folder  # noqa: TID251  # where it keeps its settings
        able = {"supports_tools": True, "supports_schema": True}
        known = [
            {"model_id": name, "model_name": name, "api_base": base_url(), **able}
            for name in (*MODELS, SLOW, "nobody")
        ]  # fmt: skip
        (Path(folder) / "extra-openai-models.yaml").write_text(json.dumps(known))
        main()
