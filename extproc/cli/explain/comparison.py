"""What another configuration would have made of recorded requests, for a terminal."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from extproc.cli.explain.recorded import Comparison
from extproc.cli.figures import usd


def as_table(found: Comparison) -> RenderableType:
    """Who goes where, what that cost and would cost, and what cannot be said."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("went to", "would go to"):
        table.add_column(name)
    for name in ("runs", "cost", "would cost", "at the most"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in found.changes:
        moved = each.before != each.after
        table.add_row(
            Text(each.before),
            Text(each.after, "bold yellow" if moved else "dim"),
            str(each.runs),
            *(usd(cost) for cost in (each.cost_before, each.cost_after, each.most)),
        )
    return Group(table, "", *_sayings(found))


def _sayings(found: Comparison) -> Iterator[Text]:
    decided = sum(each.runs for each in found.changes)
    text = Text(f"{found.changed} of {decided} decided requests would go elsewhere", "bold")
    yield text.append(
        "; costs are of calls that go well, with answers as long as they were.", "dim"
    )
    if found.unknown:
        names = ", ".join(f"{name} ({runs})" for name, runs in found.unread.items())
        yield Text(
            f"{found.unknown} cannot be decided: they hang on signals that cannot be read: {names}.",
            "yellow",
        )
        yield Text(
            "Text is only in records of `trace: {record: full}`; headers and models' labels in none.",
            "dim",
        )
    for why, runs in found.refused.items():
        yield Text(f"{runs} would be refused: {why}", "red")
