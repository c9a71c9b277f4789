"""The page that Prometheus reads of the processor."""

import subprocess
import sys

from prometheus_client.parser import text_string_to_metric_families

from extproc.serving.metrics import Fact, render
from extproc.statistics.table import every

OWN = [each for each in every() if each.name.startswith("looper_")]


def test_each_series_is_written_as_the_list_has_it() -> None:
    """With its name, kind, labels and meaning, whatever stands in a label."""
    odd = 'a "quoted" \\ name\nof two lines'
    page = render([Fact(each, {(odd,) * len(each.labels): 3.0}) for each in OWN]).decode()
    families = {family.name: family for family in text_string_to_metric_families(page)}
    for each in OWN:
        family = families[each.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (each.kind, each.about)
        (sample,) = family.samples
        assert (sample.name, sample.value) == (each.name, 3)
        assert sample.labels == dict.fromkeys(each.labels, odd)


def test_no_command_waits_for_the_library() -> None:
    """It is loaded when somebody first asks for the page."""
    program = "import sys, extproc.serving.serve; sys.exit('prometheus_client' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
