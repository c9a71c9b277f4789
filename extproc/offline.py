"""A configuration asked what it would do, without Envoy and, unless it is told otherwise, without asking any model."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import msgspec

from extproc.config import Config
from extproc.decisions.engine import Policy
from extproc.decisions.explain import Explanation
from extproc.decisions.explain import explain as explain_decision
from extproc.errors import ConfigError, unknown
from extproc.signals import Egress, Subject
from looper.chat import ChatRequest
from looper.client import EgressClient


def asking(text: str, model: str) -> ChatRequest:
    """A request whose user says `text`."""
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    return ChatRequest.parse(msgspec.json.encode(body))


def recipe_for(config: Config, model: str, recipe: str | None) -> str:
    """The recipe that is meant, or the one for a model's name. Raises ConfigError if there is none."""
    if recipe is not None and recipe not in config.recipes:
        raise ConfigError([unknown("recipe", recipe, config.recipes)])
    if recipe is None and model not in config.entrypoints:
        raise ConfigError([unknown("entrypoint", model, config.entrypoints)])
    return recipe or config.entrypoints[model]


async def explain(
    config: Config,
    request: ChatRequest,
    recipe: str | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    live: bool = False,
) -> Explanation:
    """What becomes of `request`. `live`: signals ask their models, by the egress. Raises ConfigError."""
    name = recipe_for(config, request.model, recipe)
    models = {model.name: model for model in config.models}
    async with _egress(config, live=live) as egress:
        policy = Policy(name, config.recipes[name], egress)
        return await explain_decision(policy, Subject(request, headers or {}), models)


@asynccontextmanager
async def _egress(config: Config, *, live: bool) -> AsyncIterator[Egress | None]:
    if not live:
        yield None
        return
    async with EgressClient(config.egress) as client:
        yield Egress(client, {model.name: model for model in config.models})
