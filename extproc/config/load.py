"""How a configuration file is read: every problem in it is reported at once."""

from pathlib import Path

from pydantic import ValidationError

from extproc.config.checks import check
from extproc.config.model import Config
from extproc.config.problems import explain
from extproc.errors import ConfigError
from extproc.yaml_source import dotted, parse_yaml


def load_config(path: Path) -> Config:
    """Read and check a file. Raises ConfigError with every problem in it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read: {error}"]) from None
    return parse_config(text, str(path))


def parse_config(text: str, name: str) -> Config:
    """Check the text of a file; `name` is what errors call it."""
    source = parse_yaml(text, name)
    if not isinstance(source.data, dict):
        raise ConfigError([f"{name}:1: a configuration is a mapping that begins with `version: 1`"])
    try:
        config = Config.model_validate(source.data)
    except ValidationError as error:
        raise ConfigError(explain(error, source)) from None
    problems = [
        (source.line(path), f"{name}:{source.line(path)}: {dotted(path)}: {text}")
        for path, text in check(config)
    ]
    if problems:
        raise ConfigError([text for _, text in sorted(problems)])
    return config
