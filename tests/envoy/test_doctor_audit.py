"""What `looper doctor` reads in the configuration of a real Envoy: ours, and two that others wrote by hand."""

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
import yaml

from extproc import bootstrap
from extproc.cli.doctor.examine import Places, examine
from extproc.cli.doctor.findings import Finding
from extproc.config import Config, parse_config
from tests.envoy.configured import Bootstrap
from tests.fakes.envoy import EnvoyProcess, free_port, run_envoy

pytestmark = pytest.mark.asyncio(loop_scope="session")

HANDWRITTEN = Path(__file__).parent / "handwritten"
OWNERS = ("ours", "one-file", "platform")

CONFIG = """
version: 1
egress: unix:HERE/egress.sock
limits: {max_body: 4MiB, max_runs: 300}
models: [{name: a, url: "http://127.0.0.1:1/v1"}, {name: b, url: "http://127.0.0.1:1/v1"}]
recipes:
  general:
    decisions:
      - name: team
        algorithm: {type: fusion, analysis_models: [a, b], judge_model: a}
        budget: {deadline: 60s}
entrypoints: {looper/auto: general}
envoy: {ingress: "127.0.0.1:18080", stats: "127.0.0.1:19902", admin: "unix:HERE/envoy-admin.sock",
  processors: ["unix:HERE/extproc.sock"]}
"""


class Told(NamedTuple):
    """A finding without its words."""

    about: str
    check: str
    state: str


Edit = Callable[["Edited"], None]


class Edited:
    """An Envoy's configuration, before it starts."""

    def __init__(self, folder: Path, files: dict[str, Bootstrap]) -> None:
        self.folder = folder
        self.files = files

    @property
    def front(self) -> Any:
        return self._managers()[0]

    @property
    def back(self) -> Any:
        return self._managers()[1]

    @property
    def listeners(self) -> Any:
        return self.files["bootstrap.yaml"]["static_resources"]["listeners"]

    @property
    def chain(self) -> Any:
        return self.front["http_filters"]

    @property
    def processor(self) -> Any:
        """The last, for another may be before ours."""
        *_, found = (
            each
            for each in self.chain
            if each["typed_config"]["@type"].endswith("ExternalProcessor")
        )
        return found["typed_config"]

    @property
    def cluster(self) -> Any:
        name = self.processor["grpc_service"]["envoy_grpc"]["cluster_name"]
        clusters = self.files["bootstrap.yaml"]["static_resources"]["clusters"]
        (found,) = (each for each in clusters if each["name"] == name)
        return found

    @property
    def host(self) -> Any:
        return self._table("ingress", self.front)["virtual_hosts"][0]

    @property
    def routes(self) -> Any:
        """Those that lead to models."""
        return [
            each
            for each in self.host["routes"]
            if "x-looper-model" in str(each) and "route" in each
        ]

    @property
    def calls(self) -> Any:
        return [
            each
            for each in self._table("egress", self.back)["virtual_hosts"][0]["routes"]
            if "route" in each
        ]

    def filters(self, kind: str) -> Iterator[Any]:
        return (each for each in list(self.chain) if f".{kind}." in each["typed_config"]["@type"])

    def _managers(self) -> list[Any]:
        return [each["filter_chains"][0]["filters"][0]["typed_config"] for each in self.listeners]

    def _table(self, name: str, manager: Any) -> Any:
        if "route_config" in manager:
            return manager["route_config"]
        return self.files[f"rds-{name}.yaml"]["resources"][0]


@asynccontextmanager
async def running(owner: str, *edits: Edit) -> AsyncIterator[tuple[EnvoyProcess, Config]]:
    """An Envoy of this owner's. Nobody asks it anything but what its configuration is."""
    with TemporaryDirectory(prefix="lo-", dir="/tmp") as name:
        folder = Path(name)
        ports = {port: str(free_port()) for port in ("18080", "18443", "19901", "19902", "19004")}

        def placed(text: str) -> str:
            for port, free in ports.items():
                text = text.replace(port, free)
            return text.replace("HERE", name)

        config = parse_config(placed(CONFIG), "looper.yaml")
        if owner == "ours":
            bootstrap.write(config, folder)
        else:
            written = (HANDWRITTEN / f"{owner}.yaml").read_text()
            (folder / "bootstrap.yaml").write_text(placed(written))
        files = {path.name: yaml.safe_load(path.read_text()) for path in folder.glob("*.yaml")}
        for edit in edits:
            edit(Edited(folder, files))
        for path, data in files.items():
            (folder / path).write_text(yaml.dump(data, Dumper=Plain))
        async with run_envoy(folder / "bootstrap.yaml", log_level="error") as envoy:
            yield envoy, config


