"""The examples of what an operator lays over Envoy: each behind a real Envoy, asked as its clients would."""

import asyncio
import base64
import hmac
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import yaml
from aiohttp import web

from extproc.bootstrap import render
from extproc.config import load_config
from extproc.config.envoy_versions import NEWEST, OLDEST
from tests.envoy.conftest import quick_models
from tests.envoy.test_validate import validate
from tests.fakes.certificates import certify
from tests.fakes.envoy import envoy_version, free_port
from tests.fakes.stack import ROOT, Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

FOLDER = ROOT / "examples" / "envoy"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem.count(".") == 0)
HELLO = {"model": "looper/auto", "messages": [{"role": "user", "content": "Hello"}]}
HARD = {"model": "looper/auto", "messages": [{"role": "user", "content": "prove it"}]}


@asynccontextmanager
async def run(
    name: str,
    etc: Path,
    change: Callable[[dict[str, Any]], None] = lambda config: None,
    *,
    replaced: Mapping[str, tuple[str, str]] | None = None,
    **settings: Any,
) -> AsyncIterator[Stack]:
    """An example as it is written, but for the folder in which Envoy finds files."""
    config = yaml.safe_load(text_of(FOLDER / f"{name}.yaml", etc))
    change(config)
    files = {path.name: text_of(path, etc) for path in FOLDER.glob(f"{name}.*.yaml")}
    for file, (old, new) in (replaced or {}).items():
        assert old in files[file]
        files[file] = files[file].replace(old, new)
    async with run_stack(quick_models(), config, files=files, **settings) as stack:
        yield stack


def text_of(path: Path, etc: Path) -> str:
    return path.read_text().replace("/etc/envoy", str(etc))


async def ask(
    stack: Stack, body: Mapping[str, Any] = HELLO, **settings: Any
) -> tuple[int, dict[str, Any], Mapping[str, str]]:
    url = f"{stack.base_url}/chat/completions"
    async with stack.session.post(url, json=body, **settings) as response:
        return response.status, json.loads(await response.read()), response.headers


@pytest.mark.parametrize("version", sorted({OLDEST, envoy_version()}))
@pytest.mark.parametrize("name", EXAMPLES)
async def test_example_is_valid(name: str, version: str, tmp_path: Path) -> None:
    """For the newest Envoy, and as it is written for an older one, which takes less."""
    certified(tmp_path)
    (tmp_path / "jwks.json").write_text(json.dumps(JWKS))
    for path in FOLDER.glob(f"{name}*.yaml"):
        (tmp_path / path.name).write_text(text_of(path, tmp_path))
    config = load_config(tmp_path / f"{name}.yaml")
    envoy = config.envoy.model_copy(update={"version": version})

    validate(
        render(config.model_copy(update={"envoy": envoy}), directory="/etc/envoy"),
        tmp_path,
        # Envoy has not declared the filter for keys stable; an older one's members are deprecated in a newer one.
        known=("api_key_auth", *(() if version == NEWEST else ("deprecated", "loggers.stats"))),
    )


async def test_every_example_is_told_of() -> None:
    """Each in the page for operators; and no part is without its example."""
    page = (ROOT / "docs" / "envoy.md").read_text()
    parts = {path.name.partition(".")[0] for path in FOLDER.glob("*.*.yaml")}

    assert [name for name in EXAMPLES if f"examples/envoy/{name}.yaml" not in page] == []
    assert parts <= set(EXAMPLES)


# TLS...


def certified(etc: Path) -> Path:
    """A server's certificate and two clients', where the examples look for them."""
    folder = etc / "tls"
    folder.mkdir(exist_ok=True)
    certify(folder, "server", "DNS:localhost")
    for name in ("ann", "bob"):
        certify(folder, name, f"URI:spiffe://test/{name}")
    (folder / "server.pem").rename(folder / "tls.crt")
    (folder / "server.key").rename(folder / "tls.key")
    (folder / "ca.crt").write_bytes((folder / "ca.pem").read_bytes())
    return folder


