"""One run on a time axis, for a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from extproc.cli.figures import permille, seconds, tone, toned, usd

_LEAST = 16
_BESIDE = 58
"""Columns of the table that are no axis."""


def waterfall(record: Mapping[str, Any], width: int) -> RenderableType:
    """What it was, its stages and calls, and what it found."""
    if record["kind"] == "routed":
        return _head(record)
    return Group(_head(record), "", _table(record, max(_LEAST, width - _BESIDE)), *_found(record))


def _head(record: Mapping[str, Any]) -> Text:
    text = Text(record["decision"], "bold").append("  ")
    text.append(toned(record.get("outcome", "routed")))
    if "code" in record:
        text.append(f" {record['code']}", "red")
    facts = [
        f"{record['recipe']}, {record['algorithm']}",
        seconds(record.get("seconds")),
        usd(record.get("spent", record).get("cost_microusd")),
        _calls(record),
    ]
    if "confidence_permille" in record:
        facts.append(f"sure {permille(record['confidence_permille'])}")
    return text.append("\n" + " · ".join(facts), "dim").append(f"\nrun {record['run']}", "dim")


def _calls(record: Mapping[str, Any]) -> str:
    if record["kind"] == "routed":
        return f"routed to {record['model']} after {seconds(record.get('routing'))}"
    return f"{record.get('spent', {}).get('calls', 0)} calls"


def _table(record: Mapping[str, Any], axis: int) -> Table:
    calls = record.get("calls", [])
    end = max(
        [
            record.get("seconds", 0.0),
            *(call["at"] + call.get("seconds", 0.0) for call in calls),
            1e-6,
        ]
    )
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("call", max_width=26, no_wrap=True, overflow="ellipsis")
    table.add_column(f"0{seconds(end):>{axis - 1}}", width=axis, no_wrap=True)
    table.add_column("end", max_width=30)
    for row in _rows(record, end, axis):
        table.add_row(*row)
    return table


def _rows(record: Mapping[str, Any], end: float, axis: int) -> Iterator[tuple[Text, Text, Text]]:
    stages = list(record.get("stages", []))
    numbered = enumerate(record.get("calls", []))
    for number, call in sorted(numbered, key=lambda each: each[1]["at"]):
        while stages and stages[0]["at"] <= call["at"] + 0.0005:
            yield _stage(stages.pop(0), end, axis)
        name = Text(f"#{number} ", "dim").append(call["model"], "default")
        name.append(f" {call.get('agent', call['role'])}", "dim")
        yield name, _bar(call, end, axis), _ending(call)
    for stage in stages:
        yield _stage(stage, end, axis)


def _stage(stage: Mapping[str, Any], end: float, axis: int) -> tuple[Text, Text, Text]:
    at = min(axis - 1, int(stage["at"] / end * axis))
    return Text(stage["stage"], "bold"), Text(" " * at + "╷", "dim"), Text("")


def _bar(call: Mapping[str, Any], end: float, axis: int) -> Text:
    """`·` is waiting for its turn, `░` until the first token, `█` from then on."""
    began, took = call["at"], call.get("seconds", end - call["at"])
    first = began + call.get("first_token", 0.0)
    edges = (began - call.get("queued", 0.0), began, first, began + took)
    places = [min(axis, max(0, round(edge / end * axis))) for edge in edges]
    places[3] = max(places[3], places[2] + 1) if places[2] < axis else places[3]
    text = Text(" " * places[0])
    for mark, start, stop in zip("·░█", places, places[1:], strict=False):
        text.append(mark * (stop - start), tone(call["state"]))
    return text


_MADE = {"hedge": "made a second time", "substitute": "in place of one that failed"}


def _ending(call: Mapping[str, Any]) -> Text:
    told = [seconds(call.get("seconds"))]
    told += [str(call[name]) for name in ("reason", "status", "verdict") if name in call]
    told += [_MADE.get(call["stands_in"], call["stands_in"])] if "stands_in" in call else []
    return toned(call["state"]).append("  " + " · ".join(told), "dim")


def _found(record: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Votes, what escalations hung on, notes."""
    lines = [
        *_votes(record),
        *_checks(record),
        *(Text(f"· {note}") for note in record.get("notes", [])),
    ]
    if lines:
        yield ""
        yield from lines


def _votes(record: Mapping[str, Any]) -> Iterator[Text]:
    calls = record.get("calls", [])
    for vote in record.get("votes", []):
        line = Text("vote  ", "bold")
        for group in vote["groups"]:
            names = [ballot["model"] for ballot in group["ballots"]]
            answers = (calls[each["call"]].get("answer") for each in group["ballots"])
            said = next((answer for answer in answers if answer is not None), None)
            line.append(f"{said + ': ' if said else ''}{', '.join(names)} ")
            line.append(f"{group['posterior'] * 100:.1f} %  ", "green")
        yield line.append(f"none of these {vote['none'] * 100:.1f} %", "dim")


def _checks(record: Mapping[str, Any]) -> Iterator[Text]:
    for check in record.get("checks", []):
        enough = check["enough"]
        line = Text(f"{check['stage']}  ", "bold").append(f"{check['method']} ", "dim")
        line.append(f"{check['score']:.3g} {'≥' if enough else '<'} {check['threshold']:.3g}  ")
        yield line.append("enough" if enough else "goes on", "green" if enough else "yellow")
