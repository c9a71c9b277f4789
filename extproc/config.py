"""The configuration file: its root model, how it is read, and what must hold between its parts."""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from extproc.decisions import rules
from extproc.decisions.budgets import over_budget, too_small
from extproc.decisions.recipe import Decision, Recipe
from extproc.errors import ConfigError
from extproc.runs import TraceSettings
from extproc.yaml_source import Path as YamlPath
from extproc.yaml_source import YamlSource, dotted, parse_yaml
from looper.budget import Ceiling
from looper.models import Model
from looper.settings import ByteCount, Duration, Name, Setting, SomeTime


def check_address(address: str) -> str:
    """Raise ValueError unless `address` is `unix:/path` or `host:port`."""
    if address.startswith("unix:/"):
        return address
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{address!r} is neither unix:/path nor host:port")
    return address


def _check_egress(egress: str) -> str:
    # What stands there is not repeated: it may be a URL with a credential in it.
    if not egress.startswith(("unix:/", "http://")):
        raise ValueError("neither unix:/path nor http://host:port")
    if "@" in egress:
        raise ValueError("must not carry a credential")
    return egress


Address = Annotated[str, AfterValidator(check_address)]
Egress = Annotated[str, AfterValidator(_check_egress)]


class Limits(Setting):
    """What one process takes on."""

    max_body: ByteCount = Field(default=32 << 20, description="of a request")
    max_answer_bytes: ByteCount = Field(default=32 << 20, description="of a team's answer")
    max_inflight_bytes: ByteCount = Field(
        default=512 << 20, description="of all answers that teams are writing, together"
    )
    max_runs: int = Field(default=1000, ge=1, description="teams at work at once")
    max_waiting: int = Field(
        default=1000, ge=0, description="requests that wait for their turn then"
    )
    patience: Duration = Field(default=timedelta(seconds=1), description="how long they wait")
    ceiling: Ceiling = Field(default=Ceiling(), description="what teams may spend together")


class EnvoySettings(Setting):
    """What `looper envoy-config` needs beyond the models; the processor itself reads none of it."""

    ingress: Address = Field(default="0.0.0.0:8080", description="where clients connect")
    stats: Address = Field(
        default="0.0.0.0:9902", description="/ready and /stats/prometheus, nothing else"
    )
    admin: Address = Field(default="127.0.0.1:9901", description="Envoy's admin interface")
    processors: tuple[Address, ...] = Field(
        default=("unix:/run/looper/extproc.sock",),
        min_length=1,
        description="sockets of `looper serve`",
    )
    body_mode: Literal["full_duplex", "buffered"] = "full_duplex"
    profile: Literal["fast", "metered"] = Field(
        default="fast",
        description="does a routed answer go straight to the client, or by way of the processor",
    )
    stream_idle_timeout: Duration = timedelta(seconds=300)
    max_stream_duration: Duration | None = None


class Config(Setting):
    """The whole file."""

    version: Literal[1]
    egress: Egress = Field(description="where model calls go: unix:/path, or http://host:port")
    heartbeat: SomeTime = timedelta(seconds=10)
    debug: bool = Field(default=False, description="whether clients may ask for facts of their run")
    limits: Limits = Limits()
    trace: TraceSettings = TraceSettings()
    envoy: EnvoySettings = EnvoySettings()
    models: tuple[Model, ...] = Field(min_length=1)
    recipes: dict[Name, Recipe] = Field(min_length=1)
    entrypoints: dict[Name, str] = Field(min_length=1, description="public model name: recipe")


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
        raise ConfigError(_explain(error, source)) from None
    problems = [
        (source.line(path), f"{name}:{source.line(path)}: {dotted(path)}: {text}")
        for path, text in _cross_check(config)
    ]
    if problems:
        raise ConfigError([text for _, text in sorted(problems)])
    return config


def _cross_check(config: Config) -> Iterator[tuple[YamlPath, str]]:
    """What pydantic cannot see: names that refer to nothing, names used twice, recipes without an end."""
    models = [model.name for model in config.models]
    for index, name in enumerate(models):
        if name in models[:index]:
            yield ("models", index, "name"), f"the model {name!r} is named twice"
    for public, recipe in config.entrypoints.items():
        if recipe not in config.recipes:
            yield ("entrypoints", public), unknown("recipe", recipe, config.recipes)
        if public in models:
            yield ("entrypoints", public), f"{public!r} is also the name of a model"
    for name, recipe_ in config.recipes.items():
        for path, text in _check_recipe(recipe_, models):
            yield ("recipes", name, *path), text
    yield from _check_clocks(config)
    yield from _check_budgets(config)


def _check_recipe(recipe: Recipe, models: list[str]) -> Iterator[tuple[YamlPath, str]]:
    for index, decision in enumerate(recipe.decisions):
        if decision.name in (other.name for other in recipe.decisions[:index]):
            path = ("decisions", index, "name")
            yield path, f"the decision {decision.name!r} is named twice"
        for below, text in _check_decision(decision, recipe, models):
            yield ("decisions", index, *below), text
    if recipe.decisions[-1].when is not None:
        last = len(recipe.decisions) - 1
        yield ("decisions", last), "the last decision must be unconditional: leave out its `when`"


def _check_decision(
    decision: Decision, recipe: Recipe, models: list[str]
) -> Iterator[tuple[YamlPath, str]]:
    for below, model in decision.algorithm.members():
        if model not in models:
            yield ("algorithm", *below), unknown("model", model, models)
    if decision.overload is not None and decision.overload not in models:
        yield ("overload",), unknown("model", decision.overload, models)
    for below, signal in rules.names(decision.when) if decision.when is not None else ():
        if signal not in recipe.signals:
            yield ("when", *below), unknown("signal", signal, recipe.signals)


