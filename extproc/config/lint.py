"""What is no error in a configuration, but hardly meant."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import get_args

from extproc import headers
from extproc.config.exposure import absent, exposed
from extproc.config.load import Loaded
from extproc.config.model import Config
from extproc.config.tenancy import tenancy
from extproc.config.yaml_source import Path as YamlPath
from extproc.config.yaml_source import in_words
from extproc.decisions import rules
from extproc.decisions.budgets import over_budget
from extproc.decisions.engine import guarding, needs, reachable
from extproc.decisions.projections import ScoreConfig
from extproc.decisions.recipe import Decision, Recipe
from extproc.errors import unknown
from extproc.signals.context import ContextConfig
from extproc.signals.conversation import ConversationConfig
from extproc.signals.keyword import KeywordConfig
from extproc.signals.language import LanguageConfig
from extproc.signals.model import ModelConfig
from extproc.signals.structure import StructureConfig
from looper import algorithms
from looper.algorithms import AlgorithmConfig
from looper.calling.calls import Voice
from looper.calling.cost import Plan
from looper.calling.fanout import Round
from looper.calling.models import Model
from looper.patterns.closing.weighing import Weighing, far_ahead
from looper.wire.chat import Capability

Doubt = tuple[YamlPath, str]


def warnings(loaded: Loaded) -> list[str]:
    """Everything that is doubtful, where it was written."""
    return in_words(loaded.source.placed(doubts(loaded.config)), loaded.source.name)


def absences(loaded: Loaded) -> list[str]:
    """Files and folders that are not on this machine, where they were named: they may be where Envoy runs."""
    return in_words(loaded.source.placed(absent(loaded.config)), loaded.source.name)


def doubts(config: Config) -> Iterator[Doubt]:
    """Everything that is doubtful, with its path."""
    models = {model.name: model for model in config.models}
    for name, recipe in config.recipes.items():
        for below, text in _of_recipe(recipe, models):
            yield ("recipes", name, *below), text
        known = {tag for model in config.models for tag in model.tags}
        for tag in sorted((recipe.allow_tags or frozenset()) - known):
            yield ("recipes", name, "allow_tags"), f"no model has the tag {tag!r}"
        for index, decision in enumerate(recipe.decisions):
            for below, text in _lost_headers(decision, config):
                yield ("recipes", name, "decisions", index, "headers", *below), text
    yield from _unused_models(config)
    yield from tenancy(config)
    yield from _strange_clusters(config)
    yield from exposed(config)
    for name in config.envoy.keep_headers:
        if name not in models:
            yield ("envoy", "keep_headers", name), unknown("model", name, models)


def _lost_headers(decision: Decision, config: Config) -> Iterator[Doubt]:
    """What a decision writes into headers that its routed requests lose on their way, as clients' own do."""
    routed = {
        name for below, name in decision.members() if decision.is_routed or below[0] != "algorithm"
    }
    dropped = (*headers.DROPPED, *config.envoy.drop_headers)
    for key, written in (("set", decision.headers.set), ("append", decision.headers.append)):
        for name in filter(partial(headers.stands_among, dropped), written):
            keep = config.envoy.keep_headers
            lose = [m for m in routed if not headers.stands_among(keep.get(m, ()), name)]
            if lose:
                yield (
                    (key, name),
                    f"Envoy drops it on the way to {', '.join(sorted(lose))}: `envoy.keep_headers` keeps it",
                )


def _unused_models(config: Config) -> Iterator[Doubt]:
    asked = {name for recipe in config.recipes.values() for _, name in recipe.members()}
    asked |= {rule.model for rule in config.passthrough}
    for index, model in enumerate(config.models):
        if model.name not in asked and not model.public:
            yield ("models", index), f"no recipe names {model.name!r}, and clients may not either"


def _strange_clusters(config: Config) -> Iterator[Doubt]:
    """Models in clusters that the file of clusters, if there is one, does not have."""
    entries = config.envoy.clusters
    if entries is None or entries.content is None:
        return
    known = [str(each.get("name")) for each in entries.content]
    for index, model in enumerate(config.models):
        if model.cluster is not None and model.cluster not in known:
            yield ("models", index, "cluster"), unknown("cluster", model.cluster, known)


def _of_recipe(recipe: Recipe, models: dict[str, Model]) -> Iterator[Doubt]:
    reached = reachable(recipe)
    for index, decision in enumerate(recipe.decisions):
        for below, text in _of_decision(decision, reached, recipe, models):
            yield ("decisions", index, *below), text
    yield from _unused(recipe)
    yield from _guards(recipe)
    for name, signal in recipe.signals.items():
        for below, text in signal.doubts():
            yield ("signals", name, *below), text


def _of_decision(
    decision: Decision, reached: Sequence[Decision], recipe: Recipe, models: dict[str, Model]
) -> Iterator[Doubt]:
    for text in _out_of_reach(decision, reached, recipe):
        yield (), text
    for text in over_budget(decision, models):
        yield (), text
    for below in _of_teams(decision):
        yield below, "does nothing where Envoy routes requests to one model"
    yield from _of_algorithm(decision, models)
    if lacking := _unsuitable(decision, recipe, models):
        yield (), lacking


