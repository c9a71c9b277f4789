"""Whether a configuration has changed, told by its content: a mounted file is replaced, and its inode with it."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from extproc.config.load import Loaded, load
from extproc.errors import ConfigError
from looper.settings.files import read

_WATCHED = 64 << 20
"""Bytes of a file that is looked at, such as one of weights."""


class Watched:
    """A configuration file and those that it includes. `loaded` is what was last found to be right."""

    def __init__(self, path: Path, files: Sequence[Path] = ()) -> None:
        self.path = path
        self._files = tuple(files)
        self._seen = self._content()

    def news(self) -> bool:
        """Whether anything is different since the last time that there were news, or the beginning. Reads files."""
        content = self._content()
        if content == self._seen:
            return False
        self._seen = content
        return True

    def load(self) -> Loaded:
        """What the file says now. Raises ConfigError with every problem in it."""
        try:
            loaded = load(self.path)
        except ConfigError as error:
            # What is included may be what has to be mended.
            self._follow({*self._files, *error.files})
            raise
        self._follow(set(loaded.files))
        return loaded

    def _follow(self, files: set[Path]) -> None:
        if files != set(self._files):
            self._files = tuple(sorted(files))
            self._seen = b""  # so that a change of one that has just been read is not missed

    def _content(self) -> bytes:
        digest = hashlib.sha256()
        for path in (self.path, *self._files):
            digest.update(_digest(path))
        return digest.digest()


def _digest(path: Path) -> bytes:
    try:
        return hashlib.sha256(read(path, _WATCHED)).digest()
    except OSError:
        return b"(cannot be read)"
