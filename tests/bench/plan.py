"""How much is measured: the whole benchmark, or just enough of each case to see that it works."""

from dataclasses import dataclass
from pathlib import Path

from tests.bench.rig import Rig
from tests.bench.sample import Numbers

CONNECTIONS = (1, 8, 32, 128)


@dataclass(frozen=True, slots=True)
class Plan:
    """The extent of a run; times in seconds."""

    short: bool
    rounds: int
    seconds: float
    """Of one slice of load."""
    requests: int | None
    """In place of `seconds`, so many requests in a slice."""
    fusion_runs: tuple[int, ...] = (1, 10, 100, 500)
    open_runs: int = 1000
    slow_seconds: float = 25.0
    """What the panel of an open run waits: long enough to open all and to measure beside them."""
    starts: int = 7
    litellm: Path | None = None
    """A LiteLLM proxy's virtual environment."""
    peer: str | None = None
    """The command of another processor."""


FULL = Plan(short=False, rounds=5, seconds=2.0, requests=None)
SHORT = Plan(
    short=True, rounds=1, seconds=0.1, requests=10, open_runs=40, slow_seconds=3.0, starts=1
)


def in_order(sides: tuple[str, ...], round_: int) -> tuple[str, ...]:
    """The sides of a round. Each round begins with another one, so that none is always after the same."""
    at = round_ % len(sides)
    return sides[at:] + sides[:at]


Rounds = dict[str, list[Numbers]]


def processes(rig: Rig, side: str) -> dict[str, int]:
    """Whose use of the machine belongs to a side: pids by name."""
    envoy = {"envoy": rig.envoy.pid, "models": rig.backend.envoy.pid}
    match side:
        case "none":
            return envoy
        case "echo" | "peer":
            return {**envoy, "processor": rig.others["peer" if side == "peer" else "echo"]}
        case _:
            return {**envoy, "processor": rig.processor}
