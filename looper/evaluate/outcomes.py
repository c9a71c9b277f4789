"""Recorded outcomes: what models answered to questions whose right answer is known, one JSON object a line."""

import gzip
import hashlib
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import msgspec

from looper.calling.calls import Voice

V = TypeVar("V")
Count = Annotated[int, msgspec.Meta(ge=0)]

CHARS_PER_TOKEN = 4


class OutcomesError(ValueError):
    """A file of outcomes that cannot be used; says which line."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One question. Every mapping is by model; a model that is left out was not asked, or said nothing.

    `answers` are canonical: equal texts are one answer, and a blank one is silence. `correct` says who was right;
    without it that is who gave `gold`. `asked` says who was heard, where that may not be everybody.
    """

    id: str = ""
    category: str = ""
    options: Annotated[int, msgspec.Meta(ge=1)] | None = None
    gold: str | None = None
    prompt_chars: Count = 0
    answers: dict[str, str]
    asked: frozenset[str] | None = None
    correct: dict[str, Annotated[int, msgspec.Meta(ge=0, le=1)]] | None = None
    chars: dict[str, Count] = {}
    logprob: dict[str, float] = {}
    scores: dict[str, dict[str, float]] = {}
    cost: dict[str, float] = {}
    latency: dict[str, float] = {}

    def answer(self, model: str) -> str | None:
        """What a model said; None if it was silent."""
        return self.answers.get(model) or None

    def tokens(self, model: str) -> float | None:
        """About how long a model's output is; None if it was silent, or that is not known."""
        chars = self.chars.get(model)
        return (
            None if self.answer(model) is None or not chars else max(1.0, chars / CHARS_PER_TOKEN)
        )

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

    def of_all(self, models: Collection[str]) -> "Outcomes":
        """The questions that all of these were heard about: of who was not, nobody knows what it would have said."""
        rows = [row for row in self.rows if row.asked is None or row.asked.issuperset(models)]
        return Outcomes(rows, self.checksum)

    def within(self, categories: Collection[str]) -> "Outcomes":
        """The same, but that no question is of any other category than these."""
        rows = [row if row.category in categories else _plain(row) for row in self.rows]
        return Outcomes(rows, self.checksum)

    def categories_beside(self, categories: Collection[str]) -> tuple[str, ...]:
        """The categories of questions, other than these; none, if all questions are of one."""
        found = {row.category for row in self.rows}
        return tuple(sorted(found - {"", *categories})) if len(found) > 1 else ()

    def renamed(self, names: Mapping[str, str]) -> "Outcomes":
        """The same with other names for some models."""
        return Outcomes([_renamed(row, names) for row in self.rows], self.checksum)


def _plain(row: Question) -> Question:
    return msgspec.structs.replace(row, category="")


def _renamed(row: Question, names: Mapping[str, str]) -> Question:
    def new(by_model: Mapping[str, V]) -> dict[str, V]:
        return {names.get(model, model): value for model, value in by_model.items()}

    return msgspec.structs.replace(
        row,
        answers=new(row.answers),
        asked=None if row.asked is None else frozenset(names.get(each, each) for each in row.asked),
        correct=None if row.correct is None else new(row.correct),
        chars=new(row.chars),
        logprob=new(row.logprob),
        scores={method: new(each) for method, each in row.scores.items()},
        cost=new(row.cost),
        latency=new(row.latency),
    )


_decoder = msgspec.json.Decoder(Question)


def read_outcomes(paths: Iterable[Path], category: str | None = None) -> Outcomes:
    """Read JSONL files, gzipped or not: outcomes, or records of runs with `gold` added to them.

    `category` is the key under which a run's record has one, if nobody has added that too.

    Raises OutcomesError for the first line that is none.
    """
    digest = hashlib.sha256()
    rows: list[Question] = []
    for path in paths:
        try:
            data = path.read_bytes()
            text = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        except (OSError, EOFError, zlib.error) as error:
            raise OutcomesError(f"{path}: cannot be read: {error}") from None
        digest.update(text)
        rows += _rows(path, text, category)
    if not rows:
        raise OutcomesError("no outcomes in the data")
    return Outcomes(rows, f"sha256:{digest.hexdigest()}")


class _Tokens(msgspec.Struct, frozen=True):
    """What a call took, as far as it is an answer's length."""

    completion_tokens: int = 0


class _Call(msgspec.Struct, frozen=True):
    """A call of a run's record, as far as it is an answer."""

    model: str
    role: str = "member"
    state: str = "ok"
    answer: str | None = None
    text: str = ""
    usage: _Tokens = _Tokens()
    cost_microusd: float | None = None
    seconds: float | None = None
    measured: dict[str, float] = {}

    @property
    def heard(self) -> bool:
        """Whether it came to an end of its own, even if to a bad one."""
        return self.state not in ("cancelled", "not_started")

    @property
    def speaks(self) -> bool:
        """Whether it counts in a vote."""
        return self.state == "ok" and self.answer is not None

    @property
    def chars(self) -> int:
        """The length of all that was written, thoughts too where they were counted."""
        return self.usage.completion_tokens * CHARS_PER_TOKEN or len(self.text)


class _Record(msgspec.Struct, frozen=True):
    """A run as `trace.file` has it with `record: full`; whoever knows what is right has added `gold`."""

    run: str
    calls: list[_Call]
    gold: str | None = None
    category: str = ""
    options: int | None = None


_record_decoder = msgspec.json.Decoder(_Record)


_facts = msgspec.json.Decoder(dict[str, Any])


def _recorded(line: bytes, category: str | None) -> Question:
    """A run's record as a question: what each member said in the end, what it took, and what it cost."""
    record = _record_decoder.decode(line)
    voices = [call for call in record.calls if call.role in get_args(Voice)]
    said = {call.model: call for call in voices if call.speaks}
    return Question(
        id=record.run,
        category=record.category or _told(line, category),
        options=record.options,
        gold=record.gold,
        answers={name: call.answer or "" for name, call in said.items()},
        asked=frozenset(call.model for call in voices if call.heard),
        chars={name: call.chars for name, call in said.items()},
        cost={n: c.cost_microusd / 1e6 for n, c in said.items() if c.cost_microusd is not None},
        latency={name: call.seconds for name, call in said.items() if call.seconds is not None},
        scores=_by_method({name: call.measured for name, call in said.items()}),
    )


def _told(line: bytes, key: str | None) -> str:
    found = None if key is None else _facts.decode(line).get(key)
    return found if isinstance(found, str) else ""


def _by_method(measured: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    methods = {method for scores in measured.values() for method in scores}
    return {
        method: {name: scores[method] for name, scores in measured.items() if method in scores}
        for method in methods
    }


def _rows(path: Path, text: bytes, category: str | None) -> Iterable[Question]:
    for number, line in enumerate(text.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = _recorded(line, category) if b'"calls":' in line else _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise OutcomesError(f"{path}:{number}: {error}") from None
        if row.gold is None and row.correct is None:
            raise OutcomesError(f"{path}:{number}: neither `gold` nor `correct`: who is right?")
        yield row
