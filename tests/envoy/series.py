"""What statistics say: series by their names and labels."""

import re
from collections.abc import Iterator, Mapping

_LABEL = re.compile(r'(\w+)="([^"]*)"')


def of(series: Mapping[str, float], **wanted: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Name, labels and value of those that have these labels."""
    for key, value in series.items():
        name, _, text = key.partition("{")
        labels = dict(_LABEL.findall(text))
        if wanted.items() <= labels.items():
            yield name, labels, value


def count(series: Mapping[str, float], name: str, **labels: str) -> float:
    """The sum of the series of this name that have these labels."""
    return sum(value for each, _, value in of(series, **labels) if each == name)
