"""Regular expressions in RE2's syntax, whose time grows with the text and never explodes."""

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import Annotated

import re2  # type: ignore[import-untyped]  # google-re2 has no types
from pydantic import AfterValidator, Field

_LONGEST = 1_000
_TAIL = 4_096
_STRETCH = 8_192
_MEMORY = 2 << 20


def _options(memory: int) -> re2.Options:
    options = re2.Options()
    options.log_errors = False  # RE2 would write to stderr, past the log
    options.max_mem = memory  # the binding keeps the last 128 patterns
    options.never_capture = True  # the whole match is what counts, and finding groups takes longer
    return options


class Pattern:
    """A compiled pattern. Raises ValueError for what RE2 does not take: its reason is in the message."""

    def __init__(self, source: str, memory: int = _MEMORY, longest: int = _LONGEST) -> None:
        if len(source) > longest:
            raise ValueError(f"a pattern has at most {longest} characters")
        self.source = source
        self._memory = memory
        self._compiled = _compile(source, memory)
        self.size: int = self._compiled.programsize

    @cached_property
    def _last(self) -> re2._Regexp:
        # Greedy, so that what is left for the pattern is its last match: one pass, where going from match to match may
        # look at the whole rest of the text for each.
        return _compile(f"(?s:.*)(?m:{self.source})", self._memory)

    def found(self, text: str | bytes) -> bool:
        return self._compiled.search(_utf8(text)) is not None

    def count(self, text: str | bytes, most: int) -> int:
        """How many matches there are, as far as `most`, none of which reaches from one stretch of lines into the next.

        To go from match to match may mean to look at all that follows, for each; at a stretch, that is not much.
        """
        raw, found = _utf8(text), 0
        for start, stop in _stretches(raw):
            found += sum(1 for _ in islice(self._compiled.finditer(raw[start:stop]), most - found))
            if found >= most:
                break
        return found

    def whole(self, text: str) -> bool:
        return self._compiled.fullmatch(_utf8(text)) is not None

    def last(self, text: str) -> str | None:
        """The last match, as if each line were searched by itself; of a very long line, its end is looked at."""
        raw = _utf8(text)
        found = self._last.match(raw)
        if found is None:
            return None
        # What was found is where the last match ends; where it begins, its line says.
        start = raw.rfind(b"\n", 0, max(found.end() - 1, 0)) + 1
        line = raw[start : found.end()][-_TAIL:]
        matches = [each[0] for each in self._compiled.finditer(line) if each[0]]
        return matches[-1].decode("utf-8", "replace") if matches else None


def _compile(source: str, memory: int) -> re2._Regexp:
    try:
        return re2.compile(source, _options(memory))
    except (re2.error, UnicodeEncodeError) as error:
        raise ValueError(f"RE2 does not take the pattern: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    (reason, *_) = error.args
    return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)


def _stretches(raw: bytes) -> Iterator[tuple[int, int]]:
    """Parts of a text, each ending with a line; where lines are very long, between two words or just somewhere."""
    start = 0
    while start < len(raw):
        stop = min(start + _STRETCH, len(raw))
        if stop < len(raw):
            line = raw.rfind(b"\n", start, stop) + 1
            stop = line or raw.rfind(b" ", start, stop) + 1 or stop
        yield start, stop
        start = stop


def _utf8(text: str | bytes) -> bytes:
    """Half a surrogate pair, which JSON can smuggle into a text, is no reason to fail."""
    return text if isinstance(text, bytes) else text.encode("utf-8", "replace")


def _compiles(source: str) -> str:
    Pattern(source)
    return source


PatternSource = Annotated[str, Field(min_length=1, max_length=_LONGEST), AfterValidator(_compiles)]
"""A regular expression in RE2's syntax; one that RE2 does not take is an error at load."""
