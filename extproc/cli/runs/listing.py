"""Runs as lines: the last ones, and those to come."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from extproc.cli.figures import permille, seconds, toned, usd
from extproc.cli.operator import Operator
from extproc.cli.runs.waterfall import waterfall

Line = Mapping[str, Any]
_COLUMNS = (
    ("run", 16),
    ("time", 8),
    ("outcome", 9),
    ("took", 8),
    ("cost", 10),
    ("calls", 5),
    ("sure", 5),
)
_NARROW = 100
"""Columns of a terminal below which models, calls and how sure a team was are left out."""
_FEWER = 5


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which runs are shown."""

    decision: str | None = None
    outcome: str | None = None
    model: str | None = None

    def __call__(self, line: Line) -> bool:
        names = (line["decision"], f"{line['recipe']}.{line['decision']}")
        return (
            (self.decision is None or self.decision in names)
            and (self.outcome is None or self.outcome == line.get("outcome", "routed"))
            and (self.model is None or self.model in line["models"])
        )


class Shown:
    """Where runs are shown: as JSON, or in columns that fit the terminal."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._console = Console()

    def heads(self) -> None:
        if not self._as_json:
            heads = (name.ljust(width) for name, width in self._columns)
            self._console.print(Text("  ".join((*heads, "decision")), "bold"), no_wrap=True)

    def lines(self, lines: Iterable[Line]) -> None:
        for line in lines:
            if self._as_json:
                click.echo(json.dumps(line))
            else:
                self._console.print(self._row(line), no_wrap=True, overflow="ellipsis")

    @property
    def _columns(self) -> Sequence[tuple[str, int]]:
        return _COLUMNS if self._console.width >= _NARROW else _COLUMNS[:_FEWER]

    def record(self, record: Mapping[str, Any]) -> None:
        if self._as_json:
            click.echo(json.dumps(record, indent=2))
        else:
            self._console.print(waterfall(record, self._console.width))

    def _row(self, line: Line) -> Text:
        outcome = toned(line.get("outcome", "routed"))
        cells = [
            Text(line["run"]),
            Text(datetime.fromisoformat(line["time"]).astimezone().strftime("%H:%M:%S"), "dim"),
            outcome,
            Text(seconds(line.get("seconds"))),
            Text(usd(line.get("cost_microusd"))),
            Text(str(line["calls"])),
            Text(permille(line.get("confidence_permille"))),
        ]
        columns = self._columns
        for cell, (_, width) in zip(cells, columns, strict=False):
            cell.truncate(width, pad=True)
        row = Text("  ").join([*cells[: len(columns)], Text(line["decision"], "bold")])
        row.append(f" {line['algorithm']}", "dim")
        if self._console.width >= _NARROW:
            row.append(f"  {', '.join(line['models'])}", "dim")
        return row


async def list_runs(
    operator: Operator, *, wanted: Wanted, limit: int, shown: Shown, follow: bool
) -> None:
    """The last runs, the newest last as they come; and if wanted those to come."""
    found = await operator.get("/api/runs")
    lines = [line for line in found["runs"] if wanted(line)][:limit]
    shown.heads()
    shown.lines(reversed(lines))
    if not follow:
        return
    async for kind, data in operator.events(f"/api/events?after={found['last']}"):
        if kind == "run" and wanted(data):
            shown.lines([data])


async def show_run(operator: Operator, *, run: str, shown: Shown) -> None:
    shown.record(await operator.get(f"/runs/{run}"))
