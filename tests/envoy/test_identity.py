"""Whose a paused run is: said by what stands before the processor in a real Envoy, never by what a client sends."""

import copy
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from looper.simulate.server import Simulator
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
    nobody: Client


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


def state(**identity: str) -> dict[str, Any]:
    return change(state={"type": "memory", "identity": identity})


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def by_header() -> AsyncIterator[Place]:
    edit = edited(checking_tokens)
    async with run_stack(Simulator(MODELS), state(header="x-user"), edit=edit) as stack:
        yield with_tokens(stack)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def by_metadata() -> AsyncIterator[Place]:
    edit = edited(checking_tokens)
    config = state(metadata="test.auth:user")
    async with run_stack(Simulator(MODELS), config, edit=edit) as stack:
        yield with_tokens(stack)


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


@pytest.fixture(params=["by_header", "by_metadata", "by_attribute"])
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
    for other in (place.bob, place.nobody):
        status, refused = await other.ask(stack, {**turn, "stream": stream})
        assert (status, refused["error"]["code"]) == (409, "state_mismatch")
    assert stack.simulator.count() == 2

    status, second = await place.ann.ask(stack, turn)
    assert (status, len(calls_of(second))) == (200, 1)
    status, third = await place.ann.ask(stack, answered(turn, second))
    assert third["choices"][0]["message"]["content"] == "The tools say: result 0"


async def test_what_nobody_owns_is_nobodys_but_the_unknowns(place: Place) -> None:
    """A run of a client that was not known goes on for such clients alone."""
    stack = place.stack
    _, first = await place.nobody.ask(stack, ASKED)
    turn = answered(ASKED, first)
    refused, _ = await place.ann.ask(stack, turn)
    assert (refused, stack.simulator.count()) == (409, 2)
    status, _ = await place.nobody.ask(stack, turn)

    assert status == 200


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
