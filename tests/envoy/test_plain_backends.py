"""Backends that take no chunked bodies, and paths that simulated ones do not know: what arrives, byte for byte."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import pytest
import pytest_asyncio
import yaml

from tests.envoy.conftest import quick_models
from tests.envoy.requests import body
from tests.fakes.stack import DEMO, Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

MIB = 1 << 20
ANSWER = {"choices": [{"message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]}
WRITTEN = {"x-auth-token": "t", "x-auth-request-a": "a", "x-mine": "1"}


def plainly(model: str) -> dict[str, Any]:
    """One model, and headers of which Envoy drops all but the last."""
    algorithm = {"type": "single", "model": model}
    return {"decisions": [{"name": "plain", "algorithm": algorithm, "headers": {"set": WRITTEN}}]}


@dataclass(frozen=True)
class Arrived:
    """A request as it stood on the wire."""

    line: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Backend:
    """Reads a body by its `content-length`. Unless it is told one, it refuses chunks, waits in vain, or takes them."""

    unless_told: Literal["411", "hang", "take"] = "411"
    arrived: list[Arrived] = field(default_factory=list)
    port: int = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *lines = head.rstrip().split("\r\n")
            fields = (each.partition(":") for each in lines)
            headers = {name.lower(): value.strip() for name, _, value in fields}
            sent = await self._read(reader, headers)
            if sent is None:
                writer.write(b"HTTP/1.1 411 Length Required\r\nconnection: close\r\n\r\n")
            else:
                self.arrived.append(Arrived(line, headers, sent))
                answer = json.dumps(ANSWER).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
                    b"content-length: %d\r\n\r\n%b" % (len(answer), answer)
                )
            await writer.drain()
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes | None:
        if "content-length" in headers:
            return await reader.readexactly(int(headers["content-length"]))
        if self.unless_told == "hang":
            await reader.read()
        if self.unless_told != "take":
            return None
        chunks: list[bytes] = []
        while size := int(await reader.readline(), 16):
            chunks.append(await reader.readexactly(size))
            await reader.readline()
        return b"".join(chunks)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def standing() -> AsyncIterator[tuple[Stack, Backend]]:
    """All models are at one such backend, and an operator's own route leads there, too."""
    backend = Backend()
    server = await asyncio.start_server(backend, "127.0.0.1", 0)
    backend.port = server.sockets[0].getsockname()[1]
    demo = yaml.safe_load(DEMO.read_text())
    change = {
        "recipes": {**demo["recipes"], "small": plainly("small"), "other": plainly("other")},
        "entrypoints": {
            **demo["entrypoints"],
            "looper/small": "small",
            "looper/other": "other",
        },
        "envoy": {"keep_headers": {"other": ["x-auth-token", "x-auth-request-a"]}},
    }

    def lead_there(folder: Path) -> None:
        """Where the simulated models would be, and from a path that is not ours."""
        url = yaml.safe_load((folder.parent / "looper.yaml").read_text())["models"][0]["url"]
        simulated = url.removesuffix("/v1").rpartition(":")[2]
        clusters = folder / "cds.yaml"
        before = clusters.read_text()
        after = before.replace(f"port_value: {simulated}", f"port_value: {backend.port}")
        assert before != after
        clusters.write_text(after)
        table = folder / "rds-ingress.yaml"
        routes = yaml.safe_load(table.read_text())
        (host,) = routes["resources"][0]["virtual_hosts"]
        mine = {"match": {"prefix": "/mine"}, "route": {"cluster": "model:small"}}
        host["routes"].insert(0, mine)
        table.write_text(yaml.safe_dump(routes))

    async with server, run_stack(quick_models(), change, edit=lead_there) as stack:
        yield stack, backend


@pytest.fixture
def plain(standing: tuple[Stack, Backend]) -> tuple[Stack, Backend]:
    _, backend = standing
    backend.arrived.clear()
    backend.unless_told = "411"
    return standing


async def in_chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data[:50]
    yield data[50:]


@pytest.mark.parametrize("unless_told", ["411", "hang"])
@pytest.mark.parametrize("size", [1_000, 4 * MIB])
@pytest.mark.parametrize("chunked", [False, True])
async def test_who_takes_no_chunks_is_served(
    plain: tuple[Stack, Backend], unless_told: Any, size: int, chunked: bool
) -> None:
    """In the default body mode, however the client sends its request."""
    stack, backend = plain
    backend.unless_told = unless_told
    sent = body("x" * size, model="looper/small")
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", data=in_chunks(sent) if chunked else BytesIO(sent)
    ) as response:
        assert response.status == 200
        assert (await response.json())["choices"] == ANSWER["choices"]
    (arrived,) = backend.arrived
    assert arrived.body == sent.replace(b"looper/small", b"small", 1)
    assert "transfer-encoding" not in arrived.headers


async def test_the_backend_refuses_chunks(plain: tuple[Stack, Backend]) -> None:
    """Or the tests above would show nothing."""
    stack, backend = plain
    url = f"http://127.0.0.1:{backend.port}/v1/chat/completions"
    async with stack.session.post(url, data=in_chunks(body())) as response:
        assert response.status == 411
    assert not backend.arrived


@pytest.mark.parametrize(
    "path", ["/messages/count_tokens", "/responses/input_tokens", "/messages/count_tokens?beta=1"]
)
async def test_paths_below_ours_lead_to_the_model_of_their_parents(
    plain: tuple[Stack, Backend], path: str
) -> None:
    """The backend is asked there, by the name that it knows."""
    stack, backend = plain
    sent = b'{"model": "looper/small", "messages": []}'
    async with stack.session.post(f"{stack.base_url}{path}", data=BytesIO(sent)) as response:
        assert response.status == 200
        assert await response.json() == ANSWER
    (arrived,) = backend.arrived
    assert arrived.line == f"POST /v1{path} HTTP/1.1"
    assert arrived.body == sent.replace(b"looper/small", b"small")


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        pytest.param("gzip", gzip.compress(b"y" * 100_000), id="gzip"),
        pytest.param("deflate", zlib.compress(b"y" * 100_000), id="deflate"),
        pytest.param("br", b"no brotli at all", id="br"),
        pytest.param("zstd", b"nor zstd", id="zstd"),
        pytest.param(None, b'{"model": "looper/small"}', id="plain"),
    ],
)
async def test_what_is_not_ours_to_read_arrives_as_it_was_sent(
    plain: tuple[Stack, Backend], encoding: str | None, packed: bytes
) -> None:
    """Compressed, and whether or not it is what it says that it is."""
    stack, backend = plain
    backend.unless_told = "take"
    headers = {} if encoding is None else {"content-encoding": encoding}
    async with stack.session.post(
        f"{stack.ingress}/mine/of/it", data=BytesIO(packed), headers=headers
    ) as response:
        assert response.status == 200
    (arrived,) = backend.arrived
    assert (arrived.body, arrived.headers.get("content-encoding")) == (packed, encoding)


@pytest.mark.parametrize(("model", "names"), [("small", {"x-mine"}), ("other", set(WRITTEN))])
async def test_what_is_dropped_is_so_whoever_wrote_it(
    plain: tuple[Stack, Backend], model: str, names: set[str]
) -> None:
    """A decision's own headers too, unless the model is to have them, as `looper check` says."""
    stack, backend = plain
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", data=BytesIO(body(model=f"looper/{model}"))
    ) as response:
        assert response.status == 200
    (arrived,) = backend.arrived
    assert {name for name in arrived.headers if name in WRITTEN} == names
