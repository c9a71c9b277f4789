"""Lines of the log, as whoever collects them reads them."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from extproc.process import telemetry


def said(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def test_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    """One JSON object: what happened, how grave it is, when, and what it was about; below the level there is none."""
    telemetry.set_up("info", for_good=False)
    log = structlog.get_logger()
    with structlog.contextvars.bound_contextvars(signal="hard"):
        log.warning("failed", number=1, path=("a", "b"), odd={1j})
    log.debug("nothing")
    (line,) = said(capfd)
    when = datetime.fromisoformat(line.pop("time"))
    assert abs((datetime.now(UTC) - when).total_seconds()) < 60
    assert line == {
        "event": "failed",
        "level": "warning",
        "signal": "hard",
        "number": 1,
        "path": ["a", "b"],
        "odd": ["1j"],
    }


def test_an_exception_without_its_text(capfd: pytest.CaptureFixture[str]) -> None:
    """Its text may hold a prompt."""
    telemetry.set_up("info", for_good=False)
    try:
        raise ValueError("secret")
    except ValueError:
        structlog.get_logger().exception("crashed")
    (line,) = said(capfd)
    assert (line["level"], line["exception"]) == ("error", "ValueError")
    assert line["frames"][0].endswith("test_an_exception_without_its_text")
    assert "secret" not in json.dumps(line)
