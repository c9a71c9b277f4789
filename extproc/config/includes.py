"""Includes: the recipe of another file takes the place of the reference to it, with models and changes put in."""

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from extproc.config.included import is_by_name
from extproc.config.problems import explain
from extproc.config.yaml_source import Path as YamlPath
from extproc.config.yaml_source import Place, Problem, YamlSource, parse_yaml
from extproc.decisions.recipe import Recipe
from extproc.errors import ConfigError, unknown
from looper.settings import Setting
from looper.settings.files import read_text

SHIPPED = Path(__file__).parents[1] / "recipes"
_STAND_IN = {"decisions": [{"name": "none", "algorithm": {"type": "single", "model": "none"}}]}
"""What is validated in place of a recipe that could not be included, so that nothing false is said of it."""

_BY_NAME = "beside `include`, a mapping: `NAME: {…}` changes or adds, `NAME: null` removes"

_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")

Origins = dict[YamlPath, tuple[YamlSource, YamlPath]]


class RecipeFile(Setting):
    """A file to be included: the roles that models have in its recipe, with what each does, and the recipe."""

    models: dict[str, str] = Field(default_factory=dict)
    recipe: dict[str, Any]


class _Alone(Setting):
    """A recipe as it stands in its own file."""

    recipes: dict[str, Recipe]


@dataclass(frozen=True, slots=True)
class Expanded:
    """A configuration with all that it includes, and what was wrong with that."""

    source: YamlSource
    files: tuple[Path, ...]
    problems: list[Problem]


def shipped() -> list[str]:
    """The recipes that come with the product."""
    names = (path.name.removesuffix(".yaml") for path in SHIPPED.glob("*.yaml"))
    return sorted(name for name in names if not name.endswith(".probes"))


def text_of(name: str) -> str:
    """A recipe that comes with the product, as it is written. Raises ConfigError for a name that none has."""
    if name not in shipped():
        raise ConfigError([unknown("recipe", name, shipped())])
    return read_text(SHIPPED / f"{name}.yaml")


def about(name: str) -> str:
    """What such a recipe is for: its first line."""
    return text_of(name).partition("\n")[0].removeprefix("# ")


def expand(source: YamlSource) -> Expanded:
    """Put in every recipe that `source` includes. Files are looked for beside it."""
    recipes = source.data.get("recipes")
    if not isinstance(recipes, dict):
        return Expanded(source, (), [])
    models = _names(source.data.get("models"))
    files: list[Path] = []
    problems: list[Problem] = []
    origins: Origins = {}
    put_in = dict(recipes)
    for name, value in recipes.items():
        if isinstance(value, dict) and "include" in value:
            included = _Inclusion(source, ("recipes", name), value, models)
            put_in[name] = included.recipe()
            files += included.files
            problems += included.problems
            origins |= included.origins
    data = {**source.data, "recipes": put_in}
    return Expanded(YamlSource(source.name, data, source.lines, origins), tuple(files), problems)


def _names(models: object) -> list[str]:
    """The names of models, as far as they can be told before anything was validated."""
    found = models if isinstance(models, list) else []
    return [str(model["name"]) for model in found if isinstance(model, dict) and "name" in model]


