"""YAML that remembers where each value stood, so that an error can name its line."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from extproc.errors import ConfigError

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class YamlSource:
    """A parsed file: plain data, and for each path in it the line (from 1) of its key or item."""

    name: str
    data: Any
    lines: Mapping[Path, int]

    def line(self, path: Path) -> int:
        """The line of the value at `path`, or of the closest thing around it that is in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def parse_yaml(text: str, name: str) -> YamlSource:
    """Read one YAML document.

    Raises ConfigError for what is not YAML, for a key that stands twice in one mapping, and for anchors that
    refer to themselves.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        lines: dict[Path, int] = {}
        problems: list[str] = []
        if node is not None:
            _walk(node, (), lines, problems, name)
        if problems:
            raise ConfigError(problems)
        data = loader.construct_document(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError([f"{name}:{line}: not YAML: {error.problem or error.context}"]) from None
    except yaml.YAMLError as error:
        raise ConfigError([f"{name}:1: not YAML: {error}"]) from None
    finally:
        loader.dispose()
    return YamlSource(name, data, lines)


def _walk(
    node: yaml.Node, path: Path, lines: dict[Path, int], problems: list[str], name: str
) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if len(path) > 64:
        raise ConfigError([f"{name}:{node.start_mark.line + 1}: nested too deeply"])
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                problems.append(
                    f"{name}:{line}: {dotted((*path, key.value))}: the key stands twice"
                )
            seen.add(key.value)
            lines[(*path, key.value)] = line
            _walk(value, (*path, key.value), lines, problems, name)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _walk(value, (*path, index), lines, problems, name)


def dotted(path: Path) -> str:
    """A path as operators write it: `recipes.general.decisions[0].when`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "(top)"
