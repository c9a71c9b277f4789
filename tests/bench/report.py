"""Results as tables: ratios first, for they mean something on any machine, then the numbers themselves."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.table import Table

from tests.bench.bars import Verdict, judge
from tests.bench.results import Measured, Results
from tests.bench.sample import Spread

_RATIO = "÷"
_NUMBERS = (
    "requests",
    "rps",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "processor_cpu_us",
    "processor_switches",
    "envoy_cpu_us",
    "processor_peak_mib",
)


def show(results: Results, console: Console) -> None:
    """One run."""
    _about(results, console)
    if not results.plan["short"]:
        console.print(_bars(judge(results)))
    console.print(_figures(results.cases))
    console.print(_absolute(results.cases))
    _nothing(results.cases, console)


def compare(before: Results, after: Results, console: Console) -> None:
    """Two runs. What is compared are figures, each of which was measured against a peer in its own run."""
    for results in (before, after):
        _about(results, console)
    if before.plan != after.plan:
        console.print("[yellow]the two runs were not made with the same plan[/yellow]")
    shared = [(case, after.case(case.name)) for case in before.cases]
    pairs = [(old, new) for old, new in shared if new is not None]
    console.print(_compared_figures(pairs))
    console.print(_compared_numbers(pairs))


def grown(before: Results, after: Results, figure: str, most: float) -> list[str]:
    """The cases in which a figure is more than `most` times what it was."""
    found = []
    for old in before.cases:
        new = after.case(old.name)
        was, now = _median(old, figure), _median(new, figure)
        if was is not None and now is not None and now > most * was:
            found.append(f"{old.name}: {figure} was {was:.2f} and is {now:.2f}")
    return found


def _median(case: Measured | None, figure: str) -> float | None:
    values = [each for each in (case.figures.get(figure, []) if case else []) if each is not None]
    return Spread.of(values).median if values else None


def _about(results: Results, console: Console) -> None:
    machine = results.machine
    load = " ".join(f"{value:.2f}" for value in machine["load_average"])
    versions = " · ".join(f"{name} {version}" for name, version in results.versions.items())
    console.print(
        f"[bold]{results.started}[/bold] · {machine['cpu']} · {machine['cores']} cores · "
        f"{machine['memory_gib']} GiB · Linux {machine['kernel']} · load {load}"
    )
    console.print(versions, style="dim")
    if results.plan["short"]:
        console.print(
            "[yellow]short mode: it shows that each case works, and nothing else[/yellow]"
        )


def _bars(verdicts: Iterable[Verdict]) -> Table:
    table = Table(title="Bars", title_justify="left")
    for heading in ("what", "bar", "measured", "spread", ""):
        table.add_column(heading, justify="right" if heading in ("measured", "spread") else "left")
    for verdict in verdicts:
        style = {"met": "green", "MISSED": "bold red"}.get(verdict.word, "dim")
        value = verdict.value
        table.add_row(
            verdict.bar.what,
            verdict.bar.wanted,
            "" if value is None else _number(value.median),
            "" if value is None else _range(value),
            f"[{style}]{verdict.word}[/{style}]",
        )
    return table


def _figures(cases: Iterable[Measured]) -> Table:
    table = Table(title="Ratios", title_justify="left")
    for heading in ("case", "figure", "median", "spread"):
        table.add_column(heading, justify="right" if heading in ("median", "spread") else "left")
    for case in cases:
        for at, name in enumerate(_ratios_first(case)):
            value = case.figure(name)
            assert value is not None
            shown = (name, _number(value.median), _range(value))
            table.add_row("" if at else case.name, *shown)
    return table


def _ratios_first(case: Measured) -> list[str]:
    return sorted(
        (name for name in case.figures if case.figure(name) is not None),
        key=lambda name: _RATIO not in name,
    )


def _absolute(cases: Iterable[Measured]) -> Table:
    table = Table(title="Absolute, medians of the rounds", title_justify="left")
    table.add_column("case")
    table.add_column("side")
    for name in _NUMBERS:
        table.add_column(name.replace("processor", "proc"), justify="right")
    for case in cases:
        for at, side in enumerate(case.sides):
            values = (case.spread(side, name) for name in _NUMBERS)
            shown = ("" if value is None else _number(value.median) for value in values)
            table.add_row("" if at else case.name, side, *shown)
    return table


def _nothing(cases: Sequence[Measured], console: Console) -> None:
    missing: defaultdict[str, list[str]] = defaultdict(list)
    for case in cases:
        if case.missing is not None:
            missing[case.missing].append(case.name)
        if case.failed is not None:
            console.print(f"{case.name}: failed: {case.failed}", style="bold red", markup=False)
    for why, names in missing.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        console.print(f"not available: {names[0]}{others}: {why}", style="dim", markup=False)


def _compared_figures(pairs: Iterable[tuple[Measured, Measured]]) -> Table:
    rows = (
        (old.name, name, old.figure(name), new.figure(name))
        for old, new in pairs
        for name in _ratios_first(old)
    )
    return _compared("Ratios", "figure", rows)


def _compared_numbers(pairs: Iterable[tuple[Measured, Measured]]) -> Table:
    rows = (
        (old.name, f"{side} {number}", old.spread(side, number), new.spread(side, number))
        for old, new in pairs
        for side in old.sides
        for number in _NUMBERS
    )
    return _compared("Absolute", "number", rows)


_Row = tuple[str, str, Spread | None, Spread | None]


def _compared(title: str, what: str, rows: Iterable[_Row]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in ("case", what, "before", "spread", "after", "spread", "change", ""):
        table.add_column(heading, justify="left" if heading in ("case", what, "") else "right")
    for row in _known(rows):
        table.add_row(*row)
    return table


def _known(rows: Iterable[_Row]) -> Iterator[tuple[str, ...]]:
    last = ""
    for case, name, old, new in rows:
        if old is None or new is None:
            continue
        # Where the rounds of the two runs overlap, the difference may be none.
        apart = new.low > old.high or new.high < old.low
        yield (
            "" if case == last else case,
            name,
            *(_number(old.median), _range(old), _number(new.median), _range(new)),
            f"{(new.median / old.median - 1) * 100:+.0f} %" if old.median else "",
            "apart" if apart else "",
        )
        last = case


def _range(value: Spread) -> str:
    return f"{_number(value.low)} – {_number(value.high)}"


def _number(value: float) -> str:
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
