"""The Envoy that is measured: the product's own configuration, and copies of its listener that differ in one filter."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from extproc import bootstrap
from extproc.bootstrap.processors import CLUSTER
from extproc.config import EnvoySettings, parse_config
from tests.fakes.envoy import free_port

Side = Literal["none", "ours", "echo", "peer"]
BodyMode = Literal["full_duplex", "buffered"]
Profile = Literal["fast", "metered"]

_FILTER = "looper.ext_proc"


@dataclass(frozen=True, slots=True)
class Listener:
    """One way through Envoy. `none` has no processor, and so no body mode."""

    side: Side
    mode: BodyMode = "full_duplex"
    profile: Profile = "fast"

    @property
    def name(self) -> str:
        return f"{self.side}-{self.mode}-{self.profile}"


def unavailable(profile: Profile) -> str | None:
    """Why this profile cannot be measured; None if it can."""
    if profile == "fast" or "profile" in EnvoySettings.model_fields:
        return None
    return f"this version has no profile `{profile}`"


def listeners(sides: Iterable[Side]) -> list[Listener]:
    """Every listener of these sides that this version of the product can be measured with."""
    profiles: tuple[Profile, ...] = ("fast", "metered")
    modes: tuple[BodyMode, ...] = ("full_duplex", "buffered")
    return [
        Listener(side, mode, profile)
        for profile in profiles
        if unavailable(profile) is None
        for mode in modes
        for side in sides
    ]


def write(
    config: Mapping[str, Any], folder: Path, others: Mapping[Side, Path], model: str
) -> dict[Listener, str]:
    """Write Envoy's files into `folder`; the result says where each listener is.

    `others` has the sockets of other processors than ours, and `model` is the one that the listeners without a
    processor lead to.
    """
    ways = listeners(("none", "ours", *others))
    # Every rendering writes the same clusters and routes, so the files of the last one serve all.
    rendered = {
        (mode, profile): _render(config, folder, mode, profile)
        for mode, profile in {(each.mode, each.profile) for each in ways}
    }
    base: dict[str, Any] = next(iter(rendered.values()))
    static = base["static_resources"]
    routes = _without_choice(yaml.safe_load((folder / "rds-ingress.yaml").read_text()), model)
    places: dict[Listener, str] = {}
    for listener in ways:
        ingress = _named(rendered[listener.mode, listener.profile], "ingress")
        places[listener], made = _listener(listener, ingress, routes)
        static["listeners"].append(made)
    static["clusters"] += [
        _cluster(static["clusters"], side, socket) for side, socket in others.items()
    ]
    (folder / "bootstrap.yaml").write_text(yaml.safe_dump(base, sort_keys=False))
    return places


def _render(
    config: Mapping[str, Any], folder: Path, mode: BodyMode, profile: Profile
) -> dict[str, Any]:
    settings = {**config["envoy"], "body_mode": mode}
    if "profile" in EnvoySettings.model_fields:
        settings["profile"] = profile
    text = yaml.safe_dump({**config, "envoy": settings})
    bootstrap.write(parse_config(text, "bench.yaml"), folder)
    made: dict[str, Any] = yaml.safe_load((folder / "bootstrap.yaml").read_text())
    return made


def _named(rendered: Mapping[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        each for each in rendered["static_resources"]["listeners"] if each["name"] == name
    )
    return found


def _listener(
    listener: Listener, ingress: Mapping[str, Any], routes: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    made = copy.deepcopy(dict(ingress))
    port = free_port()
    made["name"] = listener.name
    made["address"] = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    manager = made["filter_chains"][0]["filters"][0]["typed_config"]
    manager["stat_prefix"] = listener.name
    filters = manager["http_filters"]
    if listener.side == "none":
        manager["http_filters"] = [each for each in filters if each["name"] != _FILTER]
        del manager["rds"]
        manager["route_config"] = routes
    if listener.side in ("echo", "peer"):
        config = next(each for each in filters if each["name"] == _FILTER)["typed_config"]
        config["grpc_service"]["envoy_grpc"]["cluster_name"] = listener.side
    return f"http://127.0.0.1:{port}", made


def _without_choice(file: Mapping[str, Any], model: str) -> dict[str, Any]:
    """The product's routes, where the one to `model` is taken without anybody asking for it."""
    table: dict[str, Any] = copy.deepcopy(file["resources"][0])
    table.pop("@type")
    table["validate_clusters"] = False  # they are in a file that Envoy reads later
    host = table["virtual_hosts"][0]
    chosen = next(route for route in host["routes"] if route.get("name") == model)
    del chosen["match"]["headers"]
    host["routes"] = [chosen]
    return table


def _cluster(clusters: list[dict[str, Any]], name: str, socket: Path) -> dict[str, Any]:
    made = copy.deepcopy(next(each for each in clusters if each["name"] == CLUSTER))
    made["name"] = made["load_assignment"]["cluster_name"] = name
    (locality,) = made["load_assignment"]["endpoints"]
    (endpoint,) = locality["lb_endpoints"]
    endpoint["endpoint"]["address"] = {"pipe": {"path": str(socket)}}
    return made
