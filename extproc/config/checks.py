"""What must hold between the parts of a configuration, each of which is sound by itself."""

from collections.abc import Collection, Iterator

from extproc.config.addresses import is_local, parted
from extproc.config.model import Config
from extproc.config.overlay import is_ours
from extproc.config.yaml_source import Path as YamlPath
from extproc.decisions import rules
from extproc.decisions.budgets import too_small
from extproc.decisions.namespace import Namespace
from extproc.decisions.recipe import Decision, Recipe
from extproc.errors import unknown
from looper.algorithms import AlgorithmConfig, named_bands, problems
from looper.contract import ContractConfig
from looper.patterns.workflows import WorkflowsConfig
from looper.patterns.workflows.pauses.state import MemoryState


def check(config: Config) -> Iterator[tuple[YamlPath, str]]:
    """What pydantic cannot see: names that refer to nothing, names used twice, recipes without an end."""
    models = [model.name for model in config.models]
    for index, name in enumerate(models):
        if name in models[:index]:
            yield ("models", index, "name"), f"the model {name!r} is named twice"
    for public, recipe in config.led().items():
        if recipe not in config.recipes:
            yield ("entrypoints", public), unknown("recipe", recipe, config.recipes)
        if public in models:
            yield ("entrypoints", public), f"{public!r} is also the name of a model"
    for name, recipe_ in config.recipes.items():
        for path, text in _check_recipe(recipe_, models, config.entrypoints):
            yield ("recipes", name, *path), text
    yield from _check_clusters(config)
    yield from _check_passthrough(config, models)
    yield from _check_public(config)
    yield from _check_tags(config)
    yield from _check_clocks(config)
    yield from _check_budgets(config)
    yield from _check_state(config)
    yield from _check_ports(config)
    yield from _check_tenants(config)


def _check_clusters(config: Config) -> Iterator[tuple[YamlPath, str]]:
    """A model in one of ours would lead clients to Envoy's admin interface, or round in a circle."""
    for index, model in enumerate(config.models):
        if model.cluster is not None and is_ours(model.cluster):
            text = f"{model.cluster} is a cluster of ours: name one of yours"
            yield ("models", index, "cluster"), text


def _check_recipe(
    recipe: Recipe, models: list[str], entrypoints: Collection[str]
) -> Iterator[tuple[YamlPath, str]]:
    namespace = Namespace(recipe.signals, recipe.projections)
    yield from namespace.problems()
    for path, model in recipe.members():
        if model not in models:
            yield path, _unknown_model(model, models, entrypoints)
    for index, decision in enumerate(recipe.decisions):
        if decision.name in (other.name for other in recipe.decisions[:index]):
            path = ("decisions", index, "name")
            yield path, f"the decision {decision.name!r} is named twice"
        for below, text in _check_decision(decision, namespace):
            yield ("decisions", index, *below), text
    if not recipe.decisions[-1].always:
        last = len(recipe.decisions) - 1
        unconditional = "must be unconditional: leave out its `when`, `percent` and `shadow`"
        yield ("decisions", last), f"the last decision {unconditional}"


def _unknown_model(name: str, models: list[str], entrypoints: Collection[str]) -> str:
    if name not in entrypoints:
        return unknown("model", name, models)
    known = ", ".join(sorted(models)) or "none"
    return f"{name!r} is an entrypoint, which clients ask for and no model; models: {known}"


def _check_decision(decision: Decision, namespace: Namespace) -> Iterator[tuple[YamlPath, str]]:
    for below, name in rules.names(decision.when) if decision.when is not None else ():
        if problem := namespace.problem(name):
            yield ("when", *below), problem
    for below, name in decision.projections():
        if name not in namespace.projections:
            yield below, unknown("projection", name, namespace.projections)
    if decision.algorithm is not None:
        for below, text in _check_algorithm(decision.algorithm, decision.contract, namespace):
            yield ("algorithm", *below), text


def _check_algorithm(
    algorithm: AlgorithmConfig, contract: ContractConfig | None, namespace: Namespace
) -> Iterator[tuple[YamlPath, str]]:
    """What an algorithm must find in its recipe and its decision."""
    yield from problems(algorithm, contract)
    for below, name in named_bands(algorithm):
        if name.partition(".")[0] not in namespace.projections:
            yield below, unknown("projection", name.partition(".")[0], namespace.projections)
        elif problem := namespace.problem(name):
            yield below, problem


def _check_passthrough(config: Config, models: list[str]) -> Iterator[tuple[YamlPath, str]]:
    """Each path leads to one model, that there is."""
    seen: set[str] = set()
    for index, rule in enumerate(config.passthrough):
        if rule.model not in models:
            path = ("passthrough", index, "model")
            yield path, _unknown_model(rule.model, models, config.entrypoints)
        for at, passed in enumerate(rule.paths):
            if passed in seen:
                yield ("passthrough", index, "paths", at), f"{passed} leads somewhere already"
            seen.add(passed)