@dataclass(slots=True)
class _Inclusion:
    """One recipe on its way into the configuration, and where each part of it was written."""

    source: YamlSource
    path: YamlPath
    written: Mapping[str, Any]
    models: list[str]
    files: list[Path] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    origins: Origins = field(default_factory=dict)

    def recipe(self) -> dict[str, Any]:
        """The recipe with models and changes put in; a stand-in if there is none."""
        try:
            other = self._read(str(self.written["include"]))
        except ConfigError:
            return dict(_STAND_IN)
        file = self._recipe_file(other)
        if file is None:
            return dict(_STAND_IN)
        # Whatever is not said otherwise below was written there.
        self.origins[self.path] = (other, ("recipe",))
        recipe = self._with_models(other, file)
        for key, value in self.written.items():
            if key not in ("include", "models"):
                self._change(recipe, key, value)
        return recipe

    def _wrong(self, below: YamlPath, text: str) -> None:
        path = (*self.path, *below)
        self.problems.append((Place(self.source.name, self.source.line(path), path), text))

    @property
    def _context(self) -> dict[str, Path]:
        """Files that a recipe names are in the configuration's folder."""
        return {"folder": Path(self.source.name).parent}

    # Reading the other file...

    def _read(self, include: str) -> YamlSource:
        """The file that is meant. Raises ConfigError, after its problems were noted."""
        is_path = "/" in include or include.endswith((".yaml", ".yml"))
        path = Path(self.source.name).parent / include if is_path else SHIPPED / f"{include}.yaml"
        if not is_path and include not in shipped():
            self._wrong(("include",), unknown("recipe", include, shipped()))
            raise ConfigError([])
        self.files.append(path)
        try:
            other = parse_yaml(read_text(path), str(path))
        except OSError as error:
            self._wrong(("include",), f"{include} cannot be read: {error.strerror}")
            raise ConfigError([]) from None
        except ConfigError as error:
            self._not_yaml(str(path), error)
            raise
        if not (isinstance(other.data, dict) and other.data.keys() & RecipeFile.model_fields):
            # Whatever else it is, nothing of what stands there is told.
            self._wrong(("include",), f"{include} is no recipe: it has no `recipe`")
            raise ConfigError([])
        return other

    def _not_yaml(self, name: str, error: ConfigError) -> None:
        for problem in error.problems:
            line, _, text = problem.removeprefix(f"{name}:").partition(": ")
            # It may be anybody's file: what is quoted from it is left out.
            self.problems.append((Place(name, int(line), ()), _QUOTED.sub("'…'", text)))

    def _recipe_file(self, other: YamlSource) -> RecipeFile | None:
        try:
            return RecipeFile.model_validate(other.data, context=self._context)
        except ValidationError as error:
            self.problems += explain(error, other)
            return None

    # ... putting models in its roles' places...

    def _with_models(self, other: YamlSource, file: RecipeFile) -> dict[str, Any]:
        recipe = deepcopy(file.recipe)
        named = self._named(file)
        try:
            alone = {"recipes": {"it": recipe}}
            checked = _Alone.model_validate(alone, context=self._context).recipes["it"]
        except ValidationError as error:
            place = YamlSource(
                other.name,
                {"recipes": {"it": recipe}},
                {},
                {("recipes", "it"): (other, ("recipe",))},
            )
            self.problems += explain(error, place)
            return recipe
        for path, role in list(checked.members()):
            self._put(recipe, other, path, role, named, file)
        return recipe

    def _named(self, file: RecipeFile) -> dict[str, str]:
        """Who is who: as it is written, else by the same name."""
        said = self.written.get("models")
        given = {str(role): str(model) for role, model in (said or {}).items()}
        for role, model in given.items():
            if role not in file.models:
                self._wrong(("models", role), unknown("role", role, file.models))
            elif model not in self.models:
                self._wrong(("models", role), unknown("model", model, self.models))
        for role, task in file.models.items():
            if role not in given and role not in self.models:
                self._wrong(("models",), f"no model for {role!r}, which {task}")
        return {role: given.get(role, role) for role in file.models}

    def _put(
        self,
        recipe: dict[str, Any],
        other: YamlSource,
        path: YamlPath,
        role: str,
        named: Mapping[str, str],
        file: RecipeFile,
    ) -> None:
        if role not in named:
            there: YamlPath = ("recipe", *path)
            place = Place(other.name, other.line(there), there)
            self.problems.append((place, unknown("model", role, file.models)))
            return
        _replace(recipe, path, role, named[role])

    # ... and what is different here.

    def _change(self, recipe: dict[str, Any], key: str, value: Any) -> None:
        here = (*self.path, key)
        if key == "decisions" or is_by_name(key):
            if not isinstance(value, dict):
                self._wrong((key,), _BY_NAME)
            elif key == "decisions":
                self._change_decisions(recipe, value)
            else:
                self._change_named(recipe, key, value)
            return
        recipe[key] = value
        self.origins[here] = (self.source, here)

    def _change_named(self, recipe: dict[str, Any], key: str, changes: Mapping[str, Any]) -> None:
        named = recipe.setdefault(key, {})
        for name, value in changes.items():
            here = (*self.path, key, name)
            if value is not None:
                named[name] = value
                self.origins[here] = (self.source, here)
            elif named.pop(name, None) is None:
                self._wrong((key, name), unknown(key.removesuffix("s"), name, named))

    def _change_decisions(self, recipe: dict[str, Any], changes: Mapping[str, Any]) -> None:
        included = {str(each["name"]): (at, each) for at, each in _decisions(recipe)}
        added = {name: value for name, value in changes.items() if name not in included}
        for name in [name for name, value in added.items() if value is None]:
            self._wrong(("decisions", name), unknown("decision", name, included))
            del added[name]
        merged: list[dict[str, Any]] = []
        for name, value in added.items():
            self._merge(merged, name, {}, value)
        for name, (at, decision) in included.items():
            if changes.get(name, {}) is None:
                continue
            self.origins[(*self.path, "decisions", len(merged))] = (
                self.origins[self.path][0],
                ("recipe", "decisions", at),
            )
            self._merge(merged, name, decision, changes.get(name, {}))
        recipe["decisions"] = merged

    def _merge(
        self, merged: list[dict[str, Any]], name: str, decision: Mapping[str, Any], changes: Any
    ) -> None:
        """A decision with what is different in it; null takes a member away."""
        here = (*self.path, "decisions", name)
        there = (*self.path, "decisions", len(merged))
        if not decision:
            self.origins[there] = (self.source, here)
        if not isinstance(changes, dict):
            self._wrong(("decisions", name), _BY_NAME)
            changes = {}
        for key in changes:
            self.origins[(*there, key)] = (self.source, (*here, key))
        both = {**decision, **changes}
        merged.append(
            {"name": name, **{key: value for key, value in both.items() if value is not None}}
        )


def _decisions(recipe: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    found = recipe.get("decisions")
    for at, decision in enumerate(found if isinstance(found, list) else []):
        if isinstance(decision, dict) and "name" in decision:
            yield at, decision


def _replace(tree: Any, path: YamlPath, role: str, model: str) -> None:
    """Put a model's name where a role's stands: as a value, as a key, or as the `model` of what has settings.

    Where a value is written shortly, such as a name in place of a mapping with `models`, some of its path is not there.
    """
    *above, last = path
    for part in above:
        if isinstance(tree, list) and not isinstance(part, int):
            continue
        if tree[part] == role:
            tree[part] = model
            return
        tree = tree[part]
    if tree[last] == role:
        tree[last] = model
    elif isinstance(last, int):
        tree[last]["model"] = model
    else:
        renamed = {model if key == role else key: value for key, value in tree.items()}
        tree.clear()
        tree.update(renamed)
