"""What came of probes: as tables for a terminal, as JSON, as JUnit's XML."""

from collections.abc import Iterator, Sequence
from xml.etree import ElementTree

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from extproc.cli.probe.probing import Report
from extproc.decisions.probe import Probed


def as_tables(reports: Sequence[Report], *, everything: bool = False) -> RenderableType:
    """Of each file the probes that failed, or every one; and how often each decision was reached."""
    return Group(*(part for report in reports for part in _tables(report, everything)))


def _tables(report: Report, everything: bool) -> Iterator[RenderableType]:
    passed = len(report.probed) - report.failed
    title = Text(report.file, style="bold").append(f"  {passed} passed", style="green")
    if report.failed:
        title.append(f", {report.failed} failed", style="bold red")
    yield title
    shown = [each for each in report.probed if everything or each.problems]
    if shown:
        table = Table("", "probe", "tags", "decision", "ms", "")
        for each in shown:
            table.add_row(*_row(each))
        yield table
    decisions = Table("decision", "recipe", "probes")
    for (recipe, name), times in report.reached.items():
        style = "yellow" if times == 0 else "default"
        decisions.add_row(Text(name, style=style), recipe, Text(str(times), style=style))
    yield decisions


def _row(probed: Probed) -> tuple[RenderableType, ...]:
    mark = Text("✗", style="bold red") if probed.problems else Text("✓", style="green")
    problems = Text("\n".join(probed.problems), style="red")
    tags = Text(" ".join(probed.probe.tags), style="dim")
    milliseconds = f"{probed.milliseconds:.1f}"
    return mark, Text(probed.probe.title), tags, Text(probed.decision), milliseconds, problems


def as_json(reports: Sequence[Report]) -> str:
    """Everything, for machines."""
    files = [
        {
            "file": report.file,
            "failed": report.failed,
            "probes": [
                {
                    "title": each.probe.title,
                    "tags": each.probe.tags,
                    "decision": each.decision,
                    "shadows": each.shadows,
                    "problems": each.problems,
                    "milliseconds": round(each.milliseconds, 3),
                }
                for each in report.probed
            ],
            "decisions": [
                {"recipe": recipe, "decision": name, "probes": times}
                for (recipe, name), times in report.reached.items()
            ],
        }
        for report in reports
    ]
    return msgspec.json.format(msgspec.json.encode(files)).decode()


def as_junit(reports: Sequence[Report]) -> bytes:
    """A suite for each file, a case for each probe."""
    root = ElementTree.Element("testsuites")
    for report in reports:
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=report.file,
            tests=str(len(report.probed)),
            failures=str(report.failed),
        )
        for at, each in enumerate(report.probed):
            case = ElementTree.SubElement(
                suite,
                "testcase",
                name=f"probes[{at}] {_printable(each.probe.title)}",
                classname=report.file,
                time=f"{each.milliseconds / 1000:.6f}",
            )
            if each.problems:
                message = _printable("; ".join(each.problems))
                ElementTree.SubElement(case, "failure", message=message)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def _printable(text: str) -> str:
    """XML has no place for most control characters, not even escaped."""
    return "".join(each if each.isprintable() else "�" for each in text)