def trusting(folder: Path, name: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    if name is not None:
        context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return context


async def test_tls(tmp_path: Path) -> None:
    """Clients that trust the root are answered, in HTTP/2 if they speak it; a new certificate needs no restart."""
    folder = certified(tmp_path)
    async with run("tls", tmp_path, tls=trusting(folder)) as stack:
        assert (await ask(stack))[0] == 200
        port = int(stack.ingress.rpartition(":")[2])
        assert await agreed(port, folder) == "h2"

        before = await certificate(port)
        certify(folder, "new", "DNS:localhost")
        (folder / "new.key").rename(folder / "tls.key")
        (folder / "new.pem").rename(folder / "tls.crt")
        async with asyncio.timeout(10):
            while await certificate(port) == before:
                await asyncio.sleep(0.05)
        assert (await ask(stack))[0] == 200


async def agreed(port: int, folder: Path) -> str | None:
    context = trusting(folder)
    context.set_alpn_protocols(["h2", "http/1.1"])
    _, writer = await asyncio.open_connection("localhost", port, ssl=context)
    chosen: str | None = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    writer.close()
    return chosen


async def certificate(port: int) -> str:
    return await asyncio.to_thread(ssl.get_server_certificate, ("localhost", port))


async def test_mtls(tmp_path: Path) -> None:
    """Nobody without a certificate of the root comes in."""
    folder = certified(tmp_path)
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    certify(stranger, "eve", "URI:spiffe://test/ann")
    async with run("mtls", tmp_path, tls=trusting(folder, "ann")) as stack:
        assert (await ask(stack))[0] == 200
        assert (await ask(stack, ssl=trusting(folder, "bob")))[0] == 200
        unknown = trusting(folder)
        unknown.load_cert_chain(stranger / "eve.pem", stranger / "eve.key")
        for context in (trusting(folder), unknown):
            with pytest.raises(aiohttp.ClientConnectionError):
                await ask(stack, ssl=context)


async def test_mtls_may_be_optional(tmp_path: Path) -> None:
    """Who has none is let in, and one of another root is not."""
    folder = certified(tmp_path)
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    certify(stranger, "eve", "URI:spiffe://test/ann")

    def optional(config: dict[str, Any]) -> None:
        config["envoy"]["tls"]["client_certificate"] = "optional"

    async with run("mtls", tmp_path, optional, tls=trusting(folder)) as stack:
        assert (await ask(stack))[0] == 200
        unknown = trusting(folder)
        unknown.load_cert_chain(stranger / "eve.pem", stranger / "eve.key")
        with pytest.raises(aiohttp.ClientConnectionError):
            await ask(stack, ssl=unknown)


# Who somebody is...


SECRET = b"a secret of the issuer, of 32 characters and more"


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


JWKS = {"keys": [{"kty": "oct", "alg": "HS256", "k": b64(SECRET)}]}


def token(secret: bytes = SECRET, **changed: Any) -> str:
    claims = {
        **{"iss": "https://login.example.com", "aud": "looper", "sub": "ann"},
        "exp": time.time() + 600,
        **changed,
    }
    parts = [b64(json.dumps(part).encode()) for part in ({"alg": "HS256"}, claims)]
    signed = ".".join(parts)
    return f"{signed}.{b64(hmac.digest(secret, signed.encode(), 'sha256'))}"


def bearer(said: str) -> dict[str, str]:
    return {"authorization": f"Bearer {said}"}


async def test_jwt(tmp_path: Path) -> None:
    """A token of the issuer lets in; another one, or none, is refused before a model or the processor hears of it."""
    (tmp_path / "jwks.json").write_text(json.dumps(JWKS))
    async with run("jwt", tmp_path, headers=bearer(token())) as stack:
        assert (await ask(stack))[0] == 200
        asked = stack.simulator.count()
        for wrong, refusal in {
            token(b"another secret, which is not the issuer's"): 401,
            token(exp=1): 401,
            token(iss="https://other"): 401,
            token(aud="another"): 403,
            "no token": 401,
            "": 401,
        }.items():
            status, refused, _ = await ask(stack, headers=bearer(wrong))
            assert status == refusal
            assert set(refused["error"]) >= {"message", "type", "code"}
        assert stack.simulator.count() == asked
        assert not any("authorization" in call.headers for call in stack.simulator.calls)


async def test_api_keys(tmp_path: Path) -> None:
    """A key of the file lets in, and no model hears of it, nor of whose it is."""
    async with run("api-keys", tmp_path, headers=bearer("key-of-the-web-team")) as stack:
        assert (await ask(stack))[0] == 200
        assert (await ask(stack, headers=bearer("key-of-the-batch-jobs")))[0] == 200
        asked = stack.simulator.count()
        for wrong in ("made-up", "", "key-of-the-web-teamx"):
            assert (await ask(stack, headers=bearer(wrong)))[0] == 401
        assert stack.simulator.count() == asked
        for call in stack.simulator.calls:
            assert not {"authorization", "x-client"} & call.headers.keys()


async def test_a_key_tells_whose_run_it_is(tmp_path: Path) -> None:
    """Whatever a client says of itself in the header that the filter sets."""
    headers = {**bearer("key-of-the-batch-jobs"), "x-client": "web"}
    async with run("api-keys", tmp_path, seen_by_the_processor, headers=headers) as stack:
        _, answer, _ = await ask(stack)
        assert answer["choices"][0]["message"]["content"] == "batch it is"


def seen_by_the_processor(config: dict[str, Any]) -> None:
    """A recipe that tells who asked, as the processor has heard."""
    config["recipes"]["general"] = {
        "signals": {"batch": {"type": "header", "name": "x-client", "in": ["batch"]}},
        "decisions": [
            {
                "name": "told",
                "when": "batch",
                "on_unknown": "skip",
                "respond": {"status": 200, "message": "batch it is"},
            },
            {"name": "default", "algorithm": {"type": "single", "model": "small"}},
        ],
    }


# Pages, limits, health...


@pytest.mark.parametrize(
    ("origin", "let"),
    [
        ("https://app.example.com", True),
        ("https://a-1.preview.example.com", True),
        ("https://evil.example.com", False),
        ("https://app.example.com.evil.com", False),
        ("https://a.b.preview.example.com", False),
        ("http://app.example.com", False),
        ("null", False),
    ],
)
async def test_cors(cors: Stack, origin: str, let: bool) -> None:
    """Envoy answers the browser's question, and says in answers who may read them, and which headers."""
    asked = {
        **{"origin": origin, "access-control-request-method": "POST"},
        "access-control-request-headers": "authorization,content-type",
    }
    url = f"{cors.base_url}/chat/completions"
    before = cors.simulator.count()
    async with cors.session.options(url, headers=asked) as response:
        preflight = response.headers
        assert (response.status == 200) == let
    status, _, answer = await ask(cors, headers={"origin": origin})
    _, _, refused = await ask(cors, {"model": "no such"}, headers={"origin": origin})

    assert status == 200
    assert cors.simulator.count() == before + 1
    for headers in (preflight, answer, refused):
        assert headers.get("access-control-allow-origin") == (origin if let else None)
    if let:
        assert "POST" in preflight["access-control-allow-methods"]
        assert "authorization" in preflight["access-control-allow-headers"]
        assert preflight["access-control-max-age"] == "3600"
        assert "x-looper-run" in answer["access-control-expose-headers"]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def cors(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with run("cors", tmp_path_factory.mktemp("etc")) as stack:
        yield stack


async def test_pages_read_what_other_filters_refuse(tmp_path: Path) -> None:
    """CORS stands before an operator's own filters: an OPTIONS needs no token, and a 401 can be read."""
    (tmp_path / "jwks.json").write_text(json.dumps(JWKS))
    page = {"origin": "https://app.example.com"}

    def both(config: dict[str, Any]) -> None:
        config["envoy"]["cors"] = {"origins": [page["origin"]]}

    async with run("jwt", tmp_path, both, headers=bearer(token())) as stack:
        question = {**page, **bearer(""), "access-control-request-method": "POST"}
        async with stack.session.options(f"{stack.base_url}/models", headers=question) as response:
            assert response.status == 200
        status, _, headers = await ask(stack, headers={**page, **bearer("none")})

    assert status == 401
    assert headers["access-control-allow-origin"] == page["origin"]


async def test_rate_limit(tmp_path: Path) -> None:
    """What is above the limit is refused at once, with a word on when to come again, and costs no call."""
    async with run("rate-limit", tmp_path) as stack:
        answers = await asyncio.gather(*(ask(stack) for _ in range(60)))
        refused = [(error, headers) for status, error, headers in answers if status == 429]

        assert 60 - len(refused) == stack.simulator.count()
        assert len(refused) > 20
        for error, headers in refused:
            assert set(error["error"]) >= {"message", "type", "code"}
            assert headers["retry-after"] == "1"


async def test_health(tmp_path: Path) -> None:
    """No processor is needed for it; from `looper drain` on it says that Envoy is to be left alone."""
    async with run("health", tmp_path) as stack:
        await stack.processor.stop()
        async with stack.session.get(f"{stack.ingress}/healthz") as response:
            assert response.status == 200
        async with stack.envoy.admin.session() as session, session.post("/healthcheck/fail"):
            pass
        async with stack.session.get(f"{stack.ingress}/healthz") as response:
            assert response.status >= 500


@pytest.mark.parametrize("body", [HELLO, HARD, {"model": "no such"}])
async def test_request_id(body: dict[str, Any], tmp_path: Path) -> None:
    """Of every answer: of one model's, a team's, and an error; the client's own, if it has one."""
    async with run("request-id", tmp_path) as stack:
        _, _, headers = await ask(stack, body)
        assert len(headers["x-request-id"]) == 36
        _, _, headers = await ask(stack, body, headers={"x-request-id": "mine-1"})
        assert headers["x-request-id"] == "mine-1"


async def test_access_log(tmp_path: Path) -> None:
    """A line for each request, with what the processor said of it."""
    loggers = FOLDER / "access-log.loggers.yaml"
    log = tmp_path / "access.log"
    async with run(
        "access-log", tmp_path, replaced={loggers.name: ("/dev/stdout", str(log))}
    ) as stack:
        _, _, headers = await ask(stack, HARD)
        await ask(stack, HELLO)
        async with asyncio.timeout(15):  # Envoy writes a file when there is enough, or after 10 s
            while len(lines := log.read_text().splitlines() if log.exists() else []) < 3:
                await asyncio.sleep(0.05)
    team, routed = (json.loads(line) for line in lines[-2:])

    assert team["run"] == headers["x-looper-run"]
    assert (team["decision"], team["algorithm"], team["outcome"]) == ("panel", "fusion", "ok")
    assert team["completion_tokens"] > 0
    assert (routed["decision"], routed["model"], routed["status"]) == ("default", "small", 200)
    assert routed["upstream"] == "model:small"
    assert routed["path"] == "/v1/chat/completions"


async def test_own_routes(tmp_path: Path) -> None:
    """Another host's requests and a page of ours reach neither the processor nor what would hold them for it."""
    async with another_site() as (port, seen):
        replaced = {"own-routes.clusters.yaml": ("port_value: 8002", f"port_value: {port}")}
        async with run("own-routes", tmp_path, replaced=replaced) as stack:
            assert (await ask(stack))[0] == 200
            await stack.processor.stop()
            async with stack.session.get(f"{stack.ingress}/about") as response:
                assert await response.text() == "a team of models\n"
            headers = {"host": "wiki.example.com", "cookie": "a=b", "x-looper-model": "small"}
            url = f"{stack.ingress}/v1/chat/completions"
            async with stack.session.post(url, data=b"not ours", headers=headers) as response:
                assert await response.json() == {"usage": "of the wiki"}

    (request,) = seen
    assert request["cookie"] == "a=b"
    assert "x-looper-model" not in request


@asynccontextmanager
async def another_site(tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, list[Any]]]:
    """A server of somebody else's, and the headers of what it was asked."""
    seen: list[Any] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.copy())
        await request.read()
        return web.json_response({"usage": "of the wiki"} if tls is None else COMPLETION)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
        yield port, seen
    finally:
        await runner.cleanup()


COMPLETION = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "seen"},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}


async def test_own_cluster(tmp_path: Path) -> None:
    """A model that is in a cluster of the operator's, and one whose server lets in by certificate alone."""
    folder = certified(tmp_path)
    wanting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
    wanting.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    wanting.verify_mode = ssl.CERT_REQUIRED
    async with another_site(wanting) as (port, seen):

        def there(config: dict[str, Any]) -> None:
            config["models"][1]["url"] = f"https://localhost:{port}/openai/v1"
            config["recipes"]["other"] = {
                "decisions": [{"name": "d", "algorithm": {"type": "single", "model": "large"}}]
            }
            config["entrypoints"]["looper/large"] = "other"

        async with run("own-cluster", tmp_path, there) as stack:
            assert (await ask(stack))[0] == 200
            assert stack.simulator.calls[-1].path == "/v1/chat/completions"
            status, answer, _ = await ask(stack, {**HELLO, "model": "looper/large"})

    assert (status, answer["choices"][0]["message"]["content"]) == (200, "seen")
    assert len(seen) == 1
