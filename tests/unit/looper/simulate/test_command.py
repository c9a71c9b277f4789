"""`looper simulate` where it cannot listen."""

import socket

import pytest
from click.testing import CliRunner

from looper.simulate.server import main


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "70000"],
        ["--port", "x"],
        ["--host", "nonsense..x"],
        ["--host", "256.1.1.1"],
        ["--port", "taken"],
    ],
)
def test_it_says_so_without_a_traceback(arguments: list[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(main, [each.replace("taken", port) for each in arguments])
    assert done.exit_code in (1, 2)
    assert isinstance(done.exception, SystemExit)
    assert "Error: " in done.output
