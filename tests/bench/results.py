"""What a run of the benchmark leaves behind: every number of every round, and what it was measured on."""

import importlib.metadata
import os
import platform
import re
import shutil
import sysconfig
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from tests.bench.echo import ROOT
from tests.bench.processes import BenchFailed, output_of
from tests.bench.sample import Numbers, Spread
from tests.fakes.envoy import envoy_path

FORMAT = 1


class Measured(msgspec.Struct):
    """One case: for each side the numbers of each round, and figures made of several sides of one round."""

    name: str
    sides: dict[str, list[Numbers]] = {}
    figures: dict[str, list[float | None]] = {}
    missing: str | None = None
    """Why there is nothing to measure."""
    failed: str | None = None

    def spread(self, side: str, number: str) -> Spread | None:
        """Over the rounds; None if this side has no such number."""
        values = [round_[number] for round_ in self.sides.get(side, []) if number in round_]
        return Spread.of(values) if values else None

    def figure(self, name: str) -> Spread | None:
        values = [value for value in self.figures.get(name, []) if value is not None]
        return Spread.of(values) if values else None

    def with_summary(self) -> dict[str, Any]:
        """The case as it is written: medians and extremes beside the rounds they were made from."""
        sides = {
            side: {number: self.spread(side, number) for number in rounds[0]}
            for side, rounds in self.sides.items()
            if rounds
        }
        figures = {name: self.figure(name) for name in self.figures}
        made: dict[str, Any] = msgspec.to_builtins(self)
        return {**made, "summary": msgspec.to_builtins({"sides": sides, "figures": figures})}


class Results(msgspec.Struct):
    """A whole run."""

    format: int
    started: str
    plan: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    cases: list[Measured]
    seconds: float = 0.0

    def case(self, name: str) -> Measured | None:
        return next((case for case in self.cases if case.name == name), None)


def write(results: Results, path: Path) -> None:
    made = msgspec.to_builtins(results)
    made["cases"] = [case.with_summary() for case in results.cases]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")


def read(path: Path) -> Results:
    """Raises BenchFailed if the file is no such result."""
    try:
        results = msgspec.json.decode(path.read_bytes(), type=Results)
    except (OSError, msgspec.DecodeError) as error:
        raise BenchFailed(f"{path}: {error}") from None
    if results.format != FORMAT:
        raise BenchFailed(f"{path}: format {results.format}, not {FORMAT}")
    return results


async def begin(plan: dict[str, Any]) -> Results:
    """Empty results, with the machine as it is before any load."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Results(FORMAT, now, plan, _machine(), await _versions(), [])


def _machine() -> dict[str, Any]:
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory[1]) / 2**20, 1) if memory else None,
        "kernel": platform.release(),
        "load_average": os.getloadavg(),
    }


async def _versions() -> dict[str, str]:
    packages = ("envoy-looper", "grpcio", "aiohttp", "pydantic", "msgspec", "protobuf")
    return {
        "commit": await _git("describe", "--always", "--dirty", "--abbrev=12"),
        "python": _interpreter(),
        **{name: importlib.metadata.version(name) for name in packages},
        "envoy": _first(r"(\d+\.\d+\.\d+)", await output_of(envoy_path(), "--version")),
        "h2load": _first(r"(\S+)$", await output_of("h2load", "--version")),
        "grpc++": (await output_of("pkg-config", "--modversion", "grpc++")).strip(),
    }


def _interpreter() -> str:
    """Which one, and whether it was built with what its own profile says."""
    built = str(sysconfig.get_config_var("CONFIG_ARGS") or "")
    how = "" if "--enable-optimizations" in built else ", without PGO"
    return f"{platform.python_implementation()} {platform.python_version()}{how}"


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text.strip())
    return found[1] if found else "unknown"


async def _git(*arguments: str) -> str:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        return "unknown"
    return (await output_of("git", "-C", str(ROOT), *arguments)).strip()
