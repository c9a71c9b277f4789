"""Questions to be asked, one JSON object a line: what a client would send, and what is right."""

import gzip
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Annotated, Any

import msgspec

from looper.evaluate.outcomes import OutcomesError, Question


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """A question as it stands in a file: its text, with options to choose from if it has some, or whole messages.

    What is right and the category may stand with the recorded answers instead.
    """

    id: Annotated[str, msgspec.Meta(min_length=1)]
    text: str | None = None
    messages: list[dict[str, Any]] | None = None
    options: list[str] | None = None
    gold: str | None = None
    category: str = ""

    def conversation(self) -> list[dict[str, Any]]:
        """The messages that a client would send."""
        if self.messages is not None:
            return self.messages
        lettered = [
            f"{letter}) {option}"
            for letter, option in zip(ascii_uppercase, self.options or (), strict=False)
        ]
        return [{"role": "user", "content": "\n".join([self.text or "", *lettered])}]


_decoder = msgspec.json.Decoder(Item)


def read_dataset(path: Path) -> list[Item]:
    """Read a JSONL file, gzipped or not. Raises OutcomesError for the first line that is none."""
    try:
        data = path.read_bytes()
        text = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError) as error:
        raise OutcomesError(f"{path}: cannot be read: {error}") from None
    items = list(_items(path, text))
    if not items:
        raise OutcomesError(f"{path}: no questions in it")
    if len({item.id for item in items}) < len(items):
        raise OutcomesError(f"{path}: an `id` stands twice")
    return items


def _items(path: Path, text: bytes) -> Iterator[Item]:
    for number, line in enumerate(text.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            item = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise OutcomesError(f"{path}:{number}: {error}") from None
        if item.text is None and not item.messages:
            raise OutcomesError(f"{path}:{number}: neither `text` nor `messages`: what is asked?")
        yield item


def joined(items: Sequence[Item], recorded: Iterable[Question]) -> list[tuple[Item, Question]]:
    """The questions that were recorded, each with its record, in the order of the dataset.

    Raises OutcomesError if there is none, or one of which nobody says what is right.
    """
    by_id: Mapping[str, Question] = {row.id: row for row in recorded}
    pairs = [(item, by_id[item.id]) for item in items if item.id in by_id]
    if not pairs:
        raise OutcomesError("no question of the dataset has a record: are the `id`s the same?")
    for item, row in pairs:
        if item.gold is None and row.gold is None and row.correct is None:
            raise OutcomesError(f"question {item.id}: nobody says what is right")
    return pairs
