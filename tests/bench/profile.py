"""Where the processor spends its time under load, sampled from outside by py-spy."""

import asyncio
import re
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from tests.bench import h2load, load, workload
from tests.bench.front import Listener
from tests.bench.processes import BenchFailed, cpu_seconds, output_of
from tests.bench.rig import Rig, run_rig
from tests.bench.sample import Sample

TARGETS = ("routed", "loop")
_CONNECTIONS = 32
_RUNS = 50
_HERTZ = 250
_TOP = 15
_TRUNK = "BaseEventLoop._run_once"
_OURS = re.compile(r"  (\S*/)?(extproc|looper)/")

Drive = Callable[[Rig, float], Coroutine[Any, Any, Sample]]


async def profile(
    target: str, seconds: int, output: Path, console: Console, *, native: bool
) -> None:
    """Write a profile for speedscope.app, and the functions that took most; show the latter."""
    py_spy = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if py_spy is None:
        raise BenchFailed("no py-spy: pip install py-spy")
    speedscope, summary = _files(output, target)
    options = ["--format", "speedscope", "--rate", str(_HERTZ), "--duration", str(seconds)]
    if native:
        options.append("--native")
    record = partial(output_of, py_spy, "record", *options, "-o", str(speedscope))
    async with run_rig(slow_seconds=1) as rig:
        before = cpu_seconds(rig.processor)
        async with asyncio.TaskGroup() as group:
            recording = group.create_task(record("-p", str(rig.processor)))
            sample = await _DRIVES[target](rig, seconds + 1)
            await recording
        used = cpu_seconds(rig.processor) - before
    numbers = sample.numbers()
    per_request = used / max(1.0, numbers["requests"]) * 1e6
    text = "\n".join(
        [
            f"{target}: {numbers['rps']:.0f} a second while py-spy watched, "
            f"{per_request:.0f} µs of the processor's CPU each",
            *_summary(msgspec.json.decode(speedscope.read_bytes())),
        ]
    )
    summary.write_text(text + "\n")
    console.print(text, markup=False, highlight=False)
    console.print(f"written: {speedscope}, {summary}")


def _files(output: Path, target: str) -> tuple[Path, Path]:
    output.mkdir(parents=True, exist_ok=True)
    name = f"profile-{target}-{time.strftime('%Y%m%d-%H%M%S')}"
    return output / f"{name}.speedscope.json", output / f"{name}.txt"


async def _routed(rig: Rig, seconds: float) -> Sample:
    body = rig.body("profiled", workload.chat(workload.AUTO))
    one = h2load.Load(rig.url(Listener("ours")), _CONNECTIONS, body, seconds)
    return await h2load.drive(one, rig.folder)


async def _loop(rig: Rig, seconds: float) -> Sample:
    body = workload.chat(workload.FUSION)
    url = rig.url(Listener("ours"))
    return await load.at_once(url, body, load.Crowd(_RUNS, seconds, spread=0.3))


_DRIVES: dict[str, Drive] = {"routed": _routed, "loop": _loop}


def _summary(recorded: dict[str, Any]) -> list[str]:
    own: defaultdict[str, float] = defaultdict(float)
    total: defaultdict[str, float] = defaultdict(float)
    whole = 0.0
    for stack, weight in _stacks(recorded):
        whole += weight
        if not stack:  # taken in the event loop itself, or before the thread had begun
            continue
        own[stack[-1]] += weight
        for name in set(stack):
            total[name] += weight
    ours = {name: weight for name, weight in total.items() if _OURS.search(name)}
    return [
        *_table("self", own, whole),
        *_table("with what they call", total, whole),
        *_table("of the product, with what they call", ours, whole),
    ]


def _stacks(recorded: dict[str, Any]) -> Iterator[tuple[list[str], float]]:
    """What was on each stack, without the frames below the event loop, which are always there."""
    frames = [_frame(frame) for frame in recorded["shared"]["frames"]]
    for thread in recorded["profiles"]:
        for stack, weight in zip(thread["samples"], thread["weights"], strict=True):
            names = [frames[at] for at in stack]
            trunk = next((at for at, name in enumerate(names) if name.startswith(_TRUNK)), -1)
            yield names[trunk + 1 :] or names[-1:], weight


def _frame(frame: dict[str, Any]) -> str:
    path = Path(frame.get("file") or "")
    where = "/".join(path.parts[-3:])
    return f"{frame['name'].partition(' (')[0]}  {where}"


def _table(heading: str, weights: Mapping[str, float], whole: float) -> list[str]:
    top = sorted(weights.items(), key=lambda item: -item[1])[:_TOP]
    return ["", f"{heading}:", *(f"  {weight / whole:6.1%}  {name}" for name, weight in top)]
