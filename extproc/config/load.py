"""How a configuration file is read: every problem in it is reported at once."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from extproc.config.checks import check
from extproc.config.includes import Expanded, expand
from extproc.config.model import Config
from extproc.config.problems import explain
from extproc.config.yaml_source import YamlSource, in_words, parse_yaml
from extproc.errors import ConfigError
from looper.settings.files import read_text


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that holds, where everything in it was written, and the other files that it is made of."""

    config: Config
    source: YamlSource
    files: tuple[Path, ...]


def load_config(path: Path) -> Config:
    """Read and check a file. Raises ConfigError with every problem in it."""
    return load(path).config


def parse_config(text: str, name: str) -> Config:
    """Check the text of a file; `name` is what errors call it, and where it would be."""
    return parse(text, name).config


def load(path: Path) -> Loaded:
    """The same as `load_config`, with what else is known of the file."""
    try:
        text = read_text(path)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    return parse(text, str(path))


def parse(text: str, name: str) -> Loaded:
    """The same as `parse_config`, with what else is known of the file."""
    source = parse_yaml(text, name)
    if not isinstance(source.data, dict):
        raise ConfigError([f"{name}:1: a configuration is a mapping that begins with `version: 1`"])
    expanded = expand(source)
    files = list(expanded.files)
    config = _validate(expanded, files)
    problems = expanded.source.placed(check(config))
    if problems:
        raise ConfigError(in_words(problems, name), files)
    return Loaded(config, expanded.source, tuple(dict.fromkeys(files)))


def _validate(expanded: Expanded, files: list[Path]) -> Config:
    """The configuration; `files` are joined by those that it names, such as weights."""
    source, problems = expanded.source, list(expanded.problems)
    context = {"folder": Path(source.name).parent, "files": files}
    try:
        config = Config.model_validate(source.data, context=context)
    except ValidationError as error:
        problems += explain(error, source)
    if problems:
        raise ConfigError(in_words(problems, source.name), files)
    return config
