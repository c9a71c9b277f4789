import asyncio
import re
import shutil
import ssl
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from extproc.bootstrap import write
from extproc.config import Config, parse_config
from extproc.config.envoy_versions import TRIMMED
from extproc.process.generation import generation
from tests.fakes.envoy import EnvoyProcess, envoy_version, free_port, run_envoy

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVER_NAME = "models.test"
ENV_KEY = "sk-from-environment"

CONFIG = """
version: 1
egress: unix:{folder}/egress.sock
envoy:
  version: "{version}"
  ingress: 127.0.0.1:{ingress}
  stats: 127.0.0.1:{stats}
  admin: 127.0.0.1:{admin}
  processors: ["unix:{folder}/processor.sock"]
models:
  - {{name: plain, url: "http://127.0.0.1:{http}/v1"}}
  - {{name: below, url: "http://localhost:{http}/api/v1"}}
  - {{name: bare, url: "http://127.0.0.1:{http}"}}
  - name: env-key
    url: "http://127.0.0.1:{http}/v1"
    api_key: {{env: SOME_KEY, header: api-key}}
    headers: {{x-title: "50% off", openai-organization: ours}}
  - {{name: org/file-key.1, url: "http://127.0.0.1:{http}/v1", api_key: {{file: {folder}/keys/token}}}}
  - {{name: no-key, url: "http://127.0.0.1:{http}/v1", api_key: {{file: {folder}/keys/missing}}}}
  - {{name: no-variable, url: "http://127.0.0.1:{http}/v1", api_key: {{env: NOWHERE}}}}
  - {{name: dead, url: "http://127.0.0.1:1/v1", retry: {{attempts: 2}}}}
  - {{name: secure, url: "https://localhost:{https}/v1", tls: {{ca: {folder}/ca.pem, server_name: models.test}}}}
  - {{name: impostor, url: "https://localhost:{https}/v1", tls: {{ca: {folder}/ca.pem}}}}
  - {{name: untrusted, url: "https://localhost:{https}/v1", tls: {{server_name: models.test}}}}
{more}
recipes: {{r: {{decisions: [{{name: default, algorithm: {{type: single, model: plain}}}}]}}}}
entrypoints: {{looper/auto: r}}
"""


@dataclass(frozen=True)
class Answer:
    """What came back through the egress listener; `seen` is the request as the upstream got it."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def seen(self) -> Any:
        return {name.lower(): value for name, value in self.body["headers"].items()}

    @property
    def error(self) -> tuple[str, str]:
        return self.body["error"]["type"], self.body["error"]["code"]


@dataclass(frozen=True)
class Bench:
    """One Envoy with the rendered files, its upstreams, and a client on its egress socket."""

    folder: Path
    ports: Mapping[str, int]
    envoy: EnvoyProcess
    client: aiohttp.ClientSession

    def config(self, more: str = "") -> Config:
        text = CONFIG.format(version=envoy_version(), folder=self.folder, more=more, **self.ports)
        return parse_config(text, "bench.yaml")

    async def call(
        self, model: str | None, path: str = "/v1/chat/completions", **headers: str
    ) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if model is not None:
            sent["x-looper-model"] = model
        async with self.client.post(f"http://models{path}", headers=sent, json={}) as response:
            return Answer(response.status, response.headers, await response.json())

    async def statistics(self, path: str = "/stats/prometheus") -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.ports['stats']}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status, await response.text()


async def echo(request: web.Request) -> web.Response:
    """An upstream that says what it got, after a wait and with the status that it is asked for."""
    await asyncio.sleep(float(request.headers.get("test-sleep", "0")))
    seen = {"path": request.path_qs, "headers": dict(request.headers)}
    return web.json_response(seen, status=int(request.headers.get("test-status", "200")))


def certificate(folder: Path) -> None:
    """A certificate for SERVER_NAME that is signed by itself, so it is its own root."""
    options = ["-x509", "-nodes", "-days", "2", "-subj", "/CN=test"]
    options += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    options += ["-addext", f"subjectAltName=DNS:{SERVER_NAME}"]
    files = ["-keyout", f"{folder}/key.pem", "-out", f"{folder}/ca.pem"]
    subprocess.run(["openssl", "req", *options, *files], check=True, capture_output=True)


@asynccontextmanager
async def upstreams(folder: Path) -> AsyncIterator[dict[str, int]]:
    """The upstream on a port for http and on one for https."""
    certificate(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", echo)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    ports = {"http": free_port(), "https": free_port()}
    await web.TCPSite(runner, "127.0.0.1", ports["http"]).start()
    await web.TCPSite(runner, "127.0.0.1", ports["https"], ssl_context=context).start()
    try:
        yield ports
    finally:
        await runner.cleanup()


def mount(folder: Path, content: str) -> None:
    """Put a key where a Secret would be mounted: what changes is a symbolic link beside it, by a rename."""
    folder.mkdir(exist_ok=True)
    version = Path(tempfile.mkdtemp(prefix="..", dir=folder))
    # An Envoy that is older takes a newline for a part of the key.
    end = "\n" if TRIMMED.is_in(envoy_version()) else ""
    (version / "token").write_text(content + end)
    (folder / "..new").symlink_to(version.name)
    (folder / "..new").rename(folder / "..data")
    if not (folder / "token").is_symlink():
        (folder / "token").symlink_to("..data/token")


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what Envoy does in its own time."""
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench() -> AsyncIterator[Bench]:
    # The path of a socket may have about 100 characters, fewer than pytest's folders have.
    folder = Path(tempfile.mkdtemp(prefix="lo-", dir="/tmp"))
    mount(folder / "keys", "sk-first")
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        ports = await stack.enter_async_context(upstreams(folder))
        ports |= {name: free_port() for name in ("ingress", "stats", "admin")}
        text = CONFIG.format(version=envoy_version(), folder=folder, more="", **ports)
        write(parse_config(text, "bench.yaml"), folder)
        running = run_envoy(folder / "bootstrap.yaml", env={"SOME_KEY": ENV_KEY})
        envoy = await stack.enter_async_context(running)
        connector = aiohttp.UnixConnector(str(folder / "egress.sock"))
        session = aiohttp.ClientSession(connector=connector)
        client = await stack.enter_async_context(session)
        yield Bench(folder, ports, envoy, client)


