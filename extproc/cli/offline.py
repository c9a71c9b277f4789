"""A configuration asked what it would do, without Envoy and, unless it is told otherwise, without asking any model."""

from collections.abc import Mapping

import msgspec

from extproc.config import Config
from extproc.decisions.engine import Policy
from extproc.decisions.explain import Explanation
from extproc.decisions.explain import explain as explain_decision
from extproc.errors import ConfigError, unknown
from extproc.process.runtime import Runtime, build
from extproc.signals import Subject
from looper.calling.client import EgressClient
from looper.errors import ModelNotFound
from looper.wire.chat import ChatRequest


def asking(text: str, model: str) -> ChatRequest:
    """A request whose user says `text`."""
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    return ChatRequest.parse(msgspec.json.encode(body))


async def explain(
    config: Config,
    request: ChatRequest,
    recipe: str | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    live: bool = False,
) -> Explanation:
    """What becomes of `request`. `live`: signals ask their models, by the egress. Raises ConfigError."""
    client = EgressClient(config.egress)
    runtime = build(config, client)
    policy = _policy(runtime, request.model, recipe)
    subject = Subject(request, headers or {})
    if not live:
        return await explain_decision(policy.alone(), subject, runtime.models)
    async with client:
        return await explain_decision(policy, subject, runtime.models)


def _policy(runtime: Runtime, model: str, recipe: str | None) -> Policy:
    if recipe is not None and recipe not in runtime.policies:
        raise ConfigError([unknown("recipe", recipe, runtime.policies)])
    try:
        return runtime.policy(model, recipe)
    except ModelNotFound:
        raise ConfigError([unknown("model", model, runtime.entries)]) from None