class Plain(yaml.SafeDumper):
    """Writes what stands twice in full."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


async def found(owner: str, *edits: Edit) -> list[Finding]:
    async with running(owner, *edits) as (envoy, config):
        address = envoy.admin.address
        admin = f"unix:{address}" if address.startswith("/") else address
        return await examine(config, Places(egress=None, admin=admin, seconds=5))


async def doubts(owner: str, *edits: Edit) -> list[Finding]:
    return [each for each in await found(owner, *edits) if each.state != "ok"]


@pytest.mark.parametrize("owner", OWNERS)
async def test_a_sound_one_is_sound(owner: str) -> None:
    """Whatever it calls its listeners, filters, clusters and routes, and however it does what has to be done."""
    assert await doubts(owner) == []


# Each omission alone...

FRONT = {
    "ours": "envoy listener ingress",
    "one-file": "envoy listener web",
    "platform": "envoy listener gateway",
}
BACK = {
    "ours": "envoy listener egress",
    "one-file": "envoy listener calls",
    "platform": "envoy listener outbound",
}
CLUSTER = {
    "ours": "envoy cluster looper_ext_proc",
    "one-file": "envoy cluster brain",
    "platform": "envoy cluster team",
}


def keeping(name: str) -> Edit:
    """A client's header goes on to models: whoever removes it, does so no more."""

    def edit(file: Edited) -> None:
        for scope in (file.host, *file.routes):
            removed = scope.get("request_headers_to_remove", [])
            removed[:] = [each for each in removed if each.lower() != name]
            for told in scope.get("typed_per_filter_config", {}).values():
                _no_more(told, name)
        for each in file.filters("header_mutation"):
            _no_more(each["typed_config"], name)

    return edit


def _no_more(settings: Any, name: str) -> None:
    mutations = settings.get("mutations", {}).get("request_mutations", [])
    mutations[:] = [each for each in mutations if not _removes(each, name)]


def _removes(mutation: Any, name: str) -> bool:
    matcher = mutation.get("remove_on_match", {}).get("key_matcher", {})
    regex = matcher.get("safe_regex", {}).get("regex", "")
    return (
        mutation.get("remove", "").lower() == name
        or name.startswith(matcher.get("prefix", "\0"))
        or re.fullmatch(regex, name) is not None
    )


def behind(kind: str, settings: dict[str, Any]) -> Edit:
    """A filter stands behind the processor."""
    typed = {"@type": f"type.googleapis.com/envoy.extensions.filters.http.{kind}", **settings}

    def edit(file: Edited) -> None:
        file.chain.insert(-1, {"name": "late", "typed_config": typed})

    return edit


def at(*path: Any, to: Any = None) -> Callable[[Any], None]:
    """Put a value there, or take away what is there."""

    def change(data: Any) -> None:
        *way, last = path
        for step in way:
            data = data[step]
        if to is None:
            data.pop(last, None)
        else:
            data[last] = to

    return change


def of(part: str, change: Callable[[Any], None]) -> Edit:
    def edit(file: Edited) -> None:
        target = getattr(file, part)
        for each in target if part in ("routes", "calls") else [target]:
            change(each)

    return edit


def without(kind: str) -> Edit:
    def edit(file: Edited) -> None:
        for each in file.filters(kind):
            file.chain.remove(each)

    return edit


def no_retries(file: Edited) -> None:
    file.host.pop("retry_policy", None)
    for route in file.routes:
        route["route"].pop("retry_policy", None)


def no_own_headers(file: Edited) -> None:
    file.front.pop("early_header_mutation_extensions", None)
    file.front.get("route_config", {}).pop("internal_only_headers", None)


def small_buffers(file: Edited) -> None:
    file.host.pop("request_body_buffer_limit", None)
    file.listeners[0].pop("per_connection_buffer_limit_bytes", None)


def listening(address: dict[str, Any]) -> Edit:
    def edit(file: Edited) -> None:
        file.listeners[1]["address"] = address

    return edit


def socket(path: str, **mode: int) -> Edit:
    def edit(file: Edited) -> None:
        file.listeners[1]["address"] = {"pipe": {"path": f"{file.folder}/{path}", **mode}}

    return edit


ANY = {"policies": {"all": {"permissions": [{"any": True}], "principals": [{"any": True}]}}}
LIMIT = {"stat_prefix": "x", "token_bucket": {"max_tokens": 1, "fill_interval": "1s"}}
ANYWHERE = {"socket_address": {"address": "0.0.0.0", "port_value": 0}}

