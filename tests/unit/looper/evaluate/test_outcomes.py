import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from looper.evaluate.outcomes import OutcomesError, read_outcomes

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


def test_only_words_that_are_weighed_are_answers(tmp_path: Path) -> None:
    """What a model wrote out of the others' answers, and half an answer that was given up, is not its own."""
    said, failed, *_ = RECORD["calls"]
    final = {**said, "role": "final", "answer": "C"}
    given_up = {**said, "model": "slow", "state": "cancelled", "answer": "D"}
    broken = {**failed, "answer": "D"}
    (row,) = read(tmp_path, {**RECORD, "calls": [said, broken, given_up, final], "gold": "B"})
    assert row.answers == {"small": "B"}
    assert row.asked == {"small", "other"}


def test_who_was_not_heard_was_not_wrong(tmp_path: Path) -> None:
    """Of runs that ended early nobody knows what the others would have said; plain outcomes leave out who is silent."""
    plain = {"id": "q", "gold": "A", "answers": {"small": "A"}}
    told = {**plain, "id": "told", "asked": ["small", "late"]}
    path = tmp_path / "runs.jsonl"
    path.write_text("\n".join(map(json.dumps, [plain, told, {**RECORD, "gold": "B"}])))
    found = read_outcomes([path])
    assert [row.id for row in found.of_all(["small", "other"]).rows] == ["q", RECORD["run"]]
    assert [row.id for row in found.of_all(["small", "late"]).rows] == ["q", "told"]
    renamed = found.renamed({"late": "new"})
    assert [row.id for row in renamed.of_all(["small", "new"]).rows] == ["q", "told"]


def test_an_archive_that_is_broken_is_none(tmp_path: Path) -> None:
    """It is said which one, wherever in it the damage is."""
    whole = bytearray(gzip.compress(json.dumps({"gold": "A", "answers": {}}).encode() * 50))
    whole[10] |= 0x06  # a kind of block that there is not
    path = tmp_path / "outcomes.jsonl.gz"
    path.write_bytes(whole)
    with pytest.raises(OutcomesError, match=r"outcomes\.jsonl\.gz: cannot be read"):
        read_outcomes([path])


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
