"""What is doubtful about tenants and what each may spend."""

from collections.abc import Iterator

from extproc.config.entrypoints import OTHER
from extproc.config.model import Config
from extproc.config.yaml_source import Path as YamlPath
from looper.calling.budget import Ceiling, Limits
from looper.patterns.workflows.pauses.state import MemoryState

Doubt = tuple[YamlPath, str]


def tenancy(config: Config) -> Iterator[Doubt]:
    """Limits that hold for nobody, or not for all that they seem to hold for."""
    tenants = config.limits.tenants
    if tenants and not config.tenancies():
        yield ("limits", "tenants"), "no entrypoint says with `tenant` whose its requests are"
        return
    limited = {name: each for name, each in tenants.items() if Limits.of(each) != Limits()}
    yield from _told_by_clients(config)
    if not limited:
        return
    if OTHER not in limited:
        text = "whoever is not named here, or does not say who it is, spends without a limit: "
        yield ("limits", "tenants"), f"{text}give `{OTHER}` one"
    if len(config.envoy.processors) > 1 and isinstance(config.state, MemoryState):
        text = "each of the processors counts for itself what its tenants spend, "
        yield ("limits", "tenants"), f"{text}unless `state` is `type: redis`"
    if config.envoy.profile == "fast":
        for name in sorted(name for name, each in limited.items() if _hangs_on_answers(each)):
            text = "routed answers do not count, only calls: their usage is read with `profile: metered`"
            yield ("limits", "tenants", name), text
    yield from _other_ways(config)


def _hangs_on_answers(ceiling: Ceiling) -> bool:
    return ceiling.tokens is not None or ceiling.cost_usd is not None


def _told_by_clients(config: Config) -> Iterator[Doubt]:
    tenancies = config.tenancies()
    for name in config.entrypoints:
        if name in tenancies and tenancies[name].header is not None:
            yield (
                ("entrypoints", name, "tenant", "header"),
                "a client may send it itself, unless a filter before ours always sets it",
            )


def _other_ways(config: Config) -> Iterator[Doubt]:
    """Names by which the same models answer whoever it is."""
    tenancies = config.tenancies()
    for name in config.entrypoints:
        if name not in tenancies:
            yield ("entrypoints", name), "has no `tenant`: its requests are charged to nobody"
    for index, model in enumerate(config.models):
        if model.public and model.name not in tenancies:
            text = "no entrypoint of its recipe has a `tenant`: its requests are charged to nobody"
            yield ("models", index, "public"), text
