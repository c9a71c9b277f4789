"""The files that Envoy is started with, and those that it watches, made from a configuration."""

import os
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from betterproto2 import Message
from envoy_data_plane.envoy.config.bootstrap import v3 as bootstrap
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.overload import v3 as overload
from envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections.v3 import (
    DownstreamConnectionsConfig,
)
from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryResponse
from envoy_data_plane.google.protobuf import Struct

from extproc.bootstrap import certificates, credentials, older, overlay, routes, stats, tracing
from extproc.bootstrap.clusters import model_cluster
from extproc.bootstrap.egress import egress
from extproc.bootstrap.ingress import ingress
from extproc.bootstrap.messages import pack, seconds, watched_file
from extproc.bootstrap.operators import admin, pages, stats_listener
from extproc.bootstrap.processors import processors
from extproc.config import Config
from extproc.process.generation import announcement, generation, reach
from looper.calling.models import Model

_ORDER = ("sds", "cds", "rds-egress", "rds-ingress", "bootstrap")
"""A route needs its cluster, and a cluster its secret, so that is the order in which files are replaced.

Routes of clients come last: they tell the processor that it may call what the others lead to.
"""

_MAX_CONNECTIONS = 10000
DAY = 86400


_REGEX_SIZE = "re2.max_program_size.error_level"
_LARGEST_REGEX = 10_000
"""Envoy's own limit is 100, which a list of a dozen headers that may be written exceeds."""


def render(config: Config, *, directory: str, lingering: Sequence[Model] = ()) -> dict[str, str]:
    """The files' texts under their names; `directory` is where Envoy will see the files.

    `lingering` models are no longer in the configuration, but may be called by what began before they left it.
    """
    return _rendered(config, directory, lingering)[0]


def left_out(config: Config) -> list[str]:
    """What files lack that the Envoy they are for does not know yet."""
    return _rendered(config, "/", ())[1]


def _rendered(
    config: Config, directory: str, lingering: Sequence[Model]
) -> tuple[dict[str, str], list[str]]:
    directory = directory.rstrip("/")
    version = generation(config)
    config = config.model_copy(update={"models": (*config.upstreams(), *lingering)})
    ours = [model for model in config.models if model.cluster is None]
    clusters = [model_cluster(model, directory) for model in ours]
    # Envoy takes a file of routes, and one of secrets, only if it holds a single one.
    messages: dict[str, Message] = {
        "bootstrap.yaml": _bootstrap(config, directory, version),
        "cds.yaml": _resources(version, *clusters),
        "rds-ingress.yaml": _resources(
            version, routes.ingress(config, announcement(version, reach(config)))
        ),
        "rds-egress.yaml": _resources(version, routes.egress(config)),
    }
    for path in credentials.files(config):
        messages[credentials.sds_name(path)] = _resources(version, credentials.from_file(path))
    for pair in certificates.pairs(config):
        messages[pair.file] = _resources(version, pair.secret())
    files = {name: data(message) for name, message in messages.items()}
    overlay.lay(files, config)
    lacking = older.fit(files, config.envoy.version)
    texts = {name: _text(each, version) for name, each in files.items()}
    notes = "".join(f"# left out for Envoy {config.envoy.version}: {each}\n" for each in lacking)
    return {**texts, "bootstrap.yaml": notes + texts["bootstrap.yaml"]}, lacking


def write(
    config: Config,
    out: Path,
    directory: str | None = None,
    *,
    lingering: Sequence[Model] = (),
    settle: float = 0,
) -> str:
    """Write the files into the folder `out`, each replaced in one step; Envoy sees it as `directory`.

    Between clusters that are new and the routes that lead there, `settle` seconds are left for Envoy to resolve names.
    Returns what Envoy reads only at its start, whichever generation it is of.
    """
    texts = render(config, directory=directory or str(out.absolute()), lingering=lingering)
    out.mkdir(parents=True, exist_ok=True)
    for name in sorted(texts, key=_turn):
        if _replace(out / name, texts[name]) and name == "cds.yaml":
            time.sleep(settle)
    return texts["bootstrap.yaml"].replace(generation(config), "")


def _turn(name: str) -> int:
    return next(turn for turn, prefix in enumerate(_ORDER) if name.startswith(prefix))


def _bootstrap(config: Config, directory: str, version: str) -> bootstrap.Bootstrap:
    return bootstrap.Bootstrap(
        # Envoy refuses files of secrets to a node without a name.
        node=core.Node(
            id="looper",
            cluster="looper",
            metadata=Struct.from_dict({"looper_generation": version}),
        ),
        admin=admin(config),
        static_resources=bootstrap.BootstrapStaticResources(
            listeners=[
                ingress(config, directory),
                egress(config, directory),
                stats_listener(config),
            ],
            clusters=[processors(config), *pages(config), *tracing.clusters(config)],
            secrets=credentials.from_environment(config),
        ),
        dynamic_resources=bootstrap.BootstrapDynamicResources(
            cds_config=watched_file(directory, "cds.yaml")
        ),
        layered_runtime=runtime(),
        stats_config=stats.config(),
        stats_eviction_interval=seconds(DAY),
        overload_manager=overload.OverloadManager(
            resource_monitors=[
                overload.ResourceMonitor(
                    name="envoy.resource_monitors.global_downstream_max_connections",
                    typed_config=pack(
                        DownstreamConnectionsConfig(
                            max_active_downstream_connections=_MAX_CONNECTIONS
                        )
                    ),
                )
            ]
        ),
    )


def runtime() -> bootstrap.LayeredRuntime:
    """What Envoy would refuse our filter without."""
    size = Struct.from_dict({_REGEX_SIZE: _LARGEST_REGEX})
    return bootstrap.LayeredRuntime(
        layers=[bootstrap.RuntimeLayer(name="looper", static_layer=size)]
    )


def _resources(version: str, *messages: Message) -> DiscoveryResponse:
    return DiscoveryResponse(version_info=version, resources=[pack(each) for each in messages])


def data(message: Message) -> Any:
    """The message as it is written in YAML."""
    # Fields keep their names: betterproto2's own casings make `consecutive_5_xx` of `consecutive_5xx`.
    return _written(message.to_dict(casing=str))  # type: ignore[arg-type]  # any function from name to name will do


def _text(message: Any, version: str) -> str:
    return f"# Generated by `looper envoy-config`; do not edit.\n# generation: {version}\n{as_yaml(message)}"


class _Dumper(yaml.SafeDumper):
    """Quotes what Envoy's parser, another one, would take for something else than a text.

    Two places that happen to share a value are no reason for an alias.
    """

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"[yYnN]$"), list("yYnN"))


def as_yaml(data: Any) -> str:
    """Data as Envoy reads it from a file."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def _written(data: Any) -> Any:
    """An `Any` of nothing, which wakes a filter that has nothing to be told, has no type for Envoy either."""
    match data:
        case {"@type": ""}:
            return {}
        case dict():
            return {name: _written(value) for name, value in data.items()}
        case list():
            return [_written(value) for value in data]
        case _:
            return data


def _replace(path: Path, text: str) -> bool:
    """A rename, because that is what Envoy watches for, and because no reader may see half a file.

    A file that says the same already is left alone. Whether it was written.
    """
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return True
