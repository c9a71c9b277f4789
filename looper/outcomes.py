"""Recorded outcomes: what models answered to questions whose right answer is known, one JSON object a line."""

import gzip
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

V = TypeVar("V")
Count = Annotated[int, msgspec.Meta(ge=0)]


class OutcomesError(ValueError):
    """A file of outcomes that cannot be used; says which line."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One question. Every mapping is by model; a model that is left out was not asked, or said nothing.

    `answers` are canonical: equal texts are one answer, and a blank one is silence. `correct` says who was right;
    without it that is who gave `gold`.
    """

    id: str = ""
    category: str = ""
    options: Annotated[int, msgspec.Meta(ge=1)] | None = None
    gold: str | None = None
    prompt_chars: Count = 0
    answers: dict[str, str]
    correct: dict[str, Annotated[int, msgspec.Meta(ge=0, le=1)]] | None = None
    chars: dict[str, Count] = {}
    logprob: dict[str, float] = {}
    scores: dict[str, dict[str, float]] = {}
    cost: dict[str, float] = {}
    latency: dict[str, float] = {}

    def answer(self, model: str) -> str | None:
        """What a model said; None if it was silent."""
        return self.answers.get(model) or None

    def is_right(self, model: str) -> bool:
        if self.answer(model) is None:
            return False
        if self.correct is not None:
            return bool(self.correct.get(model))
        return self.answers[model] == self.gold


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The questions of some files, in order, and the checksum of what was read."""

    rows: Sequence[Question]
    checksum: str

    @property
    def models(self) -> list[str]:
        return sorted({model for row in self.rows for model in row.answers})

    def renamed(self, names: Mapping[str, str]) -> "Outcomes":
        """The same with other names for some models."""
        return Outcomes([_renamed(row, names) for row in self.rows], self.checksum)


def _renamed(row: Question, names: Mapping[str, str]) -> Question:
    def new(by_model: Mapping[str, V]) -> dict[str, V]:
        return {names.get(model, model): value for model, value in by_model.items()}

    return msgspec.structs.replace(
        row,
        answers=new(row.answers),
        correct=None if row.correct is None else new(row.correct),
        chars=new(row.chars),
        logprob=new(row.logprob),
        scores={method: new(each) for method, each in row.scores.items()},
        cost=new(row.cost),
        latency=new(row.latency),
    )


_decoder = msgspec.json.Decoder(Question)


def read_outcomes(paths: Iterable[Path]) -> Outcomes:
    """Read JSONL files, gzipped or not. Raises OutcomesError for the first line that is none."""
    digest = hashlib.sha256()
    rows: list[Question] = []
    for path in paths:
        try:
            data = path.read_bytes()
            text = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        except (OSError, EOFError) as error:
            raise OutcomesError(f"{path}: cannot be read: {error}") from None
        digest.update(text)
        rows += _rows(path, text)
    if not rows:
        raise OutcomesError("no outcomes in the data")
    return Outcomes(rows, f"sha256:{digest.hexdigest()}")


def _rows(path: Path, text: bytes) -> Iterable[Question]:
    for number, line in enumerate(text.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise OutcomesError(f"{path}:{number}: {error}") from None
        if row.gold is None and row.correct is None:
            raise OutcomesError(f"{path}:{number}: neither `gold` nor `correct`: who is right?")
        yield row
