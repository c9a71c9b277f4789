"""What clients are told when Envoy, or a filter of an operator's own, answers before the processor is asked."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.envoy.configured import Bootstrap, edited, manager_of
from tests.envoy.conftest import quick_models
from tests.envoy.requests import body, chat
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

_HTTP = "type.googleapis.com/envoy.extensions.filters.http"
_JWKS = (
    '{"keys":[{"kty":"oct","alg":"HS256","kid":"1","k":"c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"}]}'
)


def typed(kind: str, **settings: Any) -> dict[str, Any]:
    return {"@type": f"{_HTTP}.{kind}", **settings}


def bucket(kind: str, **more: Any) -> dict[str, Any]:
    tokens = {"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "3600s"}
    every = {"default_value": {"numerator": 100}}
    return typed(
        "local_ratelimit.v3.LocalRateLimit",
        stat_prefix=kind,
        token_bucket=tokens,
        filter_enabled=every,
        filter_enforced=every,
        **more,
    )


WAIT = {"header": {"key": "retry-after", "value": "77"}}
ANYBODY = {"permissions": [{"any": True}], "principals": [{"any": True}]}
LOCAL = {
    "issuer": "https://issuer.example",
    "local_jwks": {"inline_string": _JWKS},
    "forward": False,
}

FILTERS = {
    "jwt": typed(
        "jwt_authn.v3.JwtAuthentication",
        providers={"one": LOCAL},
        rules=[{"match": {"prefix": "/"}, "requires": {"provider_name": "one"}}],
    ),
    "key": typed(
        "api_key_auth.v3.ApiKeyAuth",
        credentials=[{"key": "right", "client": "one"}],
        key_sources=[{"header": "x-key"}],
    ),
    "basic": typed(
        "basic_auth.v3.BasicAuth",
        users={"inline_string": "user:{SHA}tESsBmE/yNY3lb6a0L6vVQEZNqw="},
    ),
    "rbac": typed("rbac.v3.RBAC", rules={"action": "DENY", "policies": {"all": ANYBODY}}),
    "ext_authz": typed(
        "ext_authz.v3.ExtAuthz",
        http_service={"server_uri": {"uri": "http://x", "cluster": "nobody", "timeout": "1s"}},
    ),
    "limit": bucket("limit"),
    "limit_said": bucket("limit_said", response_headers_to_add=[WAIT]),
    "fault": typed(
        "fault.v3.HTTPFault",
        abort={"header_abort": {}, "percentage": {"numerator": 100}},
    ),
}
"""Each acts on requests that name it in `x-try`."""

NOBODY = {
    "name": "nobody",
    "connect_timeout": "0.2s",
    "load_assignment": {
        "cluster_name": "nobody",
        "endpoints": [
            {
                "lb_endpoints": [
                    {
                        "endpoint": {
                            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}}
                        }
                    }
                ]
            }
        ],
    },
}


def only_when_tried(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """A filter that sleeps unless a request names it."""
    asked = {
        "name": "asked",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
            "header_name": "x-try",
        },
    }
    skip = {
        "name": "skip",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.common.matcher.action.v3.SkipFilter"
        },
    }
    named = {"single_predicate": {"input": asked, "value_match": {"exact": name}}}
    return {
        "name": f"theirs.{name}",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher",
            "extension_config": {"name": f"theirs.{name}", "typed_config": settings},
            "xds_matcher": {
                "matcher_list": {
                    "matchers": [
                        {"predicate": {"not_matcher": named}, "on_match": {"action": skip}}
                    ]
                }
            },
        },
    }


def with_filters(bootstrap: Bootstrap) -> None:
    manager = manager_of(bootstrap, "ingress")
    theirs = [only_when_tried(name, settings) for name, settings in FILTERS.items()]
    manager["http_filters"][:0] = theirs
    manager["http_filters"].insert(-1, only_when_tried("late", FILTERS["rbac"]))
    bootstrap["static_resources"]["clusters"].append(NOBODY)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded() -> AsyncIterator[Stack]:
    async with run_stack(quick_models(), edit=edited(with_filters)) as stack:
        yield stack


@dataclass(frozen=True, slots=True)
class Told:
    status: int
    code: str
    type: str
    retry_after: str | None = None


INVALID, SERVER, LIMIT = "invalid_request_error", "server_error", "rate_limit_error"
UNAUTHORIZED = Told(401, "invalid_api_key", INVALID)
DENIED = Told(403, "permission_denied", INVALID)


async def tried(stack: Stack, headers: dict[str, str]) -> tuple[Told, str]:
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json=chat(), headers=headers
    ) as response:
        assert response.headers["content-type"] == "application/json"
        error = (await response.json())["error"]
        assert set(error) == {"message", "type", "param", "code"}
        waits = response.headers.get("retry-after")
        return Told(response.status, error["code"], error["type"], waits), error["message"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("jwt", UNAUTHORIZED),
        ("key", UNAUTHORIZED),
        ("basic", UNAUTHORIZED),
        ("rbac", DENIED),
        ("ext_authz", DENIED),
        ("late", DENIED),
    ],
)
async def test_a_refusal_says_what_it_is(guarded: Stack, name: str, told: Told) -> None:
    found, message = await tried(guarded, {"x-try": name})
    assert found == told
    assert "not valid." not in message


async def test_a_wrong_credential_is_no_other_than_none(guarded: Stack) -> None:
    token = "eyJhbGciOiJIUzI1NiJ9.e30.AAAA"  # pragma: allowlist secret
    wrong = {"authorization": f"Bearer {token}", "x-key": "wrong"}
    for name in ("jwt", "key"):
        assert (await tried(guarded, {"x-try": name, **wrong}))[0] == UNAUTHORIZED


@pytest.mark.parametrize(("name", "waits"), [("limit", "1"), ("limit_said", "77")])
async def test_a_limit_says_how_long_to_wait(guarded: Stack, name: str, waits: str) -> None:
    """What the filter itself says of it stays."""
    async with guarded.session.post(
        f"{guarded.base_url}/chat/completions", json=chat(), headers={"x-try": name}
    ) as response:
        assert response.status == 200
    found, _ = await tried(guarded, {"x-try": name})
    assert found == Told(429, "rate_limit_exceeded", LIMIT, waits)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (400, Told(400, "invalid_request", INVALID)),
        (401, UNAUTHORIZED),
        (402, Told(402, "request_refused", INVALID)),
        (403, DENIED),
        (404, Told(404, "unknown_path", INVALID)),
        (405, Told(405, "method_not_allowed", INVALID)),
        (408, Told(408, "request_timeout", INVALID)),
        (409, Told(409, "request_refused", INVALID)),
        (413, Told(413, "body_too_large", INVALID)),
        (415, Told(415, "unsupported_media_type", INVALID)),
        (418, Told(418, "request_refused", INVALID)),
        (421, Told(421, "misdirected_request", INVALID)),
        (426, Told(426, "upgrade_required", INVALID)),
        (429, Told(429, "rate_limit_exceeded", LIMIT, "1")),
        (431, Told(431, "headers_too_large", INVALID)),
        (500, Told(500, "internal_error", SERVER)),
        (502, Told(502, "internal_error", SERVER)),
        (503, Told(503, "service_unavailable", SERVER, "1")),
        (504, Told(504, "deadline_exceeded", "upstream_error")),
    ],
)
async def test_every_status_has_a_code_of_its_own(guarded: Stack, status: int, told: Told) -> None:
    found, message = await tried(
        guarded, {"x-try": "fault", "x-envoy-fault-abort-request": str(status)}
    )
    assert found == told
    assert ("not valid." in message) is False


# Limits of Envoy's own...


def strict(folder: Path) -> None:
    def change(bootstrap: Bootstrap) -> None:
        manager = manager_of(bootstrap, "ingress")
        manager["http_protocol_options"] = {"accept_http_10": False}
        manager["request_headers_timeout"] = "1s"
        manager["request_timeout"] = "5s"
        manager["max_request_headers_kb"] = 8
        (buffer,) = (each for each in manager["http_filters"] if each["name"].endswith(".buffer"))
        buffer["typed_config"]["max_request_bytes"] = 50_000
        monitor = {
            "name": "envoy.resource_monitors.injected_resource",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors"
                ".injected_resource.v3.InjectedResourceConfig",
                "filename": str(folder / "pressure"),
            },
        }
        full = {"name": monitor["name"], "threshold": {"value": 0.9}}
        overload = bootstrap["overload_manager"]
        overload["refresh_interval"] = "0.05s"
        overload["resource_monitors"].append(monitor)
        overload["actions"] = [
            {"name": "envoy.overload_actions.stop_accepting_requests", "triggers": [full]}
        ]

    (folder / "pressure").write_text("0.1")
    edited(change)(folder)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def narrow() -> AsyncIterator[Stack]:
    async with run_stack(quick_models(), edit=strict) as stack:
        yield stack


async def raw(stack: Stack, request: bytes) -> tuple[int, dict[str, str], dict[str, Any]]:
    """What is answered to these bytes, before the connection ends or as it does."""
    host, _, port = stack.ingress.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    async with asyncio.timeout(20):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        pairs = (line.partition(": ") for line in lines)
        headers = {name: value for name, _, value in pairs}
        answer = await reader.readexactly(int(headers["content-length"]))
    writer.close()
    return int(first.split()[1]), headers, json.loads(answer)["error"]


POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        pytest.param(
            POST + b"x-long: " + b"x" * 9000 + b"\r\n\r\n", 431, "headers_too_large", id="headers"
        ),
        pytest.param(
            POST.replace(b"1.1", b"1.0") + b"\r\n", 426, "upgrade_required", id="http-1.0"
        ),
        pytest.param(POST, 408, "request_timeout", id="headers-late"),
        pytest.param(POST + b"content-length: 10\r\n\r\n{", 408, "request_timeout", id="body-late"),
        pytest.param(
            POST + b"content-length: 99999\r\n\r\n" + b"x" * 99999, 413, "body_too_large", id="body"
        ),
        pytest.param(POST + b"bad\r\n\r\n", 400, "invalid_request", id="malformed"),
        pytest.param(
            POST + b"transfer-encoding: gzip\r\n\r\n", 400, "invalid_request", id="encoding"
        ),
        pytest.param(
            POST.replace(b"POST", b"GET") + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n",
            400,
            "upgrade_unsupported",
            id="upgrade",
        ),
    ],
)
async def test_limits_of_envoys_own(narrow: Stack, request_: bytes, status: int, code: str) -> None:
    found, headers, error = await raw(narrow, request_)
    assert (found, error["code"], error["type"]) == (status, code, INVALID)
    assert headers["content-type"] == "application/json"
    assert "not valid." not in error["message"]


async def test_an_overloaded_envoy_says_so(narrow: Stack) -> None:
    pressure = narrow.folder / "envoy" / "pressure"

    def put(value: str) -> None:
        new = pressure.with_name("pressure.new")
        new.write_text(value)
        new.replace(pressure)

    async def until(wanted: int) -> tuple[Any, Any]:
        async with asyncio.timeout(10):
            while True:
                async with narrow.session.post(
                    f"{narrow.base_url}/chat/completions", data=body()
                ) as response:
                    if response.status == wanted:
                        return response.headers, await response.json()
                await asyncio.sleep(0.02)

    put("0.95")
    headers, answer = await until(503)
    put("0.1")
    await until(200)
    assert answer["error"]["code"] == "overloaded"
    assert headers["retry-after"] == "1"
