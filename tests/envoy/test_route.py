"""Requests that one model answers, through a real Envoy."""

import asyncio
import json
from io import BytesIO
from typing import Any

import pytest

from tests.envoy.requests import body, chat
from tests.fakes.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_routes_a_request_to_one_model_with_its_name_in_the_body(stack: Stack) -> None:
    """A request without a keyword goes to the model of the last decision, under that model's own name."""
    async with stack.session.post(f"{stack.base_url}/chat/completions", json=chat()) as response:
        answer = await response.json()

    assert response.status == 200
    assert "Ottawa" in answer["choices"][0]["message"]["content"]
    assert [call.model for call in stack.simulator.calls] == ["small"]
    assert response.headers["x-looper-decision"] == "default"
    assert response.headers["x-looper-algorithm"] == "single"
    assert len(response.headers["x-looper-run"]) == 16


async def test_changes_nothing_but_the_value_of_model(stack: Stack) -> None:
    """Every byte of the body but those of the model's name reaches the backend as the client sent it."""
    sent = (
        b'{ "temperature":1.10,\n "model" : "looper\\/auto",'
        b'"messages":[{"role":"user","content":"caf\\u00e9 \xc3\xa9","x":1.0E+2}],'
        b'"seed":123456789012345678901234567890, "vendor":{"model":"looper/auto","a":[1,{}]} }'
    )

    async with stack.session.post(f"{stack.base_url}/chat/completions", data=sent) as response:
        assert response.status == 200, await response.text()

    expected = sent.replace(b'"looper\\/auto"', b'"small"', 1)
    assert stack.simulator.calls[0].body == expected


async def test_big_bodies_arrive_whole(stack: Stack) -> None:
    """A body of several megabytes is cut into many messages both ways, and arrives as it was."""
    sent = body("x" * 5_000_000)

    async with stack.session.post(
        f"{stack.base_url}/chat/completions", data=BytesIO(sent)
    ) as response:
        assert response.status == 200

    assert stack.simulator.calls[0].body == sent.replace(b"looper/auto", b"small", 1)


async def test_streams_a_routed_answer(stack: Stack) -> None:
    """A routed stream goes straight from backend to client: chunks, then [DONE]."""
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json=chat(stream=True)
    ) as response:
        text = await response.text()

    assert response.headers["content-type"].startswith("text/event-stream")
    assert text.rstrip().endswith("data: [DONE]")


@pytest.mark.parametrize(
    ("sent", "status", "code", "param"),
    [
        pytest.param(b"", 400, "invalid_json", None, id="no-body"),
        pytest.param(b"{", 400, "invalid_json", None, id="not-json"),
        pytest.param(b"[]", 400, "invalid_json", None, id="not-an-object"),
        pytest.param(b'{"model":"a","model":"b"}', 400, "invalid_json", None, id="key-twice"),
        pytest.param(b'{"messages":[]}', 400, "invalid_field", "model", id="no-model"),
        pytest.param(b'{"model":7}', 400, "invalid_field", "model", id="model-not-text"),
        pytest.param(
            b'{"model":"looper/auto"}', 400, "invalid_field", "messages", id="no-messages"
        ),
        pytest.param(
            b'{"model":"nobody","messages":[{"role":"user","content":"x"}]}',
            404,
            "model_not_found",
            "model",
            id="unknown-model",
        ),
        pytest.param(
            b'{"model":"small","messages":[{"role":"user","content":"x"}]}',
            404,
            "model_not_found",
            "model",
            id="private-model",
        ),
    ],
)
async def test_refuses_in_openais_shape(
    stack: Stack, sent: bytes, status: int, code: str, param: str | None
) -> None:
    """What cannot be answered is refused with a status, a type, a code and the member at fault, and no call is made."""
    async with stack.session.post(f"{stack.base_url}/chat/completions", data=sent) as response:
        error = (await response.json())["error"]

    assert response.status == status
    assert response.headers["content-type"] == "application/json"
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, param)
    assert stack.simulator.count() == 0


@pytest.mark.parametrize("announced", [True, False], ids=["content-length", "chunked"])
async def test_refuses_a_body_over_the_limit(stack: Stack, announced: bool) -> None:
    """A body over `limits.max_body` is a 413 in OpenAI's shape, whether its length was announced or not."""
    size = (32 << 20) + 1

    async def pieces() -> Any:
        for _ in range(0, size, 1 << 20):
            yield b" " * (1 << 20)
        yield b" "

    data = BytesIO(b" " * size) if announced else pieces()
    async with stack.session.post(f"{stack.base_url}/chat/completions", data=data) as response:
        error = (await response.json())["error"]

    assert (response.status, error["code"]) == (413, "body_too_large")


async def test_lists_public_models(stack: Stack) -> None:
    """`GET /v1/models` names what clients may ask for, and no model that is not public."""
    async with stack.session.get(f"{stack.base_url}/models") as response:
        answer = await response.json()

    assert [model["id"] for model in answer["data"]] == ["looper/auto"]
    assert stack.simulator.count() == 0


