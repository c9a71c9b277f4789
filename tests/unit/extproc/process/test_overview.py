"""What runs come to, by decision and by model."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from extproc.config import load_config
from extproc.config.trace import RoutedTrace, TraceSettings
from extproc.process.overview import Overview, Savings, overview
from extproc.process.records import summary
from extproc.process.runs import Runs
from extproc.process.runtime import build
from tests.fakes.models import ScriptedClient
from tests.fakes.records import record
from tests.fakes.stack import DEMO

RUNTIME = build(load_config(DEMO), ScriptedClient({}))


def seen(records: Sequence[dict[str, Any]]) -> Overview:
    runs = Runs(TraceSettings(keep=1000))
    for each in records:
        runs.add(each)
    return overview(runs.kept(), RUNTIME)


def test_nothing_is_seen_of_no_runs() -> None:
    assert seen([]) == Overview(0, None, [], [])


def test_a_decision_is_seen_with_its_share_outcomes_and_spread() -> None:
    """The middle of 20 runs is the tenth, and one in twenty is slower than p95."""
    records = [record(at, outcome="ok" if at else "failed") for at in range(20)]
    found = seen([*records, *(record(50 + at, decision="default") for at in range(5))])
    panel, default = found.decisions
    assert (panel.decision, panel.runs, panel.share) == ("panel", 20, 0.8)
    assert panel.outcomes == {"ok": 19, "failed": 1}
    assert panel.seconds is not None
    assert (panel.seconds.p50, panel.seconds.p95) == (10.0, 19.0)
    assert panel.calls == 2
    assert panel.cost_microusd == 30
    assert panel.confidence == [0, 0, 0, 0, 0, 0, 0, 20, 0, 0]
    assert default.share == 0.2


@pytest.mark.parametrize(("permille", "bin"), [(0, 0), (99, 0), (100, 1), (999, 9), (1000, 9)])
def test_the_surest_are_in_the_last_tenth(permille: int, bin: int) -> None:
    (panel,) = seen([record(confidence_permille=permille)]).decisions
    assert panel.confidence is not None
    assert panel.confidence.index(1) == bin


def test_savings_are_against_the_dearest_member_alone() -> None:
    """`large` asks 2 and 8 USD per million: 100 tokens in and 50 out are 600 micro-USD."""
    (panel,) = seen([record(1), record(2), record(3, calls=[], outcome="failed")]).decisions
    assert panel.savings == Savings("large", 2, 60, 1200)


def test_a_decision_that_is_gone_has_no_dearest_member() -> None:
    assert seen([record(decision="gone")]).decisions[0].savings is None


def test_a_model_is_seen_with_its_calls() -> None:
    """A call that was cancelled is nobody's error."""
    calls = record()["calls"]
    cut = {**calls[0], "state": "cancelled", "seconds": 9.0}
    late = {**calls[0], "state": "timed_out", "seconds": 9.0}
    found = seen([record(calls=[*calls, cut, late])])
    small, large = found.models
    assert (small.model, small.calls, small.errors) == ("small", 3, 1)
    assert small.seconds is not None
    assert small.seconds.p95 == 0.5
    assert (large.prompt_tokens, large.completion_tokens, large.cost_microusd) == (100, 50, 15)


ROUTED = {
    name: value
    for name, value in record(kind="routed", decision="default", algorithm="single").items()
    if name not in ("calls", "stages", "budget", "spent", "confidence_permille")
} | {"model": "small", "prompt_tokens": 100, "completion_tokens": 40, "cost_microusd": 13}


def test_a_routed_request_counts_as_its_models_call() -> None:
    """By its status; its decision's dearest member is the only one."""
    failed = {**ROUTED, "status": 503, "outcome": "failed", "completion_tokens": 0}
    found = seen([ROUTED, ROUTED, failed])
    (default,) = found.decisions
    (small,) = found.models
    assert (small.calls, small.errors, small.completion_tokens) == (3, 1, 80)
    assert default.outcomes == {"ok": 2, "failed": 1}
    assert default.savings == Savings("small", 2, 26, 2 * 13)
    assert default.calls == 1
    assert json.dumps(summary(ROUTED)["calls"]) == "1"


def test_a_decision_of_one_model_costs_what_that_costs_alone() -> None:
    """However little that is: a run's cost is rounded up to micro-USD."""
    tiny = {**ROUTED, "prompt_tokens": 11, "completion_tokens": 19, "cost_microusd": 5}
    tiny["request"] = {**ROUTED["request"], "prompt_tokens": 11}
    (default,) = seen([tiny, tiny, tiny]).decisions
    assert default.savings == Savings("small", 3, 15, 15)


def test_shares_are_those_of_requests_and_not_of_what_memory_has_left_of_them() -> None:
    runs = Runs(TraceSettings(keep=100, routed=RoutedTrace(keep=10)))
    for number in range(10):
        runs.add(record(number))
        for _ in range(9):
            runs.add(ROUTED)
    found = overview(runs.kept(), RUNTIME)
    shares = {each.decision: round(each.share, 2) for each in found.decisions}
    assert shares == {"panel": 0.1, "default": 0.9}


def test_what_left_no_record_has_its_share() -> None:
    """Of a burst of routed requests a few leave a record, which stand for the others."""
    runs = Runs(TraceSettings(routed=RoutedTrace(per_second=0.2)))
    runs.add(record(1))
    for _ in range(7):
        if runs.wants_routed():
            runs.add(ROUTED)
    runs.follow(TraceSettings())
    for _ in range(2):
        assert runs.wants_routed()
        runs.add(ROUTED)
    assert [(kept.number, kept.stands_for) for kept in runs.kept()] == [
        (10, 1), (9, 6), (3, 1), (2, 1), (1, 1)
    ]  # fmt: skip
    shares = [each.share for each in overview(runs.kept(), RUNTIME).decisions]
    assert shares == pytest.approx([0.9, 0.1])


def test_many_routed_requests_leave_teams_runs_in_memory() -> None:
    """Each kind has a ring; together they are told in the order in which they came."""
    runs = Runs(TraceSettings(keep=3, routed=RoutedTrace(keep=3)))
    for number in range(2):
        runs.add(record(number))
    for number in range(10, 20):
        runs.add({**ROUTED, "run": f"{number:016x}"})
    runs.add(record(20))
    assert [int(kept.summary["run"], 16) for kept in runs.kept()] == [20, 19, 18, 17, 1, 0]
    assert [kept.number for kept in runs.kept(after=11)] == [13, 12]
    assert runs.find(f"{1:016x}") is not None
    assert runs.find(f"{11:016x}") is None
    runs.follow(TraceSettings(keep=1, routed=RoutedTrace(keep=1)))
    assert [int(kept.summary["run"], 16) for kept in runs.kept()] == [20, 19]
