"""A text that signals look at, in each of the shapes that they look at it in, each made once."""

from functools import cached_property
from typing import Literal

from extproc.signals.words import spelling
from looper.wire.folding import folded, plain
from looper.wire.tokens import ends

LONGEST_TEXT = 128 * 1024
"""Characters of a text that signals look at: of a longer one, its beginning and its end."""

Role = Literal["user", "system", "developer", "assistant", "tool", "function"]


class Text:
    """What somebody wrote, over all turns."""

    def __init__(self, said: str) -> None:
        self.written = ends(said, LONGEST_TEXT)
        """As it stands: of a long text, beginning and end."""
        self.is_whole = len(said) <= LONGEST_TEXT

    @cached_property
    def folded(self) -> str:
        """The same without regard to case, width, and what cannot be seen."""
        return folded(self.written)

    @cached_property
    def utf8(self) -> bytes:
        """As RE2 reads it. Half a surrogate pair, which JSON can hold, is no reason to fail."""
        return self.written.encode("utf-8", "replace")

    @cached_property
    def plain_utf8(self) -> bytes:
        """The same in one width and without what cannot be seen."""
        return plain(self.written).encode("utf-8", "replace")

    @cached_property
    def spelling(self) -> list[str]:
        """The words, in scripts that put spaces between them."""
        return spelling(self.folded)

    @cached_property
    def words(self) -> frozenset[str]:
        """Those that differ."""
        return frozenset(self.spelling)
