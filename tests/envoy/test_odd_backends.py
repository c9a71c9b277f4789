"""What a backend says on a routed request that no client could read, or that is meant for Envoy."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest
import pytest_asyncio
import yaml

from tests.envoy.conftest import quick_models
from tests.envoy.requests import chat
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


@dataclass(slots=True)
class Backend:
    """Says the same to everybody, whatever it was asked."""

    port: int = 0
    says: bytes = b""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length or 0))
            writer.write(self.says)
            await writer.drain()
        finally:
            writer.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["fast", "metered"])
async def standing(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Stack, Backend]]:
    backend = Backend()
    server = await asyncio.start_server(backend, "127.0.0.1", 0)
    backend.port = server.sockets[0].getsockname()[1]

    def lead_there(folder: Path) -> None:
        clusters = yaml.safe_load((folder / "cds.yaml").read_text())
        for cluster in clusters["resources"]:
            for each in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]:
                each["endpoint"]["address"]["socket_address"]["port_value"] = backend.port
        (folder / "cds.yaml").write_text(yaml.safe_dump(clusters))

    plainly = {"decisions": [{"name": "d", "algorithm": {"type": "single", "model": "small"}}]}
    change = {
        "recipes": {"r": plainly},
        "entrypoints": {"looper/auto": "r"},
        "envoy": {"profile": request.param},
    }
    async with server, run_stack(quick_models(), change, edit=lead_there) as stack:
        yield stack, backend


def response(
    status: int, body: bytes = b"{}", headers: Mapping[str, str] = MappingProxyType({})
) -> bytes:
    said = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    lines = [f"HTTP/1.1 {status} Odd", *(f"{name}: {value}" for name, value in said.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


ODD = [
    pytest.param(response(101, b"", {"connection": "upgrade", "upgrade": "websocket"}), id="101"),
    pytest.param(response(304, b""), id="304"),
    pytest.param(response(304), id="304-with-a-body"),
    pytest.param(response(204), id="204-with-a-body"),
    pytest.param(response(600), id="600"),
    pytest.param(response(999), id="999"),
    pytest.param(response(0), id="0"),
    pytest.param(response(99), id="99"),
    pytest.param(response(1000), id="1000"),
    pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + response(777), id="100-then-777"),
    pytest.param(b"", id="nothing"),
    pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n{}", id="two"),
    pytest.param(b"hello\r\n\r\n", id="no-http"),
]


@pytest.mark.parametrize("says", ODD)
async def test_is_a_bad_gateway(standing: tuple[Stack, Backend], says: bytes) -> None:
    """In OpenAI's shape."""
    stack, backend = standing
    backend.says = says
    url = f"{stack.base_url}/chat/completions"
    async with stack.session.post(url, json=chat("hi")) as answer:
        assert answer.status == 502
        assert (await answer.json())["error"]["code"] == "upstream_failed"


@pytest.mark.parametrize("status", [200, 201, 204, 400, 404, 418, 422, 429, 500, 503, 529, 599])
async def test_others_pass(standing: tuple[Stack, Backend], status: int) -> None:
    stack, backend = standing
    backend.says = response(status, b"" if status == 204 else b'{"x": 1}')
    async with stack.session.post(f"{stack.base_url}/chat/completions", json=chat("hi")) as answer:
        assert answer.status == status
        assert await answer.read() == (b"" if status == 204 else b'{"x": 1}')


async def test_what_is_meant_for_envoy_ends_there(standing: tuple[Stack, Backend]) -> None:
    stack, backend = standing
    told = {
        "x-envoy-upstream-service-time": "3",
        "x-envoy-overloaded": "true",
        "X-Envoy-Anything": "1",
        "x-looper-outcome": "ok",
        "x-mine": "kept",
    }
    backend.says = response(200, headers=told)
    async with stack.session.post(f"{stack.base_url}/chat/completions", json=chat("hi")) as answer:
        assert answer.status == 200
        names = {name.lower() for name in answer.headers}
        assert not [name for name in names if name.startswith("x-envoy-")]
        assert "x-looper-outcome" not in names
        assert answer.headers["x-mine"] == "kept"
