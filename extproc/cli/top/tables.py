"""What the last runs come to, as tables."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from extproc.cli.figures import seconds, tone, usd
from extproc.cli.operator import Operator

_NARROW = 110
Seen = Mapping[str, Any]


async def _ask(operator: Operator) -> dict[str, Any]:
    return {
        "overview": await operator.get("/api/overview"),
        "load": await operator.get("/load"),
        "config": await operator.get("/config"),
    }


async def look(operator: Operator, *, as_json: bool) -> None:
    """Once."""
    seen = await _ask(operator)
    if as_json:
        click.echo(json.dumps(seen, indent=2))
    else:
        console = Console()
        console.print(as_tables(seen, console.width))


async def follow(operator: Operator, *, interval: float) -> None:
    """Again and again, on a screen of its own."""
    console = Console()
    seen = await _ask(operator)
    with Live(as_tables(seen, console.width), console=console, screen=True) as live:
        while True:
            await asyncio.sleep(interval)
            live.update(as_tables(await _ask(operator), console.width))


def as_tables(seen: Seen, width: int) -> RenderableType:
    """What is under way, decisions, models. Narrow terminals have fewer columns."""
    overview, wide = seen["overview"], width >= _NARROW
    return Group(
        _head(seen),
        "",
        _decisions(overview["decisions"], wide=wide),
        "",
        _models(overview["models"], wide=wide),
    )


def _head(seen: Seen) -> Text:
    config, load = seen["config"], seen["load"]
    text = Text(f"{seen['overview']['runs']} runs", "bold")
    text.append(f"  {load['open_runs']} open, {load['waiting']} waiting  ", "dim")
    text.append(config["generation"], "dim").append("  ")
    text.append(*(("valid", "green") if config["valid"] else ("invalid file", "red")))
    if config["envoy"]["stale"]:
        text.append("  Envoy stale", "yellow")
    for problem in config["problems"]:
        text.append(f"\n{problem}", "red")
    return text


def _table(*columns: tuple[str, bool]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, is_figure in columns:
        table.add_column(name, justify="right" if is_figure else "left", no_wrap=not is_figure)
    return table


def _spread(found: Mapping[str, float] | None) -> str:
    return "–" if found is None else f"{seconds(found['p50'])} / {seconds(found['p95'])}"


def _decisions(decisions: list[dict[str, Any]], *, wide: bool) -> Table:
    more = (("first token", True), ("calls", True), ("dearest alone", True)) if wide else ()
    table = _table(
        ("decision", False), ("share", True), ("outcomes", False), ("p50 / p95", True), ("cost", True), *more
    )  # fmt: skip
    for each in decisions:
        outcomes = Text(" ").join(
            Text(f"{count} {outcome}", tone(outcome)) for outcome, count in each["outcomes"].items()
        )
        savings = each["savings"]
        alone = "–" if savings is None else usd(savings["alone_microusd"] / savings["runs"])
        rest = (_spread(each["first_token"]), f"{each['calls']:g}", alone) if wide else ()
        name = Text(each["decision"], "bold").append(f" {each['algorithm']}", "dim")
        share, took = f"{each['share'] * 100:.0f} %", _spread(each["seconds"])
        table.add_row(name, share, outcomes, took, usd(each["cost_microusd"]), *rest)
    return table


def _models(models: list[dict[str, Any]], *, wide: bool) -> Table:
    more = (("tokens in", True), ("out", True)) if wide else ()
    table = _table(
        ("model", False), ("calls", True), ("errors", True), ("p50 / p95", True), ("first token", True),
        ("cost", True), *more,
    )  # fmt: skip
    for each in models:
        errors = Text(str(each["errors"]), "red" if each["errors"] else "dim")
        rest = (str(each["prompt_tokens"]), str(each["completion_tokens"])) if wide else ()
        took, first = _spread(each["seconds"]), _spread(each["first_token"])
        cost = usd(each["cost_microusd"])
        table.add_row(
            Text(each["model"], "bold"), str(each["calls"]), errors, took, first, cost, *rest
        )
    return table
