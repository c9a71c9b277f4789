"""One list of all series: what is documented, and what Envoy and the processor are told to count, are the same."""

from pathlib import Path
from typing import get_args

from extproc.statistics.labels import ENDS, LABELS, REASONS
from extproc.statistics.table import every, markdown
from looper.calling.trace import Breach
from looper.wire.events import Lack

ROOT = Path(__file__).parents[2]
README = ROOT / "extproc" / "statistics" / "README.md"
MARK = "<!-- series: from the list in series.py -->\n\n"


def test_the_readme_has_the_list() -> None:
    """All of it, and nothing else: what follows the mark is to be replaced by what `markdown()` returns."""
    assert README.read_text().partition(MARK)[2] == markdown() + "\n"


def test_no_other_page_has_a_table_of_series() -> None:
    for path in ROOT.rglob("README.md"):
        if path != README and ".venv" not in path.parts and "node_modules" not in path.parts:
            lines = path.read_text().splitlines()
            assert not [row for row in lines if row.startswith(("| `envoy_looper_", "| `looper_"))]


def test_every_label_is_explained() -> None:
    assert {label for each in every() for label in each.labels} == LABELS.keys()
    assert REASONS.keys() == set(get_args(Lack))
    assert ENDS.keys() == {*get_args(Breach), "failed"}
