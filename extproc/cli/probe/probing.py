"""`looper probe`: files of probes, the configurations that they are for, and which decisions they reach."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from extproc.config import Config, load_config, parse_config
from extproc.config.includes import RecipeFile
from extproc.config.problems import explain
from extproc.config.yaml_source import YamlSource, in_words, parse_yaml
from extproc.decisions.engine import Policy
from extproc.decisions.probe import Probed, Probes, run
from extproc.errors import ConfigError, unknown
from looper.errors import InvalidRequest
from looper.settings.files import read_text

_SUFFIX = ".probes.yaml"


@dataclass(frozen=True, slots=True)
class Report:
    """What came of one file's probes, and how often each decision answered, or would have on trial."""

    file: str
    probed: tuple[Probed, ...]
    reached: Mapping[tuple[str, str], int]

    @property
    def failed(self) -> int:
        return sum(bool(each.problems) for each in self.probed)

    @property
    def unreached(self) -> tuple[tuple[str, str], ...]:
        """Recipe and name of decisions that no probe came to."""
        return tuple(key for key, times in self.reached.items() if times == 0)


async def probe(path: Path, tags: frozenset[str] = frozenset()) -> Report:
    """Run the probes of a file, or those that stand beside it, if they have these tags. Raises ConfigError."""
    file, subject = _pair(path)
    probes = _read_probes(file)
    config = _read_subject(subject)
    policies: dict[str, Policy] = {}
    probed, reached = [], Counter[tuple[str, str]]()
    for at, each in enumerate(probes.probes):
        if not tags <= set(each.tags):
            continue
        name = _recipe(file, config, each.recipe or probes.recipe)
        policy = policies.setdefault(name, Policy(name, config.recipes[name]))
        try:
            found = await run(policy, each)
        except InvalidRequest as error:
            raise ConfigError([f"{file}: probes[{at}]: no request: {error.message}"]) from None
        probed.append(found)
        reached.update((name, decision) for decision in (found.decision, *found.shadows))
    every = [(name, each.name) for name, policy in policies.items() for each in policy.decisions]
    return Report(str(file), tuple(probed), {key: reached[key] for key in every})


def _pair(path: Path) -> tuple[Path, Path]:
    """The file of probes, and the one beside it that they are for."""
    if path.name.endswith(_SUFFIX):
        return path, path.with_name(path.name.removesuffix(_SUFFIX) + ".yaml")
    return path.with_name(path.stem + _SUFFIX), path


def _read(path: Path) -> YamlSource:
    try:
        return parse_yaml(read_text(path), str(path))
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None


def _read_probes(path: Path) -> Probes:
    source = _read(path)
    try:
        return Probes.model_validate(source.data)
    except ValidationError as error:
        raise ConfigError(in_words(explain(error, source, Probes), source.name)) from None


def _read_subject(path: Path) -> Config:
    """A configuration; or a recipe, as it is in a configuration with a model for each that it names."""
    source = _read(path)
    if not isinstance(source.data, dict) or "recipe" not in source.data:
        return load_config(path)
    try:
        models = RecipeFile.model_validate(source.data).models
    except ValidationError as error:
        raise ConfigError(in_words(explain(error, source), source.name)) from None
    around = {
        "version": 1,
        "egress": "unix:/egress.sock",
        "models": [{"name": name, "url": "http://127.0.0.1/v1"} for name in models],
        "recipes": {path.stem: {"include": f"./{path.name}"}},
        "entrypoints": {"looper/auto": path.stem},
    }
    return parse_config(yaml.safe_dump(around), str(path.with_name("any configuration")))


def _recipe(file: Path, config: Config, name: str | None) -> str:
    if name is None:
        return next(iter(config.led().values()))
    if name not in config.recipes:
        raise ConfigError([f"{file}: {unknown('recipe', name, config.recipes)}"])
    return name
