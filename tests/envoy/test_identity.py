"""Whose a paused run is: said by what stands before the processor in a real Envoy, never by what a client sends."""

import asyncio
import base64
import copy
import hmac
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from looper.simulate.server import Simulator
from tests.envoy.test_reload import facts
from tests.envoy.test_tools import ASKED, MODELS, answered, calls_of, change
from tests.fakes.certificates import certify
from tests.fakes.envoy import free_port
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHECKS_TOKENS = """
local users = {["Bearer of-ann"] = "ann", ["Bearer of-bob"] = "bob"}
function envoy_on_request(request)
  local user = users[request:headers():get("authorization")]
  request:headers():remove("x-user")
  if user then
    request:headers():add("x-user", user)
    request:streamInfo():dynamicMetadata():set("test.auth", "user", user)
  end
end
"""
"""A filter that tells the next ones who asks: in a header, of which it takes the client's own, and in metadata."""

Edit = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Client:
    """Somebody who asks: how, and with what to prove it."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None

    async def ask(self, stack: Stack, body: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        url = f"{self.url}/v1/chat/completions"
        tls = self.tls or True
        async with stack.session.post(url, json=body, headers=self.headers, ssl=tls) as response:
            return response.status, json.loads(await response.read())


@dataclass(frozen=True, slots=True)
class Place:
    """A stack that tells clients apart in one way, and three clients: two it knows, and one it does not."""

    stack: Stack
    ann: Client
    bob: Client
    nobody: Client | None
    """None where a filter lets nobody pass whom it does not know."""


def ingress_of(bootstrap: dict[str, Any]) -> dict[str, Any]:
    listeners = bootstrap["static_resources"]["listeners"]
    (found,) = (each for each in listeners if each["name"] == "ingress")
    listener: dict[str, Any] = found
    return listener


def edited(edit: Edit) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "bootstrap.yaml"
        bootstrap = yaml.safe_load(path.read_text())
        edit(bootstrap)
        path.write_text(yaml.safe_dump(bootstrap))

    return change


def checking_tokens(bootstrap: dict[str, Any]) -> None:
    (chain,) = ingress_of(bootstrap)["filter_chains"]
    filters = chain["filters"][0]["typed_config"]["http_filters"]
    kind = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"
    source = {"inline_string": CHECKS_TOKENS}
    filters.insert(
        0, {"name": "auth", "typed_config": {"@type": kind, "default_source_code": source}}
    )


def checking_certificates(port: int, folder: Path) -> Edit:
    """The same listener once more, at this port, for clients that have a certificate, or none."""

    def edit(bootstrap: dict[str, Any]) -> None:
        listener = copy.deepcopy(ingress_of(bootstrap))
        listener["name"] = "ingress-tls"
        listener["address"]["socket_address"]["port_value"] = port
        kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
        files = {
            "certificate_chain": {"filename": f"{folder}/server.pem"},
            "private_key": {"filename": f"{folder}/server.key"},
        }
        trusted = {"trusted_ca": {"filename": f"{folder}/ca.pem"}}
        context = {"tls_certificates": [files], "validation_context": trusted}
        listener["filter_chains"][0]["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {"@type": kind, "common_tls_context": context},
        }
        bootstrap["static_resources"]["listeners"].append(listener)

    return edit


HTTP = "type.googleapis.com/envoy.extensions.filters.http"
SECRET = b"a secret of the issuer, of 32 characters and more"


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(subject: str, secret: bytes = SECRET) -> str:
    """A JWT that says who somebody is, and where: claims inside claims."""
    claims = {"iss": "test", "sub": subject, "user": {"id": subject}}
    parts = [b64(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
    signed = ".".join(parts)
    return f"{signed}.{b64(hmac.digest(secret, signed.encode(), 'sha256'))}"


def with_filter(name: str, port: int | None = None, **config: Any) -> Edit:
    """The filter before ours; with a port, on a listener of its own, so that whoever waits for Envoy is let in."""

    def edit(bootstrap: dict[str, Any]) -> None:
        listener = ingress_of(bootstrap)
        if port is not None:
            listener = copy.deepcopy(listener) | {"name": f"ingress-{name}"}
            listener["address"]["socket_address"]["port_value"] = port
            bootstrap["static_resources"]["listeners"].append(listener)
        (chain,) = listener["filter_chains"]
        filters = chain["filters"][0]["typed_config"]["http_filters"]
        typed = {"@type": KINDS[name], **config}
        filters.insert(0, {"name": f"envoy.filters.http.{name}", "typed_config": typed})

    return edit


KINDS = {
    "jwt_authn": f"{HTTP}.jwt_authn.v3.JwtAuthentication",
    "api_key_auth": f"{HTTP}.api_key_auth.v3.ApiKeyAuth",
}
CHECKS_JWT = with_filter(
    "jwt_authn",
    providers={
        "test": {
            "issuer": "test",
            "local_jwks": {
                "inline_string": json.dumps(
                    {"keys": [{"kty": "oct", "alg": "HS256", "k": b64(SECRET)}]}
                )
            },
            "payload_in_metadata": "claims",
        }
    },
    rules=[
        {
            "match": {"prefix": "/"},
            "requires": {
                "requires_any": {
                    "requirements": [{"provider_name": "test"}, {"allow_missing_or_failed": {}}]
                }
            },
        }
    ],
)


def checking_keys(port: int) -> Edit:
    return with_filter(
        "api_key_auth",
        port,
        credentials=[{"key": f"key-of-{name}", "client": name} for name in ("ann", "bob")],
        key_sources=[{"header": "authorization"}],
        forwarding={"header": "x-user", "hide_credentials": True},
    )


def state(**identity: Any) -> dict[str, Any]:
    return change(state={"type": "memory", "identity": identity})


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def by_header() -> AsyncIterator[Place]:
    edit = edited(checking_tokens)
    async with run_stack(Simulator(MODELS), state(header="x-user"), edit=edit) as stack:
        yield with_tokens(stack)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def by_metadata() -> AsyncIterator[Place]:
    edit = edited(checking_tokens)
    config = state(metadata="test.auth", path="user")
    async with run_stack(Simulator(MODELS), config, edit=edit) as stack:
        yield with_tokens(stack)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def by_claim() -> AsyncIterator[Place]:
    async with telling_by("claims.sub") as place:
        yield place


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def by_claim_inside() -> AsyncIterator[Place]:
    async with telling_by(["claims", "user", "id"]) as place:
        yield place


@asynccontextmanager
async def telling_by(path: str | list[str]) -> AsyncIterator[Place]:
    """As Envoy's own filter for JWTs tells it: the claims are below the member that it is told to put them in."""
    config = state(metadata="envoy.filters.http.jwt_authn", path=path)
    async with run_stack(Simulator(MODELS), config, edit=edited(CHECKS_JWT)) as stack:
        forged = token("ann", b"another secret, which is not the issuer's")
        ann, bob, nobody = (
            Client(stack.ingress, {"authorization": f"Bearer {each}"})
            for each in (token("ann"), token("bob"), forged)
        )
        yield Place(stack, ann, bob, nobody)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def by_key() -> AsyncIterator[Place]:
    """As Envoy's own filter for API keys tells it; it lets nobody pass whom it does not know."""
    port = free_port()
    config, edit = state(header="x-user"), edited(checking_keys(port))
    async with run_stack(Simulator(MODELS), config, edit=edit) as stack:
        ann, bob = (
            Client(
                f"http://127.0.0.1:{port}",
                {"authorization": f"Bearer key-of-{name}", "x-user": "ann"},
            )
            for name in ("ann", "bob")
        )
        yield Place(stack, ann, bob, None)


