"""`python -m tests.bench`: run the benchmark, compare two of its results, or profile the processor."""

import asyncio
import dataclasses
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from tests.bench import results as files
from tests.bench import savings
from tests.bench.cases import all_cases, chosen
from tests.bench.echo import ROOT
from tests.bench.litellm_proxy import install
from tests.bench.plan import FULL, SHORT, Plan
from tests.bench.processes import BenchFailed
from tests.bench.profile import TARGETS, profile
from tests.bench.report import compare, grown, show
from tests.bench.routed import CPU
from tests.bench.run import measure, problems

OUTPUT = ROOT / "bench-results"
_WIDTH = 160
T = TypeVar("T")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure the processor against the same Envoy without it, and against a C++ peer."""


@main.command()
@click.option("--short", is_flag=True, help="Each case once and tiny, only to see that it works.")
@click.option("--cases", multiple=True, help="Names or patterns; several, or with commas.")
@click.option("--output", type=click.Path(path_type=Path), help="Default: in bench-results/.")
@click.option("--rounds", type=click.IntRange(1), help="How often each side is measured.")
@click.option("--seconds", type=click.FloatRange(0.2), help="Of each slice of load.")
@click.option("--litellm", is_flag=True, help="Against a LiteLLM proxy too, which is installed.")
@click.option(
    "--peer",
    help="Another processor beside ours in routed cases: its command, with {socket}, {config} and {model}.",
)
@click.option("--list", "listing", is_flag=True, help="Name the cases, and measure nothing.")
def run(
    short: bool,
    cases: tuple[str, ...],
    output: Path | None,
    rounds: int | None,
    seconds: float | None,
    litellm: bool,
    peer: str | None,
    listing: bool,
) -> None:
    """Measure, write everything to a file, and show it."""
    console = _console()
    plan = dataclasses.replace(_plan(SHORT if short else FULL, rounds, seconds), peer=peer)
    wanted = chosen(all_cases(plan), [name for each in cases for name in each.split(",")])
    if listing:
        for case in wanted:
            click.echo(case.name)
        return
    try:
        if litellm:
            plan = _with_litellm(plan)
        made = _finish(measure(wanted, plan))
    except BenchFailed as error:
        raise click.ClickException(str(error)) from None
    path = output or OUTPUT / f"{made.started.replace(':', '')}-{made.versions['commit']}.json"
    files.write(made, path)
    show(made, console)
    console.print(f"{made.seconds:g} s; written to {path}")
    for problem in (found := problems(made)):
        click.echo(f"did not work: {problem}", err=True)
    sys.exit(1 if found else 0)


def _plan(plan: Plan, rounds: int | None, seconds: float | None) -> Plan:
    if rounds is not None:
        plan = dataclasses.replace(plan, rounds=rounds)
    if seconds is not None:
        plan = dataclasses.replace(plan, seconds=seconds, requests=None)
    return plan


def _with_litellm(plan: Plan) -> Plan:
    try:
        return dataclasses.replace(plan, litellm=_finish(install()))
    except (BenchFailed, TimeoutError) as error:
        click.echo(f"without LiteLLM, which could not be installed: {error}", err=True)
        return plan


@main.command("compare")
@click.argument("before", type=click.Path(exists=True, path_type=Path))
@click.argument("after", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--most",
    type=click.FloatRange(min=1),
    help="Fail if the processor's CPU for a request, to the peer's, is more than so many times what it was.",
)
def compare_command(before: Path, after: Path, most: float | None) -> None:
    """Show what has changed from one result to another."""
    try:
        old, new = files.read(before), files.read(after)
    except BenchFailed as error:
        raise click.ClickException(str(error)) from None
    compare(old, new, _console())
    if most is not None and (found := grown(old, new, CPU, most)):
        raise click.ClickException("\n".join(found))


@main.command("profile")
@click.argument("target", type=click.Choice(TARGETS))
@click.option("--seconds", default=10, show_default=True, type=click.IntRange(1, 600))
@click.option("--native", is_flag=True, help="See into compiled extensions as well.")
@click.option("--output", default=OUTPUT, type=click.Path(path_type=Path))
def profile_command(target: str, seconds: int, native: bool, output: Path) -> None:
    """Record where the processor spends its time under load, with py-spy."""
    try:
        _finish(profile(target, seconds, output, _console(), native=native))
    except BenchFailed as error:
        raise click.ClickException(str(error)) from None


@main.command("savings")
@click.option("--questions", default=200, show_default=True, type=click.IntRange(1, 5000))
def savings_command(questions: int) -> None:
    """Show what early stops of teams save, with their accuracy beside it. Needs neither Envoy nor a quiet machine."""
    savings.show(_finish(savings.play(questions)), _console())


def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, which on SIGTERM and SIGINT comes early, but never before every process is ended."""

    async def stoppable() -> T:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await work

    try:
        return asyncio.run(stoppable())
    except asyncio.CancelledError:
        raise click.Abort from None


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


if __name__ == "__main__":
    # What is installed has its bytecode beside it, so what is measured may write its own.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # noqa: TID251
    main(prog_name="python -m tests.bench")