def _guards(recipe: Recipe) -> Iterator[Doubt]:
    """Signals that keep requests from models, and do not hear all that models are told."""
    for name in sorted(guarding(recipe)):
        match recipe.signals[name]:
            case KeywordConfig(roles=("user",)):
                cure = "`roles: all` looks at every message"
            case StructureConfig() | LanguageConfig() | ModelConfig():
                cure = "of signals that read texts, only `keyword` takes `roles`"
            case _:
                continue
        yield (
            ("signals", name),
            f"a `respond` hangs on it, and it reads only what the user wrote: {cure}",
        )


_OF_TEAMS = ("contract_prompt", "overload", "progress", "usage", "keepalive")


def _of_teams(decision: Decision) -> Iterator[YamlPath]:
    """What a decision says of answers that we write, though a backend's passes as it is."""
    if not decision.is_routed:
        return
    yield from ((key,) for key in _OF_TEAMS if key in decision.model_fields_set)
    budget = decision.budget.model_fields_set - {"deadline"}
    yield from (("budget", key) for key in sorted(budget))


def _out_of_reach(decision: Decision, reached: Sequence[Decision], recipe: Recipe) -> Iterator[str]:
    if decision not in reached:
        yield "can never be reached"
    elif why := _never(decision, reached, recipe):
        yield f"can never be reached: {why}"


def _never(decision: Decision, reached: Sequence[Decision], recipe: Recipe) -> str | None:
    """Why a decision's rule never holds, or never as the first."""
    rule = decision.when
    if rule is None or decision.on_unknown == "act":
        return None
    if why := _contradiction(rule, recipe):
        return why
    for earlier in reached[: reached.index(decision)]:
        takes_all = not earlier.shadow and earlier.percent == 100
        if takes_all and earlier.when is not None and rules.entails(rule, earlier.when):
            return f"{earlier.name!r} comes first, and holds whenever it does"
    return None


def _contradiction(rule: rules.AnyRule, recipe: Recipe) -> str | None:
    """What a rule wants of projections that these never are."""
    found: dict[str, str] = {}
    for name in sorted(rules.implied(rule)):
        head, dot, label = name.partition(".")
        if not dot or head not in recipe.projections:
            continue
        if found.setdefault(head, label) != label:
            return f"{head} is never both {found[head]} and {label}"
        score = recipe.projections[head]
        if isinstance(score, ScoreConfig) and score.most < (begins := score.least_of(label)):
            return f"the weights of {head} come to {score.most:g}, and {label} begins at {begins:g}"
    return None


def _unused(recipe: Recipe) -> Iterator[Doubt]:
    projections, signals = needs(recipe)
    used = {step.name for step in projections.steps}
    for kind, names, known in (
        ("signals", recipe.signals, signals),
        ("projections", recipe.projections, used),
    ):
        for name in names:
            if name not in known:
                yield (kind, name), "no decision that can be reached hangs on it"


def _of_algorithm(decision: Decision, models: dict[str, Model]) -> Iterator[Doubt]:
    if decision.algorithm is None:
        return
    for text in algorithms.warnings(decision.algorithm, decision.contract, models):
        key, _, rest = text.partition(": ")
        known = key in type(decision.algorithm).model_fields
        yield (("algorithm", key), rest) if known else (("algorithm",), text)
    if isinstance(decision.algorithm, Weighing):
        for text in decision.algorithm.doubts(_voices(decision.algorithm, decision.planned())):
            yield ("algorithm", "weights"), text
        for text in _far_ahead(decision.algorithm, decision.planned(), models):
            yield ("algorithm",), text


def _far_ahead(algorithm: Weighing, plan: Plan, models: dict[str, Model]) -> Iterator[str]:
    """Whether one of those who are asked side by side is so good, by ratings alone, that the others hardly count."""
    if algorithm.weights is not None:
        return
    surely = [call for call in plan if call.need == "always"]
    if best := far_ahead(algorithm.electorate(_voices(algorithm, surely), models)):
        yield (
            f"by their ratings {best} outweighs the others together, which mostly fill its silence: without labels"
            f" such a vote may be up to a point behind {best} alone; what it is worth, `looper calibrate` tells"
            " from a hundred questions"
        )


def _voices(algorithm: AlgorithmConfig | Weighing, plan: Plan) -> Iterator[str]:
    """Whose answers are weighed, without those who only stand in for somebody."""
    stand_ins = algorithm.substitutes if isinstance(algorithm, Round) else ()
    for call in plan:
        if call.role in get_args(Voice):
            yield from (name for name in call.models if name not in stand_ins)


# What a request certainly needs when a decision is made...


def _unsuitable(decision: Decision, recipe: Recipe, models: dict[str, Model]) -> str | None:
    """Why none of a decision's members can answer what comes to it, as far as its rule says what that is."""
    answering = {name for call in decision.planned() for name in call.models}
    if decision.when is None or not answering or decision.on_unknown == "act":
        return None
    needed, tokens = frozenset[Capability](), 0
    for name in rules.implied(decision.when):
        match recipe.signals.get(name):
            case ConversationConfig(of="images") as config if config.least > 0:
                needed |= {"vision"}
            case ConversationConfig(of="tools") as config if config.least > 0:
                needed |= {"tools"} if decision.tools is None else set()
            case ContextConfig() as config:
                tokens = max(tokens, int(config.least))
            case _:
                pass
    lacks = {models[name].lacks(needed, tokens) for name in answering}
    if None in lacks:
        return None
    return (
        f"no member can take what comes to it: they lack {', '.join(sorted(filter(None, lacks)))}"
    )