def with_tokens(stack: Stack) -> Place:
    """Each but Ann says that it is her, and only Ann can show it."""
    says = {"x-user": "ann"}
    return Place(
        stack,
        Client(stack.ingress, {"authorization": "Bearer of-ann"}),
        Client(stack.ingress, {"authorization": "Bearer of-bob", **says}),
        Client(stack.ingress, {"authorization": "Bearer made-up", **says}),
    )


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def by_attribute(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    folder = tmp_path_factory.mktemp("certificates")
    certify(folder, "server", "DNS:localhost")
    for name in ("ann", "bob"):
        certify(folder, name, f"URI:spiffe://test/{name}")
    port = free_port()
    edit = edited(checking_certificates(port, folder))
    config = state(attribute="connection.uri_san_peer_certificate")
    url = f"https://localhost:{port}"
    async with run_stack(Simulator(MODELS), config, edit=edit) as stack:
        ann, bob = (Client(url, tls=trusting(folder, name)) for name in ("ann", "bob"))
        yield Place(stack, ann, bob, Client(url, tls=trusting(folder)))


def trusting(folder: Path, name: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    if name is not None:
        context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return context


OPEN = ("by_header", "by_metadata", "by_attribute", "by_claim", "by_claim_inside")
"""Where a client that is not known comes as far as the processor."""
PLACES = (*OPEN, "by_key")


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(request.param)
    found.stack.simulator.reset()
    return found


@pytest.mark.parametrize("stream", [False, True])
async def test_only_its_owner_goes_on_with_a_run(place: Place, stream: bool) -> None:
    """Others have the ids, and get 409 whatever they say; no model is asked, and then she goes on."""
    stack = place.stack
    status, first = await place.ann.ask(stack, ASKED)
    assert (status, len(calls_of(first))) == (200, 2)
    turn = answered(ASKED, first)
    status, refused = await place.bob.ask(stack, {**turn, "stream": stream})
    assert (status, refused["error"]["code"]) == (409, "state_mismatch")
    if place.nobody is not None:
        status, refused = await place.nobody.ask(stack, {**turn, "stream": stream})
        assert (status, refused["error"]["code"]) == (401, "identity_missing")
    assert stack.simulator.count() == 2

    status, second = await place.ann.ask(stack, turn)
    assert (status, len(calls_of(second))) == (200, 1)
    status, third = await place.ann.ask(stack, answered(turn, second))
    assert third["choices"][0]["message"]["content"] == "The tools say: result 0"


@pytest.mark.parametrize("place", OPEN, indirect=True)
async def test_nobody_is_not_the_same_as_nobody(place: Place) -> None:
    """What may have to wait for a client is not begun for one that is not known: no model is asked."""
    assert place.nobody is not None
    status, refused = await place.nobody.ask(place.stack, ASKED)

    assert (status, refused["error"]["code"]) == (401, "identity_missing")
    assert place.stack.simulator.count() == 0
    assert (await facts(place.stack))["looper_identity_missing_total"] >= 1
    async with asyncio.timeout(10):  # the exchange is logged when Envoy has closed it
        while '"code":"identity_missing"' not in place.stack.processor.log.read_text():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("place", OPEN, indirect=True)
async def test_what_cannot_wait_needs_no_name(place: Place) -> None:
    """Without tools of the client's a run comes to its end by itself, whoever asks."""
    assert place.nobody is not None
    status, _ = await place.nobody.ask(
        place.stack, {name: said for name, said in ASKED.items() if name != "tools"}
    )

    assert status == 200


@pytest.mark.parametrize("path", ["claims", "claims.user", "claims.absent", "sub"])
async def test_an_object_is_nobody(path: str) -> None:
    """Whole claims, or a path that leads nowhere, tell nobody from anybody."""
    config = state(metadata="envoy.filters.http.jwt_authn", path=path)
    async with run_stack(Simulator(MODELS), config, edit=edited(CHECKS_JWT)) as stack:
        ann = Client(stack.ingress, {"authorization": f"Bearer {token('ann')}"})
        status, refused = await ann.ask(stack, ASKED)

    assert (status, refused["error"]["code"]) == (401, "identity_missing")


async def test_who_asks_stays_inside(place: Place) -> None:
    """Neither a backend nor the log hears of whose a run is."""
    await place.ann.ask(place.stack, ASKED)
    sent = [(call.headers, call.body) for call in place.stack.simulator.calls]
    log = place.stack.processor.log.read_text()

    assert sent
    for said in (*map(str, sent), log):
        assert "of-ann" not in said
        assert "x-user" not in said
        assert "spiffe" not in said
