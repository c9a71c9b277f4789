"""Wraps a slice of load: beside its latencies, what each process used while it lasted."""

from collections.abc import Awaitable, Callable, Mapping

from tests.bench.processes import cpu_seconds, memory, reset_peak, switches
from tests.bench.sample import Numbers, Sample


async def metered(pids: Mapping[str, int], work: Callable[[], Awaitable[Sample]]) -> Numbers:
    """The numbers of a slice: latencies, and of each process CPU in µs and context switches per request, and MiB."""
    for pid in pids.values():
        reset_peak(pid)
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    switched = {name: switches(pid) for name, pid in pids.items()}
    sample = await work()
    numbers = sample.numbers()
    count = len(sample.latencies) + sample.errors
    for name, pid in pids.items():
        used = memory(pid)
        numbers[f"{name}_cpu_us"] = (cpu_seconds(pid) - before[name]) / count * 1e6
        numbers[f"{name}_switches"] = (switches(pid) - switched[name]) / count
        numbers[f"{name}_rss_mib"] = used.resident
        numbers[f"{name}_peak_mib"] = used.peak
    return numbers