async def test_everything_rendered_is_accepted(bench: Bench) -> None:
    """Envoy rejects no route, no cluster but the one without its key, and complains of nothing deprecated."""
    expected = generation(bench.config())

    async def is_known() -> bool:
        versions = await bench.envoy.get("/stats?filter=rds.*version_text&type=TextReadouts")
        return versions.count(expected) == 2

    await eventually(is_known)
    rejected = await bench.envoy.get("/stats?filter=rds.*update_rejected")
    assert [line.rpartition(" ")[2] for line in rejected.splitlines()] == ["0"] * 2
    log = bench.envoy.log.read_text()
    rejected_clusters = r"cluster '([^']*)' config rejected|updating cluster\(s\) (\S+):"
    found = {name for names in re.findall(rejected_clusters, log) for name in names if name}
    assert found == {"model:no-variable"}
    assert "Deprecated" not in log


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("plain", "/v1/chat/completions?a=1"),
        ("below", "/api/v1/chat/completions?a=1"),
        ("bare", "/chat/completions?a=1"),
    ],
)
async def test_path_and_host_are_those_of_the_url(bench: Bench, model: str, path: str) -> None:
    """The model named in the header is called under its URL's path and host."""
    answer = await bench.call(model, "/v1/chat/completions?a=1")

    host = "localhost" if model == "below" else "127.0.0.1"
    assert (answer.status, answer.body["path"]) == (200, path)
    assert answer.seen["host"] == f"{host}:{bench.ports['http']}"
    assert answer.headers["x-envoy-attempt-count"] == "1"
    assert "x-looper-flags" not in answer.headers


async def test_a_backend_sees_nothing_of_ours_or_the_clients(bench: Bench) -> None:
    """Credentials, accounts and our own headers end at Envoy; anything else goes on."""
    answer = await bench.call(
        "plain",
        authorization="Bearer client",
        cookie="a=b",
        x_api_key="client",
        openai_organization="theirs",
        x_looper_role="judge",
        x_looper_run="r1",
        x_other="kept",
    )

    assert answer.seen["x-other"] == "kept"
    gone = {"authorization", "cookie", "x-api-key", "openai-organization", "x-forwarded-for"}
    assert not gone & set(answer.seen)
    assert not [name for name in answer.seen if name.startswith("x-looper-")]


async def test_a_key_from_the_environment_is_injected(bench: Bench) -> None:
    """The key stands in the configured header, and the model's own headers survive the removal of the client's."""
    answer = await bench.call("env-key", api_key="client", openai_organization="theirs")

    assert answer.seen["api-key"] == ENV_KEY
    assert answer.seen["openai-organization"] == "ours"
    assert answer.seen["x-title"] == "50% off"


async def test_a_key_from_a_file_is_injected_and_rotated(bench: Bench) -> None:
    """The key of a mounted Secret is used as a bearer token, and its replacement without a restart."""
    first = await bench.call("org/file-key.1", authorization="Bearer client")
    mount(bench.folder / "keys", "sk-second")

    async def is_rotated() -> bool:
        answer = await bench.call("org/file-key.1")
        return bool(answer.seen["authorization"] == "Bearer sk-second")

    assert first.seen["authorization"] == "Bearer sk-first"
    await eventually(is_rotated)


