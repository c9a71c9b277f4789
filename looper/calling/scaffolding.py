"""What we put around others' answers in a prompt, found again in what a model writes that has read it, and taken out.

Small models repeat the lines between which evidence stands, and how it is called. None of that is for a client, nor for
another model. What could be the beginning of it is held back until more is known.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal, get_args

import msgspec

from looper.wire.chat import ABSENT, Choice, Completion, Reply
from looper.wire.deltas import merge_logprobs

Label = Literal["candidate", "answer", "reference", "comparison", "verdict", "request"]
"""What we call what a model is shown."""

_NAMES = "|".join(get_args(Label))
_WHOSE = r"(?: the (?:answer|verdict) of ([a-z0-9_-]{1,32}\.\d{1,2}))?"
_FENCE = re.compile(rf"^\[({_NAMES}) \d{{1,3}} (\S{{1,64}})\]{_WHOSE}", re.MULTILINE)
_BRACKETS = re.compile(
    rf"\[(?:end of )?({_NAMES}) (\d{{1,3}})(?: [^\]\s]{{0,64}})?\]"
    r"(?: the (?:answer|verdict) of [a-z0-9_-]{1,32}\.\d{1,2})?(?:, cut off: its end is missing)? ?",
    re.IGNORECASE,
)
_TORN = re.compile(rf"\[(?:end of )?({_NAMES}) \d", re.IGNORECASE)
_AGENT = re.compile(
    r"(?:\bthe )?\b(?:answer|verdict)(?: \d{1,3})? of ([a-z0-9_-]{1,32}\.\d{1,2})(?!\.?\d) ?", re.IGNORECASE
)  # fmt: skip
_LONG = 200
"""Characters from which on a line with a mark in it is a paragraph, of which only the mark is taken out."""

_MOST = 12
"""Numbers that answers have, as far as the beginning of their lines is waited for."""


@dataclass(frozen=True)
class Scaffold:
    """What stands around the evidence of one prompt: marks, what it is called, and whose it is."""

    marks: tuple[str, ...]
    labels: tuple[str, ...]
    agents: tuple[str, ...]

    def cleaned(self, text: str) -> str:
        """A text without lines that carry a mark, and without our names of what its author has read.

        Where nothing but signs is left of it, nothing is.
        """
        if not self._is_in(text):
            return text
        lines = (self.line(line) for line in self.whole(text).splitlines(keepends=True))
        left = "".join(line for line in lines if line is not None)
        return left if _speaks(left) else ""

    def whole(self, text: str) -> str:
        """A text without a line of ours at its end that was cut off."""
        at = text.rfind("[", -self._longest)
        torn = at >= 0 and _TORN.match(text, at) is not None
        return text[:at] if torn and self._begins(text[at:].lower()) else text

    def line(self, line: str) -> str | None:
        """A line without them; None if it is of no use then."""
        if self.is_marked(line) and len(line) <= _LONG:
            return None
        left = self.inline(line)
        return left if left == line or _speaks(left) else None

    def inline(self, text: str) -> str:
        """Some of a line without them."""
        if not self._is_in(text):
            return text
        text = _AGENT.sub(self._unless_theirs, _BRACKETS.sub("", text))
        for mark in self.marks:
            text = re.sub(re.escape(mark), "", text, flags=re.IGNORECASE)
        return text

    def unmarked(self, text: str) -> str:
        """A text that keeps our names of what it is about, without the marks."""
        if not self.is_marked(text):
            return text
        text = _BRACKETS.sub(r"\1 \2 ", text)
        return re.sub("|".join(map(re.escape, self.marks)), "", text, flags=re.IGNORECASE)

    def is_marked(self, text: str) -> bool:
        """Whether any mark stands in a text."""
        low = text.lower()
        return any(mark in low for mark in self.marks)

    def open_from(self, text: str) -> int:
        """From where on a text may be the beginning of something of ours; its length if nothing is."""
        low = text.lower()
        for at in range(max(0, len(low) - self._longest), len(low)):
            if low[at] in self._firsts and self._begins(low[at:]):
                return at
        return len(low)

    def _is_in(self, text: str) -> bool:
        low = text.lower()
        return any(each in low for each in self._signs)

    def _unless_theirs(self, found: re.Match[str]) -> str:
        return "" if found[1].lower() in self.agents else found[0]

    def _begins(self, tail: str) -> bool:
        at = bisect_left(self._phrases, tail)
        return at < len(self._phrases) and self._phrases[at].startswith(tail)

    @cached_property
    def _signs(self) -> tuple[str, ...]:
        brackets = (f"[{begin}{label} " for label in self.labels for begin in ("", "end of "))
        return (*self.marks, *self.agents, *brackets)

    @cached_property
    def _phrases(self) -> Sequence[str]:
        """What we write, and how models repeat it."""
        return sorted({*self.marks, *self._lines(), *self._agents()})

    def _lines(self) -> Iterator[str]:
        for label in self.labels:
            for number in range(1, _MOST + 1):
                for begin in ("", "end of "):
                    yield f"[{begin}{label} {number}]"
                    yield from (f"[{begin}{label} {number} {mark}]" for mark in self.marks)

    def _agents(self) -> Iterator[str]:
        for agent in self.agents:
            for what in ("answer", "verdict"):
                for name in (what, *(f"{what} {number}" for number in range(1, _MOST + 1))):
                    yield from (f"{name} of {agent}", f"the {name} of {agent}")

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._phrases))

    @cached_property
    def _firsts(self) -> frozenset[str]:
        return frozenset(phrase[0] for phrase in self._phrases)


def scaffold_of(ours: Iterable[msgspec.Raw]) -> Scaffold | None:
    """What stands around the evidence in messages of ours; None if they show none."""
    raws = [bytes(raw) for raw in ours]
    if not any(b"[end of " in raw for raw in raws):
        return None
    return _read("\n".join(_content(raw) for raw in raws))


@lru_cache(maxsize=64)
def _read(told: str) -> Scaffold | None:
    found = [match.groups() for match in _FENCE.finditer(told)]
    if not found:
        return None
    labels, marks, agents = (
        tuple(dict.fromkeys(filter(None, each))) for each in zip(*found, strict=True)
    )
    return Scaffold(tuple(mark.lower() for mark in marks), labels, agents)


def _content(raw: bytes) -> str:
    said = msgspec.json.decode(raw, type=dict[str, Any]).get("content")
    return said if isinstance(said, str) else ""


def _speaks(text: str) -> bool:
    return any(map(str.isalnum, text))


# Answers, in one piece...

_TEXTS = ("content", "reasoning_content", "reasoning")


def without_scaffold(completion: Completion, scaffold: Scaffold | None) -> Completion:
    """A complete answer without what stood around the evidence that its author has read."""
    if scaffold is None:
        return completion
    choices = [_without(choice, scaffold) for choice in completion.choices]
    return msgspec.structs.replace(completion, choices=choices)


def _without(choice: Choice, scaffold: Scaffold) -> Choice:
    said = choice.message
    if said is None:
        return choice
    texts = {name: getattr(said, name) for name in _TEXTS}
    cleaned = {name: scaffold.cleaned(text) for name, text in texts.items() if text}
    if all(cleaned[name] == texts[name] for name in cleaned):
        return choice
    change = msgspec.structs.replace
    # Probabilities are of what was said, marks included.
    return change(choice, message=change(said, **cleaned), logprobs=ABSENT)


# ... and chunk by chunk.


class Sieve:
    """Takes what is ours out of the chunks of one answer, and holds back no more than what could be the beginning."""

    def __init__(self, scaffold: Scaffold | None) -> None:
        self._scaffold = scaffold
        self._texts: dict[tuple[int, str], _Flow] = {}
        self._held: dict[int, list[msgspec.Raw]] = {}

    def read(self, chunk: Completion) -> Completion:
        """What may be said now that a chunk has come."""
        if self._scaffold is None:
            return chunk
        choices = [self._bit(choice, self._scaffold) for choice in chunk.choices]
        return msgspec.structs.replace(chunk, choices=choices)

    def rest(self) -> Completion | None:
        """What was held back, now that nothing comes any more."""
        change = msgspec.structs.replace
        choices = [
            Choice(index=index, delta=change(Reply(), **{name: left}))
            for (index, name), flow in self._texts.items()
            if (left := flow.rest())
        ]
        said = [change(choice, logprobs=self._logprobs(choice)) for choice in choices]
        return Completion(choices=said) if said else None

    def _bit(self, choice: Choice, scaffold: Scaffold) -> Choice:
        said = choice.delta or choice.message
        if said is None:
            return choice
        change = msgspec.structs.replace
        texts = self._now(choice, said, scaffold)
        kept = {name: text for name, text in texts.items() if text != getattr(said, name)}
        logprobs = self._logprobs(choice)
        if not kept and logprobs is choice.logprobs:
            return choice
        where = "delta" if choice.delta is not None else "message"
        return change(choice, **{where: change(said, **kept)}, logprobs=logprobs)

    def _now(self, choice: Choice, said: Reply, scaffold: Scaffold) -> dict[str, str]:
        """What may be said of each text, where there is any."""
        texts: dict[str, str] = {}
        for name in _TEXTS:
            if text := getattr(said, name):
                flow = self._texts.get((choice.index, name))
                flow = flow or self._texts.setdefault((choice.index, name), _Flow(scaffold))
                texts[name] = flow.feed(text)
        if choice.finish_reason or said.tool_calls:
            for name in _TEXTS:  # what follows is no text any more
                if left := self._rest_of(choice.index, name):
                    texts[name] = texts.get(name, "") + left
        return texts

    def _rest_of(self, index: int, name: str) -> str:
        flow = self._texts.get((index, name))
        return "" if flow is None else flow.rest()

    def _logprobs(self, choice: Choice) -> msgspec.Raw:
        """The probabilities of what is said now: held back as long as the text is, and lost with what is taken out."""
        flow = self._texts.get((choice.index, "content"))
        held = self._held.setdefault(choice.index, [])
        if choice.logprobs != ABSENT:
            held.append(choice.logprobs)
        if not held or (flow is not None and flow.is_open):
            return ABSENT
        known, held[:] = [*held], []
        if flow is not None and flow.taken:
            flow.taken = False
            return ABSENT
        return known[0] if len(known) == 1 else _together(known)


def _together(known: Iterable[msgspec.Raw]) -> msgspec.Raw:
    """The probabilities of several chunks as those of one; none that are not what they should be."""
    merged: dict[str, Any] | None = None
    for raw in known:
        try:
            merged = merge_logprobs(merged, msgspec.json.decode(raw, type=dict[str, Any]))
        except msgspec.DecodeError:
            continue
    return ABSENT if merged is None else msgspec.Raw(msgspec.json.encode(merged))


@dataclass(slots=True)
class _Flow:
    """One text as it comes."""

    scaffold: Scaffold
    taken: bool = False
    """Whether anything was taken out."""
    _line: str = ""
    """Of the last line what was not said yet."""
    _begun: bool = False
    """Whether some of that line was said."""
    _signs: list[str] = field(default_factory=list)
    """What was said, as long as it is nothing but signs: it is held back, too."""
    _spoke: bool = False

    def feed(self, piece: str) -> str:
        """What may be said now."""
        *lines, self._line = (self._line + piece).split("\n")
        said = [self._ended(line + "\n") for line in lines]
        return self._aloud("".join((*said, self._going_on())))

    @property
    def is_open(self) -> bool:
        """Whether anything is held back."""
        return bool(self._line or self._signs)

    def rest(self) -> str:
        """What is left at the end."""
        line, self._line = self._line, ""
        left = self._ended(self.scaffold.whole(line))
        self.taken = self.taken or left != line
        if self.taken and not (self._spoke or _speaks(left)):
            return ""
        signs, self._signs, self._spoke = self._signs, [], True
        return "".join((*signs, left))

    def _ended(self, line: str) -> str:
        """What is said of a line that is complete, and of which nothing may have been said."""
        left = self.scaffold.inline(line) if self._begun else self.scaffold.line(line)
        self.taken = self.taken or left != line
        self._begun = False
        return left or ""

    def _going_on(self) -> str:
        """What is said of a line that goes on: nothing yet, if it may be one of ours."""
        line = self._line
        if not self._begun and len(line) <= _LONG and self._may_be_ours(line):
            return ""
        stop = self.scaffold.open_from(line)
        left = self.scaffold.inline(line[:stop])
        self.taken = self.taken or len(left) < stop
        if not self._begun and len(line) <= _LONG and not _speaks(left):
            return ""
        self._line, self._begun = line[stop:], True
        return left

    def _may_be_ours(self, line: str) -> bool:
        return not _speaks(line) or self.scaffold.is_marked(line)

    def _aloud(self, text: str) -> str:
        if not text or self._spoke:
            return text
        self._signs.append(text)
        if not _speaks(text):
            return ""
        signs, self._signs, self._spoke = self._signs, [], True
        return "".join(signs)
