"""Processes of the benchmark: started and ended by pid, and what the kernel says they used."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_STOP_SECONDS = 5
_RESET_PEAK = "5"


class BenchFailed(Exception):
    """The benchmark cannot go on; the text says why."""


@asynccontextmanager
async def running(
    command: Sequence[str], log: Path, *, stdout: int | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Keep a process running while the context is open."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=output if stdout is None else stdout, stderr=output
        )
    try:
        yield process
    finally:
        await asyncio.shield(_end(process))


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


async def output_of(*command: str, timeout: float = 600) -> str:
    """What a command prints on its standard output. Raises BenchFailed if it fails."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(timeout):
            out, err = await process.communicate()
    finally:
        await asyncio.shield(_end(process))
    if process.returncode:
        said = b"\n".join((out + err).splitlines()[-15:]).decode(errors="replace")
        raise BenchFailed(f"{' '.join(command[:4])} … ended with {process.returncode}:\n{said}")
    return out.decode()


async def until_exists(path: Path, process: asyncio.subprocess.Process, log: Path) -> None:
    """Wait for a socket. Raises BenchFailed if the process ends instead."""
    async with asyncio.timeout(30):
        while not is_there(path):
            if process.returncode is not None:
                raise BenchFailed(f"{log.stem} ended with {process.returncode}:\n{tail(log)}")
            await asyncio.sleep(0.002)


def is_there(path: Path) -> bool:
    return path.exists()


def tail(log: Path) -> str:
    """The end of what a process said."""
    return log.read_text(errors="replace")[-2000:]


@dataclass(frozen=True, slots=True)
class Memory:
    """In MiB; `peak` is since the last reset."""

    resident: float
    peak: float


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of all its descendants, dead or alive, so far."""
    return sum(_own_cpu(each) for each in _tree(pid))


def _own_cpu(pid: int) -> float:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return 0.0
    # The name, in parentheses, may hold anything; utime, stime, cutime and cstime are fields 14 to 17.
    fields = stat.rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICK


def switches(pid: int) -> int:
    """How often the threads of a process and of its descendants have given up, or lost, their core so far."""
    return sum(_own_switches(each) for each in _tree(pid))


def _own_switches(pid: int) -> int:
    count = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        with contextlib.suppress(OSError):  # the thread has ended
            lines = status.read_text().splitlines()
            count += sum(int(line.split()[1]) for line in lines if "_ctxt_switches" in line)
    return count


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                yield from _tree(int(child))


def memory(pid: int) -> Memory:
    """Resident memory of a process and its descendants."""
    found = [_own_memory(each) for each in _tree(pid)]
    return Memory(sum(each.resident for each in found), sum(each.peak for each in found))


def _own_memory(pid: int) -> Memory:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
    return Memory(int(sizes["VmRSS"]) / 1024, int(sizes["VmHWM"]) / 1024)


def reset_peak(pid: int) -> None:
    for each in _tree(pid):
        # Without the right to, the peak is the process's whole life.
        with contextlib.suppress(OSError):
            Path(f"/proc/{each}/clear_refs").write_text(_RESET_PEAK)
