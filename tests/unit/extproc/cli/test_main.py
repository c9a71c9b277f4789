"""Commands are found by their names, and nothing is imported to say which there are."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from extproc.cli.main import COMMANDS, main

HEAVY = ("aiohttp", "grpc", "pydantic", "msgspec", "rich", "structlog", "yaml")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_what_the_list_says(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.name == name
    assert (command.help or "").startswith(COMMANDS[name].removesuffix("."))


def test_no_other_command_is_found() -> None:
    result = CliRunner().invoke(main, ["serv"])
    assert result.exit_code == 2
    assert "No such command 'serv'" in result.output


@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_what_is_told_of_the_command_line_imports_nothing_heavy(argument: str) -> None:
    program = (
        "import sys\nfrom extproc.cli.main import main\n"
        f"main([{argument!r}], standalone_mode=False)\n"
        f"sys.exit(', '.join(set({HEAVY!r}) & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


REMOTE = ("aiohttp", "grpc", "redis", "cryptography", "envoy_data_plane", "prometheus_client")


@pytest.mark.parametrize("command", [["check", "examples/demo.yaml"], ["schema"], ["recipes"]])
def test_what_asks_nobody_imports_nothing_to_ask_with(command: list[str]) -> None:
    program = (
        "import sys\nfrom extproc.cli.main import main\n"
        f"main({command!r}, standalone_mode=False)\n"
        f"sys.exit(', '.join(set({REMOTE!r}) & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
