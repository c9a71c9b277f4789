"""The list of series as the README of this folder has it."""

from collections.abc import Iterable, Iterator

from extproc.statistics import series
from extproc.statistics.labels import LABELS
from extproc.statistics.series import Origin, Series

_TITLES: dict[Origin, str] = {
    "ingress": "Envoy, of clients' requests",
    "egress": "Envoy, of the processor's calls",
    "envoy": "Envoy, of itself",
    "process": "The processor",
}


def every() -> list[Series]:
    """All series, in the order in which they are declared."""
    return [each for each in vars(series).values() if isinstance(each, Series)]


def markdown() -> str:
    """A table for each that counts, and one of what values labels can have."""
    return "\n\n".join((*(_counted_by(origin) for origin in _TITLES), _labels()))


def _counted_by(origin: Origin) -> str:
    rows = (_row(each) for each in every() if each.origin == origin)
    return f"### {_TITLES[origin]}\n\n{_table(('series', 'labels', 'what it counts'), rows)}"


def _row(each: Series) -> tuple[str, str, str]:
    kind = "" if each.kind == "counter" else f" ({each.kind})"
    return f"`{each.name}`{kind}", ", ".join(f"`{label}`" for label in each.labels), each.about


def _labels() -> str:
    rows = ((f"`{label}`", values) for label, values in LABELS.items())
    return f"### Labels\n\n{_table(('label', 'values'), rows)}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(_lines((head, ("---",) * len(head), *rows)))


def _lines(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for row in rows:
        yield f"| {' | '.join(row)} |"