async def test_embeddings_of_a_team_are_refused(stack: Stack) -> None:
    """A public name that may be answered by a team answers chat completions only."""
    request = {"model": "looper/auto", "input": "x"}

    async with stack.session.post(f"{stack.base_url}/embeddings", json=request) as response:
        error = (await response.json())["error"]

    assert (response.status, error["code"]) == (400, "chat_only")


SPOOFS = [
    pytest.param("POST", "/v1/chat/completions", body(), 200, ["small"], id="chat"),
    pytest.param("POST", "/v1/embeddings", b'{"model":"x","input":"y"}', 404, [], id="embeddings"),
    pytest.param("POST", "/v1/audio/speech", b"bytes", 404, [], id="other-post"),
    pytest.param("GET", "/v1/models", None, 200, [], id="models"),
    pytest.param("GET", "/v1/files", None, 404, [], id="other-get"),
    pytest.param("GET", "/elsewhere", None, 404, [], id="unknown-path"),
]


@pytest.mark.parametrize(("method", "path", "data", "status", "called"), SPOOFS)
async def test_a_spoofed_model_header_reaches_no_model(
    stack: Stack, method: str, path: str, data: bytes | None, status: int, called: list[str]
) -> None:
    """Whatever a client says in our headers, on whatever path, chooses no route and reaches no backend."""
    spoofed = {"x-looper-model": "large", "X-Looper-Role": "judge", "x-looper-recipe": "none"}

    async with stack.session.request(
        method, f"{stack.ingress}{path}", data=data, headers=spoofed
    ) as response:
        await response.read()

    assert response.status == status
    assert [call.model for call in stack.simulator.calls] == called
    for call in stack.simulator.calls:
        assert not [name for name in call.headers if name.startswith("x-looper-")]


async def test_credentials_of_clients_reach_no_backend(stack: Stack) -> None:
    """A client's own credentials end at Envoy."""
    credentials = {"authorization": "Bearer client", "cookie": "a=b", "x-api-key": "client"}

    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json=chat(), headers=credentials
    ) as response:
        assert response.status == 200

    assert not credentials.keys() & stack.simulator.calls[0].headers.keys()


async def test_a_body_with_trailers_is_routed(stack: Stack) -> None:
    """A chunked request that ends with trailers is read to its end and routed like any other."""
    sent = body()
    host, _, port = stack.ingress.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
        b"trailer: x-end\r\nconnection: close\r\n\r\n"
        + b"%x\r\n%b\r\n0\r\nx-end: 1\r\n\r\n"
        % (len(sent), sent)
    )
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()

    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert stack.simulator.calls[0].body == sent.replace(b"looper/auto", b"small", 1)


async def test_an_upload_that_is_broken_off_leaves_nothing_behind(stack: Stack) -> None:
    """A client that leaves in the middle of its body is nobody's error: no call, and the next one is answered."""
    host, _, port = stack.ingress.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{")
    await writer.drain()
    await asyncio.sleep(0.05)  # until Envoy has passed the beginning on
    writer.close()
    await writer.wait_closed()

    async with stack.session.post(f"{stack.base_url}/chat/completions", json=chat()) as response:
        assert response.status == 200
    assert stack.simulator.count() == 1
    assert '"level":"error"' not in stack.processor.log.read_text()


async def test_a_body_that_was_compressed_otherwise_is_refused(stack: Stack) -> None:
    """A body that cannot be read is refused rather than guessed at."""
    async with stack.session.post(
        f"{stack.base_url}/chat/completions",
        data=b"\x1f\x8b",
        headers={"content-encoding": "deflate"},
    ) as response:
        error = (await response.json())["error"]

    assert (response.status, error["code"]) == (400, "invalid_request")


async def test_many_requests_at_once(stack: Stack) -> None:
    """Requests side by side do not disturb each other: each backend call holds its own client's text."""
    texts = [f"number {number}" for number in range(200)]

    async def send(text: str) -> int:
        async with stack.session.post(
            f"{stack.base_url}/chat/completions", json=chat(text)
        ) as response:
            await response.read()
            return response.status

    assert set(await asyncio.gather(*map(send, texts))) == {200}
    said = [json.loads(call.body)["messages"][0]["content"] for call in stack.simulator.calls]
    assert sorted(said) == sorted(texts)


async def test_a_backend_that_is_down_is_reported_in_openais_shape(stack: Stack) -> None:
    """When a routed backend resets every connection, the client reads OpenAI's error shape from Envoy."""
    from looper.simulate.server import Reset

    stack.simulator.fault("small", Reset())
    async with stack.session.post(f"{stack.base_url}/chat/completions", json=chat()) as response:
        error = (await response.json())["error"]

    assert response.status in (502, 503)
    assert error["type"] in ("upstream_error", "server_error")