def _check_clocks(config: Config) -> Iterator[tuple[YamlPath, str]]:
    """A run must end before Envoy ends it: its clocks are those that this file tells it."""
    clocks = {
        "envoy.stream_idle_timeout": config.envoy.stream_idle_timeout,
        "envoy.max_stream_duration": config.envoy.max_stream_duration,
    }
    for name, recipe in config.recipes.items():
        for index, decision in enumerate(recipe.decisions):
            if decision.is_routed:
                continue
            for clock, limit in clocks.items():
                if limit is not None and decision.budget.deadline >= limit:
                    path = ("recipes", name, "decisions", index, "budget", "deadline")
                    yield path, f"must be shorter than {clock}, which ends the request"


def _check_budgets(config: Config) -> Iterator[tuple[YamlPath, str]]:
    """A budget must have room for the least that a run takes."""
    models = {model.name: model for model in config.models}
    for name, recipe in config.recipes.items():
        for index, decision in enumerate(recipe.decisions):
            if limit := too_small(decision, models):
                path = ("recipes", name, "decisions", index, "budget", limit)
                yield path, "has no room for even one run in which nothing goes wrong"


def warnings(config: Config) -> list[str]:
    """What is no error, but hardly meant."""
    found = []
    models = {model.name: model for model in config.models}
    for name, recipe in config.recipes.items():
        for decision in recipe.decisions:
            found += [
                f"recipes.{name}.{decision.name}: {text}" for text in over_budget(decision, models)
            ]
        found += [f"recipes.{name}.{each}: can never be reached" for each in _unreachable(recipe)]
    return found


def _unreachable(recipe: Recipe) -> list[str]:
    ranked = sorted(recipe.decisions, key=lambda decision: -decision.priority)
    end = next(at for at, decision in enumerate(ranked) if decision.when is None)
    return [decision.name for decision in ranked[end + 1 :]]


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """`unknown model 'smal': did you mean 'small'?`"""
    choices = list(known)
    close = get_close_matches(name, choices, n=1)
    hint = (
        f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(choices)) or 'none'}"
    )
    return f"unknown {kind} {name!r}: {hint}"


def _explain(error: ValidationError, source: YamlSource) -> list[str]:
    """Pydantic's errors as lines with file, line, YAML path, and a suggestion for a misspelt key."""
    problems: dict[YamlPath, str] = {}
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        path = _yaml_path(item["loc"], source, missing=item["type"] == "missing")
        text = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            text = _misspelt(item["loc"], source)
        problems.setdefault(path, text)  # of the members of a union, the first says enough
    lines = [
        (source.line(path), f"{source.name}:{source.line(path)}: {dotted(path)}: {text}")
        for path, text in problems.items()
        # Of the members of a union, the one that got further into the value is the one that was meant.
        if not any(other[: len(path)] == path and other != path for other in problems)
    ]
    return [text for _, text in sorted(lines)]


def _yaml_path(loc: tuple[str | int, ...], source: YamlSource, *, missing: bool) -> YamlPath:
    """Pydantic's location without what is no key of the file: the tags of unions, and marks of its own."""
    if loc[-1:] == ("[key]",):
        return (*_yaml_path(loc[:-2], source, missing=False), str(loc[-2]))
    path: YamlPath = ()
    value = source.data
    tagged = False
    for part in loc:
        # The tag of `any: […]` is `any` as well, so that it has to be known by where it stands.
        tagged = _at_rule(path) and not tagged
        inside = (isinstance(value, dict) and part in value) or _is_index(value, part)
        if inside and not tagged:
            value, path = value[part], (*path, part)
    return (*path, loc[-1]) if missing else path


def _at_rule(path: YamlPath) -> bool:
    """Whether a rule stands at `path`: pydantic's location then goes on with the rule's tag."""
    if path[-1:] in (("when",), ("not",)):
        return True
    return len(path) > 1 and path[-2] in ("all", "any") and isinstance(path[-1], int)


def _is_index(value: object, part: str | int) -> bool:
    return isinstance(value, list) and isinstance(part, int) and part < len(value)


def _misspelt(loc: tuple[str | int, ...], source: YamlSource) -> str:
    close = get_close_matches(str(loc[-1]), _keys_beside(loc), n=1)
    return f"unknown key; did you mean {close[0]!r}?" if close else "unknown key"


def _keys_beside(loc: tuple[str | int, ...]) -> list[str]:
    """The keys that the schema knows beside the last part of `loc`, found by walking the JSON schema."""
    schema = Config.model_json_schema(by_alias=True)
    nodes = [schema]
    for part in loc[:-1]:
        nodes = [inner for node in nodes for inner in _descend(node, part, schema)] or nodes
    return [key for node in nodes for key in node.get("properties", {})]


def _descend(node: dict, part: str | int, schema: dict) -> Iterator[dict]:  # type: ignore[type-arg]  # JSON schema
    if isinstance(part, int):
        inner = node.get("items")
    else:
        named = node.get("properties", {}).get(part) or node.get("additionalProperties")
        inner = named or next(iter(node.get("patternProperties", {}).values()), None)
    if isinstance(inner, dict):
        yield from _resolve(inner, schema)


def _resolve(node: dict, schema: dict) -> Iterator[dict]:  # type: ignore[type-arg]  # JSON schema
    if "$ref" in node:
        yield from _resolve(schema["$defs"][node["$ref"].rpartition("/")[2]], schema)
    elif options := node.get("anyOf") or node.get("oneOf"):
        for option in options:
            yield from _resolve(option, schema)
    else:
        yield node
