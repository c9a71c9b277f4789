"""YAML that remembers where each value stood, so that an error can name its line."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from extproc.errors import ConfigError

Path = tuple[str | int, ...]

_MAX_REPEATED = 1000
"""Values that may stand in place of aliases: a few lines could unfold to millions."""

_MAX_DEPTH = 64


class Place(NamedTuple):
    """Where a value stands: its file, its line, and its path in that file."""

    name: str
    line: int
    path: Path

    def says(self, text: str) -> str:
        """A problem with the value, as operators read it."""
        where = f"{dotted(self.path)}: " if self.path else ""
        return f"{self.name}:{self.line}: {where}{text}"


@dataclass(frozen=True, slots=True)
class YamlSource:
    """A parsed file: plain data, and for each path in it the line (from 1) of its key or item.

    `origins` says for values that were put in from elsewhere in which file, and under which path, they stand there.
    """

    name: str
    data: Any
    lines: Mapping[Path, int]
    origins: Mapping[Path, tuple["YamlSource", Path]] = field(default_factory=dict)

    def line(self, path: Path) -> int:
        """The line of the value at `path`, or of the closest thing around it that is in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def place(self, path: Path) -> Place:
        """Where the value at `path` was written, in this file or the one that it comes from."""
        for size in range(len(path), 0, -1):
            if path[:size] in self.origins:
                source, start = self.origins[path[:size]]
                there = (*start, *path[size:])
                return Place(source.name, source.line(there), there)
        return Place(self.name, self.line(path), path)

    def placed(self, problems: Iterable[tuple[Path, str]]) -> list["Problem"]:
        """Problems by their paths, where they were written."""
        return [(self.place(path), text) for path, text in problems]


Problem = tuple[Place, str]


def in_words(problems: Iterable[Problem], first: str) -> list[str]:
    """Each problem once, as a line of text: those of the file `first` before others', each file's in its order."""
    found = sorted(set(problems), key=lambda each: (each[0].name != first, each[0][:2], each[1]))
    return [place.says(text) for place, text in found]


def parse_yaml(text: str, name: str) -> YamlSource:
    """Read one YAML document.

    Raises ConfigError for what is not YAML, for a key that stands twice in one mapping or is more than a word, and
    for a document that aliases would unfold to something huge.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        walk = _Walk(name)
        if node is not None:
            walk.visit(node, ())
        if walk.problems:
            raise ConfigError(walk.problems)
        data = loader.construct_document(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError([f"{name}:{line}: not YAML: {error.problem or error.context}"]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            [f"{name}:{line}: not YAML: a character that may not stand there"]
        ) from None
    except RecursionError:
        raise ConfigError([f"{name}:1: nested too deeply"]) from None
    return YamlSource(name, data, walk.lines)


class _Loader(yaml.SafeLoader):
    """Says where a value stood that looks like a date or a number and is none."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.MarkedYAMLError:
            raise
        except Exception:  # what PyYAML makes of `!!bool maybe` or `!!int ''` is any error
            raise yaml.constructor.ConstructorError(
                None, None, "is not what its tag or its look says", node.start_mark
            ) from None


class _Walk:
    """Finds the line of every value, and what is wrong with the document as such."""

    def __init__(self, name: str) -> None:
        self.lines: dict[Path, int] = {}
        self.problems: list[str] = []
        self._name = name
        self._seen: set[int] = set()
        self._repeated = 0

    def visit(self, node: yaml.Node, path: Path) -> None:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self._repeated += id(node) in self._seen
        self._seen.add(id(node))
        if self._repeated > _MAX_REPEATED or len(path) > _MAX_DEPTH:
            raise ConfigError([f"{self._name}:{line}: nested too deeply, or too often repeated"])
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                self._visit_key(key, path)
                self.visit(value, (*path, str(key.value)))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self.visit(value, (*path, index))

    def _visit_key(self, key: yaml.Node, path: Path) -> None:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError([f"{self._name}:{line}: {dotted(path)}: a key is a word"])
        below = (*path, key.value)
        if below in self.lines:
            self.problems.append(f"{self._name}:{line}: {dotted(below)}: the key stands twice")
        self.lines[below] = line


def dotted(path: Path) -> str:
    """A path as operators write it: `recipes.general.decisions[0].when`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "(top)"
