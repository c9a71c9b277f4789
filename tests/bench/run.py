"""Measures the chosen cases, one after the other, and keeps going when one of them fails."""

import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Sequence

from tests.bench import litellm_proxy, results
from tests.bench.bars import add_first_token
from tests.bench.cases import Case
from tests.bench.plan import Plan
from tests.bench.processes import BenchFailed
from tests.bench.results import Measured, Results
from tests.bench.rig import Rig, run_rig


async def measure(cases: Sequence[Case], plan: Plan) -> Results:
    """Every case on one rig."""
    began = time.monotonic()
    made = await results.begin(_described(plan))
    if plan.litellm is not None:
        made.versions["litellm"] = await litellm_proxy.version(plan.litellm)
    async with run_rig(slow_seconds=plan.slow_seconds, peer=plan.peer) as rig:
        for number, case in enumerate(cases, 1):
            _say(f"[{number}/{len(cases)}] {case.name}")
            made.cases.append(await _measured(case, rig, plan))
    add_first_token(made)
    made.seconds = round(time.monotonic() - began, 1)
    return made


async def _measured(case: Case, rig: Rig, plan: Plan) -> Measured:
    if case.missing is not None:
        return Measured(case.name, missing=case.missing)
    try:
        return await case.measure(rig, plan)
    except (BenchFailed, OSError, TimeoutError, ExceptionGroup) as error:
        why = "; ".join(_reasons(error))
        _say(f"{case.name} failed: {why}")
        for line in _errors(rig):
            _say(line)
        return Measured(case.name, failed=why)


def _reasons(error: Exception) -> Iterator[str]:
    if isinstance(error, ExceptionGroup):
        for each in error.exceptions:
            yield from _reasons(each)
    else:
        yield f"{type(error).__name__}: {error}"


def _errors(rig: Rig) -> list[str]:
    """The last mistakes that the processor has logged."""
    lines = (rig.folder / "processor.log").read_text(errors="replace").splitlines()
    return [line for line in lines if '"level":"error"' in line][-3:]


def problems(made: Results) -> list[str]:
    """What did not work. That something was slow is never a problem."""
    return [f"{case.name}: {case.failed}" for case in made.cases if case.failed] + [
        f"{case.name}, {side}: {numbers}"
        for case in made.cases
        for side, rounds in case.sides.items()
        for numbers in rounds
        if numbers.get("errors") or numbers.get("requests") == 0
    ]


def _described(plan: Plan) -> dict[str, object]:
    """As it is written; a path of this machine says nothing to a reader."""
    return {**dataclasses.asdict(plan), "litellm": plan.litellm is not None}


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} load {os.getloadavg()[0]:.2f} {text}\n")
