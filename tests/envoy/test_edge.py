"""What backends, proxies and SDKs of all ages expect of the way through Envoy."""

import asyncio
import gzip
import json
import subprocess
import zlib
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import pytest
import pytest_asyncio
import yaml

from looper.simulate.faults import Hang, Status
from tests.envoy.conftest import quick_models
from tests.envoy.requests import TEAM, body, chat
from tests.fakes.needs import command
from tests.fakes.stack import DEMO, Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

MIB = 1 << 20
LIMIT = 32 * MIB
PRIVATE = {
    "forwarded": "for=1.2.3.4",
    "x-real-ip": "1.2.3.4",
    "true-client-ip": "1.2.3.4",
    "cf-connecting-ip": "1.2.3.4",
    "x-goog-api-key": "k",
    "anthropic-api-key": "k",
    "x-auth-token": "k",
    "x-amz-security-token": "k",
    "x-forwarded-access-token": "k",
    "cf-access-token": "k",
    "x-auth-request-email": "a@b",
    "x-auth-request-user": "a",
    "x-corp": "secret",
    "x-corp-more": "secret",
    "x-envoy-upstream-rq-per-try-timeout-ms": "1",
    "x-envoy-upstream-rq-timeout-ms": "1",
}
KEPT = {"x-goog-api-key": "k", "x-auth-request-email": "a@b"}


