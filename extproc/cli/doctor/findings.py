"""What was found, and what to do about it. Never a key, a prompt or an answer."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import msgspec
from rich.table import Table
from rich.text import Text

State = Literal["ok", "warn", "fail", "skipped"]

_COLOURS: dict[State, str] = {"ok": "green", "warn": "yellow", "fail": "red", "skipped": "dim"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `about` is a model, or a part of Envoy; `advice` is for what is not ok."""

    about: str
    check: str
    state: State
    found: str
    advice: str = ""


def has_failed(findings: Sequence[Finding]) -> bool:
    return any(finding.state == "fail" for finding in findings)


def as_table(findings: Sequence[Finding]) -> Table:
    """Everything that was looked at, for people."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("", "about", "check", "found"):
        table.add_column(title, overflow="fold")
    for finding in findings:
        found = Text(finding.found)
        if finding.advice:
            found.append(f"\n→ {finding.advice}", style="italic")
        state = Text(finding.state, style=_COLOURS[finding.state])
        table.add_row(state, Text(finding.about), Text(finding.check), found)
    return table


def as_json(findings: Sequence[Finding]) -> str:
    """The same for machines."""
    data = {"failed": has_failed(findings), "findings": [asdict(each) for each in findings]}
    return msgspec.json.format(msgspec.json.encode(data)).decode()
