import json
from pathlib import Path
from typing import Any

import pytest

from looper.outcomes import OutcomesError, read_outcomes

RECORD: dict[str, Any] = {
    "time": "2026-01-02T03:04:05.678+00:00",
    "run": "0123456789abcdef",
    "decision": "vote",
    "options": 4,
    "calls": [
        {"model": "small", "role": "member", "state": "ok", "at": 0.1, "seconds": 1.5, "answer": "B",
         "text": "It is B.", "cost_microusd": 12.5, "measured": {"margin": 0.4}},
        {"model": "other", "role": "member", "state": "failed", "at": 0.1, "reason": "status", "status": 500},
        {"model": "judge", "role": "judge", "state": "ok", "at": 1.7, "text": "{}"},
    ],
    "notes": [],
}  # fmt: skip


def read(folder: Path, *rows: Any) -> Any:
    path = folder / "runs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return read_outcomes([path]).rows


def test_a_runs_record_with_what_is_right_is_an_outcome(tmp_path: Path) -> None:
    """Who answered what, in which time and at which cost, stands in the file that `trace` writes."""
    (row,) = read(tmp_path, {**RECORD, "gold": "B", "category": "history"})
    assert (row.id, row.category, row.options, row.gold) == ("0123456789abcdef", "history", 4, "B")
    assert row.answers == {"small": "B"}
    assert row.latency == {"small": 1.5}
    assert row.cost == {"small": 12.5 / 1e6}
    assert row.chars == {"small": 8}
    assert row.scores == {"margin": {"small": 0.4}}
    assert row.tokens("small") == 2
    assert row.is_right("small")
    assert not row.is_right("other")


def test_a_length_is_what_was_counted_where_that_is_known(tmp_path: Path) -> None:
    """Thoughts that nobody sees are part of what a model wrote."""
    said, *rest = RECORD["calls"]
    counted = {
        **said,
        "usage": {"prompt_tokens": 50, "completion_tokens": 120, "total_tokens": 170},
    }
    (row,) = read(tmp_path, {**RECORD, "calls": [counted, *rest], "gold": "B"})
    assert row.tokens("small") == 120
    assert row.tokens("other") is None


def test_without_what_is_right_it_is_none(tmp_path: Path) -> None:
    """A record does not say by itself who was right."""
    with pytest.raises(OutcomesError, match=r"runs\.jsonl:2: neither"):
        read(tmp_path, {**RECORD, "gold": "B"}, RECORD)


def test_records_and_outcomes_may_stand_together(tmp_path: Path) -> None:
    """Whichever of both a line is."""
    plain = {"id": "q", "gold": "A", "answers": {"small": "A"}}
    assert [row.id for row in read(tmp_path, plain, {**RECORD, "gold": "B"})] == [
        "q",
        RECORD["run"],
    ]


@pytest.mark.parametrize(
    ("added", "category"),
    [({}, "law"), ({"category": "history"}, "history"), ({"shape.task": 3}, "")],
    ids=["projected", "added", "nonsense"],
)
def test_a_category_is_what_the_decision_took_the_request_for(
    tmp_path: Path, added: dict[str, Any], category: str
) -> None:
    """By the projection that it names, unless somebody knows better."""
    path = tmp_path / "runs.jsonl"
    path.write_text(json.dumps({**RECORD, "gold": "B", "shape.task": "law", **added}))
    (row,) = read_outcomes([path], "shape.task").rows
    assert row.category == category
    (row,) = read_outcomes([path]).rows
    assert row.category == added.get("category", "")
