"""The dashboard as Grafana reads it, and what it and the rules ask for."""

import json
import re
from collections.abc import Iterator
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from extproc.statistics.table import every
from tests.monitoring.conftest import dashboard, queries
from tests.monitoring.test_rules import rules

NAME = re.compile(r"\b(?:envoy|looper|process)_\w+")
_PARTS = ("_bucket", "_count", "_sum")


def test_grafana_takes_it() -> None:
    """Grafana's own types know every member: what they do not know they would lose."""
    raw = dashboard()
    read = json.loads(json.dumps(Dashboard.from_json(raw), cls=JSONEncoder))
    assert list(_lost(raw, read)) == []


def _lost(raw: Any, read: Any, at: str = "") -> Iterator[str]:
    """Where what was written is not what was read. Defaults may have come to it."""
    match raw, read:
        case dict(), dict():
            for name, value in raw.items():
                yield from _lost(value, read.get(name), f"{at}.{name}")
        case list(), list() if len(raw) == len(read):
            for number, (value, other) in enumerate(zip(raw, read, strict=True)):
                yield from _lost(value, other, f"{at}[{number}]")
        case _:
            if raw != read:
                yield f"{at}: {raw!r}, {read!r}"


def test_panels_lie_beside_each_other() -> None:
    """None over another, and each with a number of its own."""
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_series_that_is_asked_for_is_one() -> None:
    """By the product's own list, or one that Envoy has by itself."""
    own = {each.name for each in every()}
    recorded = {part for rule in rules() if "record" in rule for part in rule["record"].split(":")}
    expressions = [each.expression for each in queries()] + [rule["expr"] for rule in rules()]
    asked = {name for text in expressions for name in NAME.findall(re.sub(r'"[^"]*"', "", text))}
    known = own | {f"{name}{part}" for name in own for part in _PARTS} | recorded
    assert {name for name in asked - known if "_cluster_name" not in name} == {
        "envoy_cluster_membership_total",
        "envoy_cluster_outlier_detection_ejections_active",
        "envoy_cluster_upstream_rq_pending_overflow",
        "envoy_http_conn_manager_prefix",
        "envoy_overload_envoy_resource_monitors_global_downstream_max_connections_pressure",
    }