F, B, C, M = FRONT, BACK, CLUSTER, dict.fromkeys(OWNERS, "a")
OMISSIONS: list[tuple[str, Edit, Any, str, str]] = [
    *((f"{name}", keeping(name), F, f"header {name}", "fail")
      for name in ("authorization", "cookie", "x-forwarded-for")),
    ("no-clearing", of("processor", at("route_cache_action")), F, "route cache", "warn"),
    ("retained", of("processor", at("route_cache_action", to="RETAIN")), F, "route cache", "fail"),
    ("body-mode", of("processor", at("processing_mode", "request_body_mode", to="STREAMED")), F, "body mode", "fail"),
    ("body-unread", of("processor", at("processing_mode", "request_body_mode", to="NONE")), F, "body mode", "fail"),
    ("no-buffer", without("buffer"), F, "body limit", "warn"),
    ("small-buffer", small_buffers, F, "buffer limit", "warn"),
    ("idle", of("front", at("stream_idle_timeout", to="30s")), F, "stream_idle_timeout", "fail"),
    ("duration", of("front", at("common_http_protocol_options", to={"max_stream_duration": "59s"})), F,
     "max_stream_duration", "fail"),
    ("idle-calls", of("back", at("stream_idle_timeout", to="30s")), B, "stream_idle_timeout", "fail"),
    ("no-replays", of("processor", at("grpc_service", "retry_policy")), F, "retry policy", "warn"),
    ("few-retries", of("cluster", at("circuit_breakers")), C, "max_retries", "warn"),
    ("auth-late", behind("rbac.v3.RBAC", {"rules": ANY}), F, "order of late", "fail"),
    ("limit-late", behind("local_ratelimit.v3.LocalRateLimit", LIMIT), F, "order of late", "fail"),
    ("cors-late", behind("cors.v3.Cors", {}), F, "order of late", "warn"),
    ("reachable", listening(ANYWHERE), B, "reach", "fail"),
    ("any-user", socket("e.sock", mode=0o666), B, "reach", "fail"),
    ("some-user", socket("e.sock"), B, "reach", "warn"),
    ("own-headers", no_own_headers, F, "own headers", "fail"),
    ("no-metadata", of("processor", at("metadata_options")), F, "metadata", "warn"),
    ("credentials", of("processor", at("forward_rules")), F, "forward_rules", "warn"),
    ("fails-open", of("processor", at("failure_mode_allow", to=True)), F, "failure_mode_allow", "warn"),
    ("silent", of("processor", at("disable_immediate_response", to=True)), F, "disable_immediate_response", "fail"),
]  # fmt: skip


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize(
    ("edit", "about", "check", "state"),
    [pytest.param(*more, id=name) for name, *more in OMISSIONS],
)
async def test_an_omission_is_found_and_nothing_else(
    owner: str, edit: Edit, about: dict[str, str], check: str, state: str
) -> None:
    """In whoever's configuration it is, with what to change."""
    told = await doubts(owner, edit)
    assert [Told(each.about, each.check, each.state) for each in told] == [
        Told(about[owner], check, state)
    ]
    assert told[0].advice


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize(
    ("edit", "check", "state"),
    [
        pytest.param(of("routes", at("route", "timeout")), "ingress route", "fail", id="timeout"),
        pytest.param(
            of("calls", at("route", "timeout")), "egress route", "fail", id="timeout-calls"
        ),
        pytest.param(
            of("routes", at("route", "idle_timeout", to="5s")), "ingress route", "fail", id="idle"
        ),
        pytest.param(no_retries, "ingress retries", "warn", id="retries"),
        pytest.param(
            of("calls", at("route", "retry_policy")), "egress retries", "warn", id="calls"
        ),
        pytest.param(
            of("calls", at("route", "retry_policy", to={"retry_on": "5xx"})),
            "egress retries",
            "warn",
            id="paid-twice",
        ),
    ],
)
async def test_an_omission_of_routes_is_found_for_each_model(
    owner: str, edit: Edit, check: str, state: str
) -> None:
    told = await doubts(owner, edit)
    assert {Told(each.about, each.check, each.state) for each in told} == {
        Told(model, check, state) for model in ("a", "b")
    }
    assert all(each.advice for each in told)


@pytest.mark.parametrize("to", [None, "59s"])
async def test_a_buffered_filter_needs_patience(to: str | None) -> None:
    """Envoy's own is 200 ms."""
    (told,) = await doubts("platform", of("processor", at("message_timeout", to=to)))
    assert (told.check, told.state) == ("message_timeout", "fail")


async def test_an_admin_interface_that_others_reach_is_named() -> None:
    address = {"socket_address": {"address": "0.0.0.0", "port_value": free_port()}}

    def edit(file: Edited) -> None:
        file.files["bootstrap.yaml"]["admin"]["address"] = address

    (told,) = await doubts("one-file", edit)
    assert (told.about, told.check, told.state) == ("envoy admin", "reach", "fail")


async def test_the_version_that_runs_is_told() -> None:
    async with running("one-file") as (envoy, config):
        places = Places(egress=None, admin=f"unix:{envoy.admin.address}", seconds=5)
        told = [each for each in await examine(config, places) if each.check == "version"]
        server = await envoy.get("/server_info")
    assert [each.state for each in told] == ["ok"]
    assert f"/{told[0].found}." in server
