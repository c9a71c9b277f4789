"""What a configuration becomes: everything an exchange needs, made once and never changed."""

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import msgspec

from extproc.config import Config
from extproc.decisions.engine import Policy
from extproc.decisions.public import recipe_for
from extproc.decisions.recipe import Decision
from extproc.errors import ProtocolError
from extproc.process.outflow import Outflow
from extproc.process.process import Process
from extproc.process.runs import Runs
from extproc.process.states import said
from extproc.process.tenants import Account
from extproc.protocol.events import RequestHeaders
from extproc.signals import Egress
from looper.admission import Admission
from looper.calling.budget import Purse
from looper.calling.cost import planned_calls
from looper.calling.models import Model
from looper.contract import Terms, from_response_format
from looper.errors import ModelNotFound, StateOutdated
from looper.patterns.workflows import Workflows
from looper.patterns.workflows.pauses.pausing import Origin, States
from looper.patterns.workflows.pauses.state import Identity
from looper.patterns.workflows.saved import Saved
from looper.run import Client, Pattern
from looper.wire.chat import ChatRequest


@dataclass(frozen=True, slots=True)
class Runtime:
    """A configuration at work. An exchange keeps the one it began with."""

    config: Config
    client: Client
    models: Mapping[str, Model]
    policies: Mapping[str, Policy]
    public: Mapping[tuple[str, str], Policy]
    entries: Mapping[str, str]
    tenancies: Mapping[str, Identity]
    patterns: Mapping[tuple[str, str], Pattern]
    planned_calls: Mapping[tuple[str, str], int]
    agreed: Mapping[tuple[str, str], Terms]
    models_answer: bytes
    model_pages: Mapping[str, bytes]
    process: Process

    @property
    def admission(self) -> Admission:
        return self.process.admission

    @property
    def purse(self) -> Purse:
        return self.process.purse

    @property
    def outflow(self) -> Outflow:
        return self.process.outflow

    @property
    def runs(self) -> Runs:
        return self.process.runs

    @property
    def states(self) -> States:
        return self.process.states

    def policy(self, model: str, recipe: str | None) -> Policy:
        """The policy for a request: of the recipe that Envoy's route names, else of the one that its model leads to.

        Raises ModelNotFound; and ProtocolError for a recipe that does not exist, as to use another one in its place
        could let through what it is there to stop.
        """
        entry = self.entries.get(model)
        if entry is None:
            raise _not_found(model)
        if recipe is not None and recipe not in self.policies:
            raise ProtocolError("the route names a recipe that does not exist")
        if model not in self.models:
            return self.policies[recipe or entry]
        if (policy := self.public.get((model, recipe or entry))) is None:
            raise _not_found(model)  # its tags are not allowed in that recipe
        return policy

    def account(self, model: str, opening: RequestHeaders) -> Account | None:
        """That of the tenant whose request for this name it is; None where nobody is told from another."""
        tenancy = self.tenancies.get(model)
        return None if tenancy is None else self.process.tenants.account(said(tenancy, opening))

    def resumable(self, origin: Origin, saved: Saved) -> tuple[Decision, Workflows]:
        """What a paused run goes on with. Raises StateOutdated if the configuration has no place for it any more."""
        pattern = self.patterns.get((origin.recipe, origin.decision))
        if isinstance(pattern, Workflows) and self._may_see(origin.recipe, saved.models):
            decisions = self.policies[origin.recipe].decisions
            return next(each for each in decisions if each.name == origin.decision), pattern
        raise StateOutdated("The run cannot go on: the models behind this name have changed.")

    def _may_see(self, recipe: str, models: Collection[str]) -> bool:
        """Whether all of these models are still there, and may see this recipe's requests."""
        allows = self.config.recipes[recipe].allows
        return all(name in self.models and allows(self.models[name]) for name in models)

    def model_answer(self, name: str) -> bytes:
        """The page of one public name, however its slashes are written. Raises ModelNotFound."""
        if (page := self.model_pages.get(unquote(name))) is None:
            raise _not_found(unquote(name))
        return page

    def pattern(self, recipe: str, decision: str) -> Pattern:
        """The loop that a decision runs."""
        return self.patterns[recipe, decision]

    def terms(self, recipe: str, decision: str, request: ChatRequest) -> Terms:
        """What an answer has to be, by the client's `response_format` and by the decision.

        Raises InvalidField for a format that cannot be used, or contradicts what the decision insists on.
        """
        wanted = from_response_format(request.members.get("response_format"))
        return self.agreed[recipe, decision].beside(wanted)

    def learn(self, request: ChatRequest, reported: Iterable[int]) -> None:
        """How many tokens a prompt had by the word of those that were sent it."""
        for tokens in reported:
            self.process.correction.learn(request.prompt_tokens, tokens)


def build(config: Config, client: Client, process: Process | None = None) -> Runtime:
    """Make a configuration ready for work, in a process that may be at work already."""
    models = {model.name: model for model in config.models}
    process = process or Process.of(config)
    egress = Egress(client, models, process.purse, config.forwarded, process.signals)
    policies = {name: Policy(name, recipe, egress) for name, recipe in config.recipes.items()}
    public = {
        (model.name, name): Policy(name, recipe_for(model, recipe), egress)
        for model in config.models
        for name, recipe in config.recipes.items()
        if model.public and recipe.allows(model)
    }
    algorithms = {
        (name, decision.name): decision.loop
        for name, policy in policies.items()
        for decision in policy.decisions
        if decision.loop is not None
    }
    terms = {
        (name, decision.name): _terms(decision)
        for name, policy in policies.items()
        for decision in policy.decisions
    }
    pages = _model_pages(config)
    return Runtime(
        config=config,
        client=client,
        models=models,
        policies=policies,
        public=public,
        entries=config.entries(),
        tenancies=config.tenancies(),
        patterns={key: algorithm.build() for key, algorithm in algorithms.items()},
        planned_calls={
            key: planned_calls(algorithm.planned()) for key, algorithm in algorithms.items()
        },
        agreed=terms,
        models_answer=msgspec.json.encode({"object": "list", "data": [*pages.values()]}),
        model_pages={name: msgspec.json.encode(page) for name, page in pages.items()},
        process=process,
    )


def _not_found(model: str) -> ModelNotFound:
    return ModelNotFound(f"The model `{model[:128]}` does not exist.", param="model")


def _terms(decision: Decision) -> Terms:
    contract = decision.contract.build() if decision.contract is not None else None
    return Terms(contract, decision.contract_prompt, decision.on_violation, decision.contract_wins)


def _model_pages(config: Config) -> dict[str, dict[str, Any]]:
    """What `GET /v1/models` tells of the public names, and of the models that may be asked for directly."""
    names = [*config.entrypoints, *(model.name for model in config.models if model.public)]
    created = int(time.time())
    return {
        name: {"id": name, "object": "model", "created": created, "owned_by": "envoy-looper"}
        for name in names
    }