@pytest.mark.parametrize(
    ("model", "status", "flags"),
    [
        pytest.param("no-key", 401, "-", id="file"),
        pytest.param("no-variable", 503, "NC", id="variable"),
    ],
)
async def test_a_missing_key_fails_its_model_only(
    bench: Bench, model: str, status: int, flags: str
) -> None:
    """A model whose key is not there is answered for by Envoy itself; the call does not leave without it."""
    answer = await bench.call(model)

    assert (answer.status, answer.headers["x-looper-flags"]) == (status, flags)
    assert answer.error == ("upstream_error", "upstream_failed")


@pytest.mark.parametrize(
    ("model", "path", "code"),
    [
        ("nobody", "/v1/chat/completions", "model_not_found"),
        (None, "/v1/chat/completions", "unknown_path"),
        ("plain", "/other", "unknown_path"),
        ("plain", "/v1beta/models", "unknown_path"),
    ],
)
async def test_what_has_no_route_is_refused(
    bench: Bench, model: str | None, path: str, code: str
) -> None:
    """An unknown model and an unknown path are 404 in OpenAI's shape."""
    answer = await bench.call(model, path)

    assert answer.status == 404
    assert answer.headers["content-type"] == "application/json"
    assert answer.error == ("invalid_request_error", code)


async def test_an_unreachable_model_is_told_from_one_that_refuses(bench: Bench) -> None:
    """Only Envoy's own answer has our flags; a model's 503 comes through as it is, tried again as configured."""
    dead = await bench.call("dead")
    refusing = await bench.call("plain", test_status="503")

    assert (dead.status, dead.headers["x-looper-flags"]) == (503, "URX,UF")
    assert dead.error == ("upstream_error", "upstream_failed")
    assert dead.headers["x-envoy-attempt-count"] == "3"
    assert "x-looper-flags" not in refusing.headers
    assert refusing.headers["x-envoy-attempt-count"] == "2"


async def test_the_processor_sets_deadline_and_retries_of_a_call(bench: Bench) -> None:
    """Envoy honours both of its own request headers from our socket."""
    late = await bench.call("plain", test_sleep="5", x_envoy_upstream_rq_timeout_ms="100")
    once = await bench.call("plain", test_status="503", x_envoy_max_retries="0")

    assert (late.status, late.headers["x-looper-flags"]) == (504, "UT")
    assert once.headers["x-envoy-attempt-count"] == "1"


async def test_tls_is_verified(bench: Bench) -> None:
    """A certificate is accepted from a trusted root and for the expected name, and not otherwise."""
    assert (await bench.call("secure")).status == 200
    for model in ("impostor", "untrusted"):
        answer = await bench.call(model)
        assert (answer.status, "UF" in answer.headers["x-looper-flags"]) == (503, True)


async def test_calls_are_counted_by_model_and_role(bench: Bench) -> None:
    """Each call is in the statistics with its role, though the backend does not see it, and its whole model name."""
    await bench.call("org/file-key.1", x_looper_role="counted")
    series = 'envoy_looper_egress_calls_total{model="org/file-key.1",role="counted",code="200"'

    async def is_counted() -> bool:
        _, text = await bench.statistics()
        return series in text

    await eventually(is_counted)
    _, text = await bench.statistics()
    assert 'envoy_cluster_upstream_rq_total{envoy_cluster_name="model_org/file-key_1"}' in text


async def test_stats_listener_shows_statistics_and_nothing_else(bench: Bench) -> None:
    """Readiness and statistics are there; the rest of the admin interface is not."""
    assert await bench.statistics("/ready") == (200, "LIVE\n")
    assert (await bench.statistics("/stats/prometheus?usedonly"))[0] == 200
    for path in ("/", "/config_dump", "/stats", "/quitquitquit", "/stats/prometheus/x"):
        assert (await bench.statistics(path))[0] == 404


async def test_egress_socket_is_its_owners(bench: Bench) -> None:
    """Nobody else on the machine can connect to the socket."""
    mode = (bench.folder / "egress.sock").stat().st_mode

    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


async def test_a_new_model_needs_no_restart(bench: Bench) -> None:
    """Rewritten files add a route and a cluster to the running Envoy, which then shows the new generation."""
    more = f'  - {{name: late, url: "http://127.0.0.1:{bench.ports["http"]}/v1"}}'
    changed = bench.config(more)
    write(changed, bench.folder)

    async def is_known() -> bool:
        return (await bench.call("late")).status == 200

    try:
        await eventually(is_known)
        versions = await bench.envoy.get("/stats?filter=rds.*version_text&type=TextReadouts")
        assert generation(changed) in versions
    finally:
        write(bench.config(), bench.folder)
