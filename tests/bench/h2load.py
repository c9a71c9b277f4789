"""Closed-loop load by h2load: so many connections, each sending its next request when the last one is answered."""

from dataclasses import dataclass
from pathlib import Path

from tests.bench.processes import BenchFailed, output_of
from tests.bench.sample import Sample


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent, and how. With `requests` it ends after so many, else after `seconds`."""

    url: str
    connections: int
    body: Path | None = None
    seconds: float = 1.0
    requests: int | None = None
    status: int = 200


async def drive(load: Load, folder: Path) -> Sample:
    """Apply the load. Raises BenchFailed if nothing was answered."""
    # Its log, unlike its summary, has every request, so that percentiles are exact.
    log = folder / "h2load.tsv"
    log.unlink(missing_ok=True)
    command = ["h2load", "--h1", "-t1", f"-c{load.connections}", f"--log-file={log}"]
    if load.requests is not None:
        command.append(f"-n{max(load.requests, load.connections)}")
    else:
        command.append(f"-D{round(load.seconds * 1000)}ms")
    if load.body is not None:
        command += [f"--data={load.body}", "-Hcontent-type: application/json"]
    await output_of(*command, load.url, timeout=load.seconds + 60)
    return _read(log, load)


def _read(log: Path, load: Load) -> Sample:
    rows = [line.split("\t") for line in log.read_text().splitlines()]
    good = [(int(start), int(took)) for start, status, took in rows if int(status) == load.status]
    if not good:
        raise BenchFailed(f"{load.url}: no answer with status {load.status}: {rows[:3]}")
    began = min(start for start, _ in good)
    ended = max(start + took for start, took in good)
    latencies = [took / 1e6 for _, took in good]
    return Sample(latencies, (ended - began) / 1e6, errors=len(rows) - len(good))
