"""The configuration file as it is written: its root model."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from extproc.config.addresses import Address, Egress, Listened
from extproc.config.entrypoints import Entrypoint
from extproc.config.envoy_versions import NEWEST, EnvoyVersion
from extproc.config.included import RecipeOrInclude
from extproc.config.overlay import AccessLogs, Clusters, Cors, DownstreamTls, Filters, Routes
from extproc.config.passthrough import Passthrough
from extproc.config.trace import TraceSettings
from extproc.config.tracing import EnvoyTracing, TracingSettings
from extproc.headers import check_droppable, check_forwardable
from looper.calling.budget import Ceiling
from looper.calling.models import Model
from looper.calling.propagation import CONTEXT, FORWARDED
from looper.patterns.workflows.pauses.state import AnyState, Identity, MemoryState
from looper.settings import ByteCount, Duration, Name, Setting, SomeTime

ForwardedHeader = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_|~-]+$"), AfterValidator(check_forwardable)
]


DroppedHeader = Annotated[
    str,
    Field(pattern=r"^[a-z0-9][a-z0-9_-]*[*]?$", max_length=128),
    AfterValidator(check_droppable),
]


_LARGEST_BODY = (1 << 32) - 1
"""Bytes that Envoy can count to."""


_MOST_TENANTS = 1000
"""Each is a label of statistics."""


class Limits(Setting):
    """What one process takes on."""

    max_body: ByteCount = Field(
        default=32 << 20,
        le=_LARGEST_BODY,
        description="of a request",
    )
    max_answer_bytes: ByteCount = Field(
        default=32 << 20, description="of a team's answer, and of what one upstream sends for it"
    )
    max_inflight_bytes: ByteCount = Field(
        default=512 << 20, description="of all answers that teams are writing, together"
    )
    max_runs: int = Field(default=1000, ge=1, le=1_000_000, description="teams at work at once")
    max_waiting: int = Field(
        default=1000, ge=0, le=1_000_000, description="requests that wait for their turn then"
    )
    patience: Duration = Field(default=timedelta(seconds=1), description="how long they wait")
    ceiling: Ceiling = Field(default=Ceiling(), description="what teams may spend together")
    tenants: dict[Name, Ceiling] = Field(
        default_factory=dict,
        max_length=_MOST_TENANTS,
        description="who is told from whom where an entrypoint has `tenant`, and what each may spend in a stretch of "
        "time; `other` are all that are not named here",
    )


class EnvoySettings(Setting):
    """What `looper envoy-config` needs beyond the models; the processor itself reads none of it."""

    version: EnvoyVersion = Field(
        default=NEWEST, description="what an older Envoy lacks is left out of its files"
    )
    ingress: Listened = Field(default="0.0.0.0:8080", description="where clients connect")
    stats: Listened = Field(
        default="0.0.0.0:9902",
        description="/ready, /stats/prometheus, and with `metrics` /metrics, nothing else",
    )
    metrics: Address | None = Field(
        default=None, description="where the processor has its own page: `looper serve --metrics`"
    )
    admin: Listened = Field(
        default="unix:/run/looper/envoy-admin.sock",
        description="Envoy's admin interface: a socket of its owner alone, or a port",
    )
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
    preserve_external_request_id: bool = Field(
        default=False,
        description="whether a client's own `x-request-id` stays; else Envoy makes one",
    )
    request_id_in_response: bool = Field(
        default=False, description="whether answers say their `x-request-id`"
    )
    tls: DownstreamTls | None = Field(default=None, description="TLS for clients; default: none")
    cors: Cors | None = Field(default=None, description="pages of other origins; default: none")
    filters: Filters | None = Field(
        default=None, description="file of Envoy's: a list of HTTP filters, to stand before ours"
    )
    access_log: AccessLogs | None = Field(
        default=None, description="file of Envoy's: a list of access loggers"
    )
    routes: Routes | None = Field(
        default=None, description="file of Envoy's: a list of routes, and of virtual hosts"
    )
    clusters: Clusters | None = Field(
        default=None, description="file of Envoy's: a list of clusters"
    )
    drop_headers: tuple[DroppedHeader, ...] = Field(
        default=(), description="more that no model gets of a client's headers; `x-my-*` for all"
    )
    keep_headers: dict[Name, tuple[DroppedHeader, ...]] = Field(
        default_factory=dict, description="by model: what it gets all the same"
    )
    stream_idle_timeout: Duration = timedelta(seconds=300)
    max_stream_duration: Duration | None = None
    tracing: EnvoyTracing | None = Field(default=None, description="Envoy's own spans")

    @property
    def url(self) -> str:
        """Where clients of this machine ask. Raises ValueError if that is no port."""
        if self.ingress.startswith("unix:"):
            raise ValueError(f"envoy.ingress is {self.ingress}: give a URL")
        host, _, port = self.ingress.rpartition(":")
        anywhere = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "::": "[::1]"}  # noqa: S104  # compared, not bound
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://{anywhere.get(host, host)}:{port}"


class Config(Setting):
    """The whole file."""

    version: Literal[1]
    egress: Egress = Field(description="where model calls go: unix:/path, or http://host:port")
    heartbeat: SomeTime = timedelta(seconds=10)
    forward_headers: tuple[ForwardedHeader, ...] = Field(
        default=FORWARDED, description="headers of a client that go with every call of a team"
    )
    debug: bool = Field(default=False, description="whether clients may ask for facts of their run")
    limits: Limits = Limits()
    trace: TraceSettings = TraceSettings()
    tracing: TracingSettings | None = Field(
        default=None, description="the processor's spans; needs the extra `otel`"
    )
    state: AnyState = Field(
        default=MemoryState(), description="where runs wait for the client's tools"
    )
    envoy: EnvoySettings = EnvoySettings()
    models: tuple[Model, ...] = Field(min_length=1)
    recipes: dict[Name, RecipeOrInclude] = Field(min_length=1)
    entrypoints: dict[Name, str | Entrypoint] = Field(
        min_length=1, description="public model name: recipe, or that and `tenant`"
    )
    passthrough: tuple[Passthrough, ...] = Field(
        default=(), description="which model gets what comes to paths that are none of ours"
    )

    @property
    def forwarded(self) -> tuple[str, ...]:
        """The headers that go with every call: where spans are made, a trace goes on whatever else does."""
        traced = () if self.tracing is None else CONTEXT
        return tuple(dict.fromkeys((*self.forward_headers, *traced)))

    def upstreams(self) -> tuple[Model, ...]:
        """Everything that is called by way of Envoy: the catalogue, and verifiers that have an address instead."""
        decisions = (each for recipe in self.recipes.values() for each in recipe.decisions)
        verifiers = {each.verifier.name: each.verifier for each in decisions if each.verifier}
        return (*self.models, *verifiers.values())

    def led(self) -> dict[str, str]:
        """The recipe of each entrypoint."""
        return {
            name: each if isinstance(each, str) else each.recipe
            for name, each in self.entrypoints.items()
        }

    def entries(self) -> dict[str, str]:
        """Every name that clients may use, and the recipe that it leads to.

        A public model that names no recipe is in the care of the first one.
        """
        entrypoints = self.led()
        first = next(iter(entrypoints.values()))
        public = (model for model in self.models if model.public)
        names = {
            model.name: model.public if isinstance(model.public, str) else first for model in public
        }
        return {**names, **entrypoints}

    def tenancies(self) -> dict[str, Identity]:
        """By public name: who is told from whom. To ask for a model by its own name is no way around that."""
        said = {
            name: (each.recipe, each.tenant)
            for name, each in self.entrypoints.items()
            if isinstance(each, Entrypoint) and each.tenant is not None
        }
        by_recipe = dict(reversed(said.values()))
        by_name = {name: tenant for name, (_, tenant) in said.items()}
        models = (model.name for model in self.models if model.public)
        recipes = self.entries()
        named = {name: by_recipe[recipes[name]] for name in models if recipes[name] in by_recipe}
        return named | by_name