def single(model: str, **members: Any) -> dict[str, Any]:
    return {
        "decisions": [{"name": "one", "algorithm": {"type": "single", "model": model}, **members}]
    }


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["full_duplex", "buffered"])
async def shared(request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    demo = yaml.safe_load(DEMO.read_text())
    models = [dict(model) for model in demo["models"]]
    next(model for model in models if model["name"] == "other")["timeout"] = "400ms"
    change = {
        "models": models,
        "recipes": {
            **demo["recipes"],
            "small": single("small"),
            "other": single("other"),
            "hurried": single("small", budget={"deadline": "300ms"}),
        },
        "entrypoints": {
            **demo["entrypoints"],
            "looper/small": "small",
            "looper/other": "other",
            "looper/hurried": "hurried",
        },
        "envoy": {
            "body_mode": request.param,
            "preserve_external_request_id": True,
            "drop_headers": ["x-corp*"],
            "keep_headers": {"other": [*KEPT]},
        },
    }
    async with run_stack(quick_models(), change) as stack:
        yield stack
        series = await stack.series()
        rejected = "envoy_http_ext_proc_looper_rejected_header_mutations"
        assert not sum(value for name, value in series.items() if name.startswith(rejected))


@pytest.fixture
def edge(shared: Stack) -> Stack:
    shared.simulator.reset()
    return shared


async def post(
    stack: Stack, data: bytes, path: str = "/chat/completions", **headers: str
) -> tuple[int, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with stack.session.post(
        f"{stack.base_url}{path}", data=BytesIO(data), headers=named
    ) as response:
        return response.status, await response.json()


async def raw(stack: Stack, request: bytes) -> tuple[bytes, bytes]:
    """Head and body of what is answered until the connection ends."""
    host, _, port = stack.ingress.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, rest = answer.partition(b"\r\n\r\n")
    return head, rest


class TestFraming:
    @pytest.mark.parametrize("size", [1, 100_000, 4 * MIB])
    @pytest.mark.parametrize("chunked", [False, True])
    async def test_a_backend_is_told_the_length(
        self, edge: Stack, size: int, chunked: bool
    ) -> None:
        """Backends that take no chunks are served: a routed request always says how long it is."""
        sent = body("x" * size, model="looper/small")

        async def pieces() -> AsyncIterator[bytes]:
            yield sent[:50]
            yield sent[50:]

        async with edge.session.post(
            f"{edge.base_url}/chat/completions", data=pieces() if chunked else BytesIO(sent)
        ) as response:
            assert response.status == 200

        (call,) = edge.simulator.calls
        assert call.body == sent.replace(b"looper/small", b"small", 1)
        assert call.headers["content-length"] == str(len(call.body))
        assert "transfer-encoding" not in call.headers

    async def test_a_request_with_trailers_says_its_length_too(self, edge: Stack) -> None:
        sent = body(model="looper/small")
        head, _ = await raw(
            edge,
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
            b"trailer: x-end\r\nconnection: close\r\n\r\n"
            + b"%x\r\n%b\r\n0\r\nx-end: 1\r\n\r\n"
            % (len(sent), sent),
        )
        assert head.startswith(b"HTTP/1.1 200")
        (call,) = edge.simulator.calls
        assert call.headers["content-length"] == str(len(call.body))

    @pytest.mark.parametrize("host", [b"host: x\r\n", b""], ids=["host", "no-host"])
    @pytest.mark.parametrize("text", ["hi", TEAM], ids=["routed", "team"])
    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
    async def test_http_1_0_is_served(
        self, edge: Stack, host: bytes, text: str, stream: bool
    ) -> None:
        """As nginx speaks it unless told otherwise: no chunks come back, and the connection ends."""
        sent = body(text, stream=stream)
        head, answer = await raw(
            edge,
            b"POST /v1/chat/completions HTTP/1.0\r\n%bcontent-length: %d\r\n\r\n%b"
            % (host, len(sent), sent),
        )
        assert head.startswith(b"HTTP/1.0 200")
        assert b"transfer-encoding" not in head.lower()
        if stream:
            assert answer.rstrip().endswith(b"data: [DONE]")
        else:
            assert json.loads(answer)["choices"]


def raw_zstd(data: bytes) -> bytes:
    """A zstd frame of blocks that are not compressed."""
    blocks = [data[at : at + 100_000] for at in range(0, len(data), 100_000)]
    headers = [
        (len(block) << 3 | (number == len(blocks) - 1)).to_bytes(3, "little")
        for number, block in enumerate(blocks)
    ]
    frame = b"\x28\xb5\x2f\xfd\xa0" + len(data).to_bytes(4, "little")
    return frame + b"".join(a + b for a, b in zip(headers, blocks, strict=True))


def zstd_bomb(size: int) -> bytes:
    """A zstd frame of spaces, 128 KiB from four bytes."""
    count = size // (128 << 10)
    blocks = [
        ((128 << 10) << 3 | 1 << 1 | (number == count - 1)).to_bytes(3, "little") + b" "
        for number in range(count)
    ]
    frame = b"\x28\xb5\x2f\xfd\xa0" + (count * (128 << 10)).to_bytes(4, "little")
    return frame + b"".join(blocks)


def raw_brotli(data: bytes) -> bytes:
    """A brotli stream of pieces that are not compressed; window of 16 bits."""
    bits, size = "0", 1  # WBITS
    out = b""
    for at in range(0, len(data), 60_000):
        piece = data[at : at + 60_000]
        # ISLAST 0, MNIBBLES 4, MLEN - 1, ISUNCOMPRESSED 1; least significant bit first.
        bits += "0" + "00" + format(len(piece) - 1, "016b")[::-1] + "1"
        bits += "0" * (-len(bits) % 8)
        out += int(bits[::-1], 2).to_bytes(len(bits) // 8, "little") + piece
        bits, size = "", 0
    assert size == 0
    return out + b"\x03"


def gzip_bomb(size: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    blank = b" " * MIB
    return b"".join([*(packer.compress(blank) for _ in range(size // MIB)), packer.flush()])


PACKED = {"gzip": gzip.compress, "zstd": raw_zstd, "br": raw_brotli}


class TestCompression:
    @pytest.mark.parametrize("encoding", PACKED)
    @pytest.mark.parametrize("size", [1, 3 * MIB])
    async def test_what_is_ours_to_read_is_decompressed(
        self, edge: Stack, encoding: str, size: int
    ) -> None:
        sent = body("y" * size, model="looper/small")
        status, answer = await post(edge, PACKED[encoding](sent), content_encoding=encoding)

        assert (status, answer.get("error")) == (200, None)
        (call,) = edge.simulator.calls
        assert call.body == sent.replace(b"looper/small", b"small", 1)
        assert call.headers["content-length"] == str(len(call.body))
        assert not [name for name in call.headers if "encod" in name or "decomp" in name]

    async def test_what_zstd_packs_is_read(self, edge: Stack) -> None:
        zstd = command("zstd", "zstd")
        sent = body(" ".join(str(number * number) for number in range(50_000)))
        packed = await asyncio.to_thread(
            subprocess.run, [zstd, "-q", "-c"], input=sent, capture_output=True, check=True
        )
        status, _ = await post(edge, packed.stdout, content_encoding="zstd")
        assert (status, edge.simulator.count()) == (200, 1)

    @pytest.mark.parametrize("size", [40 * MIB, 1 << 30])
    async def test_a_bomb_is_too_large(self, edge: Stack, size: int) -> None:
        status, answer = await post(edge, gzip_bomb(size), content_encoding="gzip")
        assert (status, answer["error"]["code"]) == (413, "body_too_large")
        assert resident(edge.envoy.pid) < 600

    async def test_a_bomb_of_zstd_is_too_large(self, edge: Stack) -> None:
        """Envoy cuts what grows more than a hundredfold. In body mode BUFFERED, nothing tells it from broken JSON."""
        status, answer = await post(edge, zstd_bomb(64 * MIB), content_encoding="zstd")
        config = yaml.safe_load((edge.folder / "looper.yaml").read_text())
        if config["envoy"]["body_mode"] == "full_duplex":
            assert (status, answer["error"]["code"]) == (413, "body_too_large")
        else:
            assert (status, answer["error"]["code"]) == (400, "invalid_json")

    @pytest.mark.parametrize("encoding", ["gzip", "zstd", "br", "deflate", "x"])
    async def test_what_is_no_compressed_body_is_refused(self, edge: Stack, encoding: str) -> None:
        status, answer = await post(edge, b"hello", content_encoding=encoding)
        assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
        assert edge.simulator.count() == 0


def resident(pid: int) -> int:
    """The most memory that a process has had, in MiB."""
    with open(f"/proc/{pid}/status", encoding="ascii") as lines:
        (line,) = (line for line in lines if line.startswith("VmHWM"))
    return int(line.split()[1]) >> 10


class TestRefusals:
    @pytest.mark.parametrize("status", [401, 403])
    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_credential_of_ours_is_not_the_clients_to_mend(
        self, edge: Stack, status: int, stream: bool
    ) -> None:
        edge.simulator.fault("small", Status(status=status))
        async with edge.session.post(
            f"{edge.base_url}/chat/completions", json=chat(model="looper/small", stream=stream)
        ) as response:
            error = (await response.json())["error"]

        assert (response.status, error["code"]) == (502, "upstream_misconfigured")
        assert error["type"] == "upstream_error"
        assert response.headers["x-should-retry"] == "false"
        assert response.headers["x-looper-decision"] == "one"

    @pytest.mark.parametrize("status", [400, 404, 422, 500])
    async def test_other_errors_pass(self, edge: Stack, status: int) -> None:
        edge.simulator.fault("small", Status(status=status, message="as it came"))
        assert await post(edge, body(model="looper/small")) == (
            status,
            {"error": {**(await said(edge)), "message": "as it came"}},
        )


async def said(stack: Stack) -> dict[str, Any]:
    """What the simulated backend says of an error."""
    _, answer = await post(stack, body(model="looper/small"))
    error: dict[str, Any] = answer["error"]
    return error


class TestHeaders:
    @pytest.mark.parametrize(("model", "kept"), [("small", {}), ("other", KEPT)])
    async def test_private_headers_reach_only_models_that_are_to_have_them(
        self, edge: Stack, model: str, kept: dict[str, str]
    ) -> None:
        async with edge.session.post(
            f"{edge.base_url}/chat/completions",
            json=chat(model=f"looper/{model}"),
            headers={**PRIVATE, "x-mine": "1"},
        ) as response:
            assert response.status == 200
        (call,) = edge.simulator.calls
        arrived = {name: value for name, value in call.headers.items() if name in PRIVATE}
        assert arrived == kept
        assert call.headers["x-mine"] == "1"
        assert not [name for name in call.headers if name.startswith(("x-looper-", "x-envoy-"))]


class TestDeadlines:
    @pytest.mark.parametrize("model", ["other", "hurried"])
    async def test_the_wait_for_an_answer_is_bounded(self, edge: Stack, model: str) -> None:
        """By the model's `timeout` or the decision's deadline, where one is written down."""
        edge.simulator.fault("small", Hang())
        edge.simulator.fault("other", Hang())
        status, answer = await post(edge, body(model=f"looper/{model}"))
        assert (status, answer["error"]["code"]) == (504, "deadline_exceeded")

    async def test_a_running_stream_is_not_cut(self, edge: Stack) -> None:
        """What has begun in time may take longer than the deadline."""
        edge.simulator.fault("small", Hang(after_chunks=1))
        async with edge.session.post(
            f"{edge.base_url}/chat/completions", json=chat(model="looper/hurried", stream=True)
        ) as response:
            assert response.status == 200
            assert await response.content.readline()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await response.content.read()


class TestModels:
    @pytest.mark.parametrize("name", ["looper/auto", "looper%2Fauto", "looper%2fauto"])
    async def test_one_model_can_be_asked_for(self, edge: Stack, name: str) -> None:
        head, answer = await raw(
            edge,
            b"GET /v1/models/%b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % name.encode(),
        )
        assert head.startswith(b"HTTP/1.1 200")
        page = json.loads(answer)
        assert (page["id"], page["object"]) == ("looper/auto", "model")

    @pytest.mark.parametrize("name", ["nobody", "small", "a%2F..%2Fb", "%2e%2e%2fadmin"])
    async def test_other_names_are_not_found(self, edge: Stack, name: str) -> None:
        head, answer = await raw(
            edge,
            b"GET /v1/models/%b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % name.encode(),
        )
        assert head.startswith(b"HTTP/1.1 404")
        assert json.loads(answer)["error"]["code"] == "model_not_found"

    @pytest.mark.parametrize(
        "path",
        [
            "/v1/chat%2Fcompletions",
            "/v1/chat/completions%2F..",
            "/v1%5Cmodels",
            "/v1/files/..%2fx",
            "/%2F",
        ],
    )
    @pytest.mark.parametrize("method", ["GET", "POST"])
    async def test_an_escaped_slash_is_refused_elsewhere(
        self, edge: Stack, path: str, method: str
    ) -> None:
        head, answer = await raw(
            edge,
            f"{method} {path} HTTP/1.1\r\nhost: x\r\nx-looper-model: small\r\n"
            "content-length: 0\r\nconnection: close\r\n\r\n".encode(),
        )
        assert head.startswith(b"HTTP/1.1 400")
        assert json.loads(answer)["error"]["code"] == "invalid_request"
        assert edge.simulator.count() == 0

    @pytest.mark.parametrize("path", ["/messages/count_tokens", "/responses/input_tokens"])
    async def test_paths_below_ours_name_models_as_their_parents_do(
        self, edge: Stack, path: str
    ) -> None:
        """The simulated backend knows no such path; what matters is that it was asked, by its own name."""
        await post(edge, b'{"model": "looper/small", "messages": []}', path)
        status, answer = await post(edge, b'{"model": "looper/auto", "messages": []}', path)
        assert (status, answer["error"]["code"]) == (400, "chat_only")
        status, answer = await post(edge, b"no json", path)
        assert (status, answer["error"]["code"]) == (404, "unknown_path")


async def test_headers_with_underscores_reach_nobody(edge: Stack) -> None:
    """Many a server takes `x_looper_model` for the header that only we may set."""
    named = {
        "x_looper_model": "other",
        "X_Looper_Role": "judge",
        "authorization_": "k",
        "x-ok": "1",
    }
    async with edge.session.post(
        f"{edge.base_url}/chat/completions", data=body(model="looper/small"), headers=named
    ) as response:
        assert response.status == 200
    (call,) = edge.simulator.calls
    assert call.headers["x-ok"] == "1"
    assert not [name for name in call.headers if "_" in name]