def _check_public(config: Config) -> Iterator[tuple[YamlPath, str]]:
    """A public model must not be a way around a recipe's guards, nor around its data policy."""
    entries = config.entries()
    strict = [name for name, recipe in config.recipes.items() if recipe.is_strict]
    for index, model in enumerate(config.models):
        path = ("models", index, "public")
        recipe = config.recipes.get(entries.get(model.name, ""))
        if isinstance(model.public, str) and recipe is None:
            yield path, unknown("recipe", model.public, config.recipes)
        elif model.public is True and strict and len(set(config.led().values())) > 1:
            yield path, f"name the recipe whose guards it meets, such as `public: {strict[0]}`"
        elif model.public and recipe is not None and not recipe.allows(model):
            yield path, _not_allowed(model.name, recipe)


def _check_tags(config: Config) -> Iterator[tuple[YamlPath, str]]:
    """No model may come to see a request whose recipe does not allow any of its tags."""
    models = {model.name: model for model in config.models}
    for name, recipe in config.recipes.items():
        for below, asked in recipe.members():
            if asked in models and not recipe.allows(models[asked]):
                yield ("recipes", name, *below), _not_allowed(asked, recipe)
        for index, decision in enumerate(recipe.decisions):
            if decision.verifier is not None and not recipe.allows(decision.verifier):
                path = ("recipes", name, "decisions", index, "algorithm", "automix_verifier")
                yield path, _not_allowed(decision.verifier.name, recipe)


def _not_allowed(model: str, recipe: Recipe) -> str:
    allowed = ", ".join(sorted(recipe.allow_tags or ()))
    return f"the model {model!r} has none of the tags that this recipe allows: {allowed}"


def _check_state(config: Config) -> Iterator[tuple[YamlPath, str]]:
    """Of several processes, the one that a client comes back to must find what another one has kept."""
    pauses = any(
        isinstance(decision.loop, WorkflowsConfig)
        for recipe in config.recipes.values()
        for decision in recipe.decisions
    )
    if pauses and isinstance(config.state, MemoryState) and len(config.envoy.processors) > 1:
        text = "workflows of several processors need `state: {type: redis}`: each has a memory of its own"
        yield ("state",), text


def _check_tenants(config: Config) -> Iterator[tuple[YamlPath, str]]:
    """Who is to be told from whom has to be on a list: what clients say is no label of statistics."""
    if not config.limits.tenants:
        for public in sorted(config.tenancies().keys() & config.entrypoints.keys()):
            text = "name the tenants in `limits.tenants`, such as `{acme: {}, other: {calls: 100}}`"
            yield ("entrypoints", public, "tenant"), text


def _check_clocks(config: Config) -> Iterator[tuple[YamlPath, str]]:
    """A run must end before Envoy ends it: its clocks are those that this file tells it."""
    clocks = {
        "envoy.stream_idle_timeout": config.envoy.stream_idle_timeout,
        "envoy.max_stream_duration": config.envoy.max_stream_duration,
    }
    for name, recipe in config.recipes.items():
        for index, decision in enumerate(recipe.decisions):
            if decision.loop is None:
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
            if small := too_small(decision, models):
                path = ("recipes", name, "decisions", index, "budget", small.limit)
                yield (
                    path,
                    (
                        "has no room for even one run in which nothing goes wrong: "
                        f"that takes at least {small.needed}"
                    ),
                )


def _check_ports(config: Config) -> Iterator[tuple[YamlPath, str]]:
    """Envoy starts only if it has each of its addresses to itself."""
    envoy = config.envoy
    listened = [
        (("envoy", "ingress"), envoy.ingress),
        (("envoy", "stats"), envoy.stats),
        (("envoy", "admin"), envoy.admin),
        (("egress",), config.egress.removeprefix("http://").removesuffix("/")),
    ]
    others = [
        *((("envoy", "processors"), each) for each in envoy.processors),
        *((("envoy", "metrics"), each) for each in (envoy.metrics,) if each is not None),
    ]
    here = [each for each in others if "unix:" in each[1] or is_local(parted(each[1])[0])]
    known = [*listened, *here]
    for at, (path, address) in enumerate(known):
        for other, taken in known[: min(at, len(listened))]:
            if _overlap(address, taken):
                yield path, f"{address} is {'.'.join(map(str, other))} already"


def _overlap(one: str, other: str) -> bool:
    if "unix:" in (one[:5], other[:5]):
        return one == other
    (host, port), (host_, port_) = parted(one), parted(other)
    if int(port) == 0:  # any that is free
        return False
    anywhere = {"0.0.0.0", "::"}  # noqa: S104  # compared, not bound
    return int(port) == int(port_) and (host == host_ or bool({host, host_} & anywhere))
