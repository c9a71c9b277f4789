"""The models of the benchmark: an Envoy that answers from memory, at once or after a fixed delay."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from tests.fakes.envoy import EnvoyProcess, free_port, run_envoy

STAGE_SECONDS = 0.1
"""What each stage of a measured loop waits for."""

_TYPES = "type.googleapis.com/envoy"
_FILTERS = f"{_TYPES}.extensions.filters"
_MAX_BODY = 64 << 20

_ANALYSIS = {"consensus": ["All say it rains."], "winner": 1, "agreement": 0.9}


@dataclass(frozen=True, slots=True)
class Backend:
    """Where the models are, and the process that plays them."""

    envoy: EnvoyProcess
    origin: str

    def url(self, path: str) -> str:
        return f"{self.origin}/{path}/v1"

    async def waiting(self) -> int:
        """How many calls are being kept waiting at this moment."""
        stats = await self.envoy.get("/stats?filter=^http.models.fault.active_faults$")
        return int(stats.rpartition(":")[2])


@asynccontextmanager
async def run_backend(folder: Path, *, slow_seconds: float) -> AsyncIterator[Backend]:
    """Answer under `/instant`, after 100 ms under `/stage` and `/judge`, much later under `/slow`."""
    port = free_port()
    path = _write(folder, _bootstrap(port, slow_seconds))
    async with run_envoy(path, log_level="error") as envoy:
        yield Backend(envoy, f"http://127.0.0.1:{port}")


def _write(folder: Path, bootstrap: Mapping[str, Any]) -> Path:
    folder.mkdir()
    path = folder / "bootstrap.yaml"
    path.write_text(yaml.safe_dump(bootstrap))
    return path


def completion(content: str) -> bytes:
    """A chat completion as a model would send it."""
    return msgspec.json.encode(
        {
            "id": "chatcmpl-bench",
            "object": "chat.completion",
            "created": 1700000000,
            "model": "bench",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": content},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 20, "completion_tokens": 12, "total_tokens": 32},
        }
    )


def _bootstrap(port: int, slow_seconds: float) -> dict[str, Any]:
    said = completion("It rains, and it will go on raining until the evening.")
    judged = completion(msgspec.json.encode(_ANALYSIS).decode())
    routes = [
        _answer("/instant/", said),
        _answer("/stage/", said, STAGE_SECONDS),
        _answer("/judge/", judged, STAGE_SECONDS),
        _answer("/slow/", said, slow_seconds),
    ]
    return {
        "admin": {"address": _address(free_port())},
        "static_resources": {
            "listeners": [
                {
                    "name": "models",
                    "address": _address(port),
                    "per_connection_buffer_limit_bytes": _MAX_BODY,
                    "filter_chains": [{"filters": [_manager(routes)]}],
                }
            ]
        },
    }


def _manager(routes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "models",
            "stream_idle_timeout": "0s",
            "http_filters": [
                # A direct response would leave a body unread and close the connection.
                _filter("http.buffer.v3.Buffer", max_request_bytes=_MAX_BODY),
                _filter("http.fault.v3.HTTPFault"),
                _filter("http.router.v3.Router"),
            ],
            "route_config": {
                "virtual_hosts": [{"name": "models", "domains": ["*"], "routes": routes}]
            },
        },
    }


def _filter(kind: str, **settings: Any) -> dict[str, Any]:
    name = f"envoy.filters.{kind.rsplit('.', 2)[0]}"
    return {"name": name, "typed_config": {"@type": f"{_FILTERS}.{kind}", **settings}}


def _answer(prefix: str, body: bytes, seconds: float | None = None) -> dict[str, Any]:
    route: dict[str, Any] = {
        "match": {"prefix": prefix},
        "direct_response": {"status": 200, "body": {"inline_string": body.decode()}},
        "response_headers_to_add": [
            {"header": {"key": "content-type", "value": "application/json"}}
        ],
    }
    if seconds is not None:
        route["typed_per_filter_config"] = {"envoy.filters.http.fault": _delay(seconds)}
    return route


def _delay(seconds: float) -> Mapping[str, Any]:
    return {
        "@type": f"{_FILTERS}.http.fault.v3.HTTPFault",
        "delay": {"fixed_delay": f"{seconds:.3f}s", "percentage": {"numerator": 100}},
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
