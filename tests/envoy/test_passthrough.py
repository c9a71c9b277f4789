"""Paths that are none of ours: to the model that the operator names, byte for byte, or to nobody."""

import gzip
import os
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import pytest
import pytest_asyncio
import yaml

from looper.simulate.faults import Status
from tests.envoy.conftest import quick_models
from tests.envoy.requests import chat
from tests.fakes.stack import DEMO, Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

MIB = 1 << 20
QUERY = "api-version=2024-10-21&feature=a%2Fb%20c%25&feature=d&bare"
SENT = "api-version=2024-10-21&bare=&feature=a%2Fb%20c%25&feature=d"
"""In the order of names, as Envoy writes it."""


def change(profile: str) -> dict[str, Any]:
    demo = yaml.safe_load(DEMO.read_text())
    small, other, *more = demo["models"]
    small = {**small, "headers": {"x-account": "ours"}}
    other = {**other, "url": f"http://x/openai/deployments/o?{QUERY}"}
    one = {"decisions": [{"name": "one", "algorithm": {"type": "single", "model": "other"}}]}
    asked = {"analysis_models": ["other", "small"], "judge_model": "other"}
    panel = {"decisions": [{"name": "panel", "algorithm": {"type": "fusion", **asked}}]}
    return {
        "models": [small, other, *more],
        "recipes": {**demo["recipes"], "one": one, "panel": panel},
        "entrypoints": {**demo["entrypoints"], "looper/one": "one", "looper/panel": "panel"},
        "envoy": {"profile": profile},
        "limits": {"max_body": "1MiB"},
        "passthrough": [
            {
                "model": "small",
                "paths": ["/v1/files", "/v1/audio/*", "/tokenize", "/v1/embeddings"],
            },
            {"model": "other", "paths": ["/v1/files/batch", "/v1/images/"]},
        ],
    }


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["fast", "metered"])
async def shared(request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    async with run_stack(quick_models(), change(request.param)) as stack:
        yield stack


@pytest.fixture
def passing(shared: Stack) -> Stack:
    shared.simulator.reset()
    return shared


async def send(
    stack: Stack, method: str, path: str, data: bytes | None = None, **headers: str
) -> tuple[int, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = None if data is None else BytesIO(data)
    async with stack.session.request(
        method, f"{stack.ingress}{path}", data=sent, headers=named
    ) as response:
        return response.status, await response.json()


@pytest.mark.parametrize(
    ("method", "path", "arrived"),
    [
        ("GET", "/v1/files", "/v1/files"),
        ("GET", "/v1/files/abc/content?a=1&b=%20", "/v1/files/abc/content?a=1&b=%20"),
        ("DELETE", "/v1/files/abc", "/v1/files/abc"),
        ("POST", "/v1/audio/transcriptions", "/v1/audio/transcriptions"),
        ("PUT", "/tokenize", "/tokenize"),
    ],
)
async def test_a_path_leads_where_it_is_said_to(
    passing: Stack, method: str, path: str, arrived: str
) -> None:
    """The simulated backend knows none of them; what matters is that it was asked, and as whom."""
    status, answer = await send(
        passing, method, path, authorization="Bearer mine", cookie="a=b", x_mine="1"
    )

    (call,) = passing.simulator.calls
    assert (call.method, call.path) == (method, arrived)
    assert (status, answer["error"]["code"]) == (404, "unknown_url")
    assert call.headers["x-account"] == "ours"
    assert call.headers["x-mine"] == "1"
    assert not {"authorization", "cookie", "x-forwarded-for"} & call.headers.keys()
    assert not [name for name in call.headers if name.startswith(("x-looper", "x-envoy"))]


@pytest.mark.parametrize("size", [0, 1, 3 * MIB])
@pytest.mark.parametrize("encoding", [None, "gzip"])
async def test_a_body_passes_byte_for_byte(passing: Stack, size: int, encoding: str | None) -> None:
    """However large it is, for nobody reads it; also compressed, and whatever it calls itself."""
    data = os.urandom(size) if encoding is None else gzip.compress(os.urandom(size))
    more = {} if encoding is None else {"content_encoding": encoding}
    kind = "multipart/form-data; boundary=x"
    await send(passing, "POST", "/v1/files", data, content_type=kind, **more)

    (call,) = passing.simulator.calls
    # The simulated backend's server decompresses what it shows; the length is that of what it was sent.
    assert call.body == (data if encoding is None else gzip.decompress(data))
    assert call.headers["content-length"] == str(len(data))
    assert call.headers["content-type"] == kind
    assert call.headers.get("content-encoding") == encoding


async def test_the_longest_path_decides(passing: Stack) -> None:
    await send(passing, "POST", "/v1/files/batch", b"{}")
    await send(passing, "POST", "/v1/images/generations", b"{}")
    before = "/openai/deployments/o"
    assert [call.path for call in passing.simulator.calls] == [
        f"{before}/files/batch?{SENT}",
        f"{before}/images/generations?{SENT}",
    ]


@pytest.mark.parametrize("path", ["/v1/filesystem", "/v1/moderations", "/", "/v1/file"])
async def test_all_others_lead_nowhere_and_say_so(passing: Stack, path: str) -> None:
    status, answer = await send(passing, "POST", path, b"{}")
    assert (status, answer["error"]["code"]) == (404, "unknown_path")
    assert "passes to no model" in answer["error"]["message"]
    assert passing.simulator.calls == []


async def test_what_names_no_model_of_ours_passes_where_it_may(passing: Stack) -> None:
    """The names of models that answer elsewhere than in chats may be the provider's own."""
    sent = b'{"model": "their-own", "input": "x",  "odd": 1e400}'
    await send(passing, "POST", "/v1/embeddings", sent)
    (call,) = passing.simulator.calls
    assert (call.path, call.body) == ("/v1/embeddings", sent)


async def test_a_refused_credential_is_ours_there_too(passing: Stack) -> None:
    passing.simulator.fault("small", Status(status=401))
    status, answer = await send(
        passing, "POST", "/v1/embeddings", b'{"model": "small", "input": "x"}'
    )
    assert (status, answer["error"]["code"]) == (502, "upstream_misconfigured")


# A URL with a query...


@pytest.mark.parametrize("name", ["one", "panel"])
async def test_a_query_of_the_url_goes_along(passing: Stack, name: str) -> None:
    """Routed, and in the calls of a team; what a client asks for is beside it."""
    async with passing.session.post(
        f"{passing.base_url}/chat/completions?client=1&api-version=old",
        json=chat(model=f"looper/{name}"),
    ) as response:
        assert response.status == 200

    paths = {call.path for call in passing.simulator.calls if "/openai/" in call.path}
    asked = "/openai/deployments/o/chat/completions"
    if name == "one":
        assert paths == {f"{asked}?{SENT.replace('&feature', '&client=1&feature', 1)}"}
    else:
        assert paths == {f"{asked}?{SENT}"}
        assert "/v1/chat/completions" in {call.path for call in passing.simulator.calls}
