"""Where traces go: what may stand in the configuration, and what it says of what may not."""

from typing import Any

import pytest
import yaml

from extproc.config import parse, parse_config
from extproc.errors import ConfigError
from extproc.tracing import opening

REST = """
version: 1
egress: unix:/run/egress.sock
models: [{name: m, url: "http://m/v1"}]
recipes: {r: {decisions: [{name: d, algorithm: {type: single, model: m}}]}}
entrypoints: {auto: r}
"""


def written(otlp: dict[str, Any], **more: Any) -> str:
    return yaml.safe_dump({"tracing": {"otlp": otlp, **more}, **yaml.safe_load(REST)})


@pytest.mark.parametrize(
    ("otlp", "url"),
    [
        ({"endpoint": "http://c:4317"}, "http://c:4317"),
        ({"endpoint": "http://c:4317/"}, "http://c:4317"),
        ({"endpoint": "https://c"}, "https://c"),
        ({"endpoint": "http://[::1]:4317"}, "http://[::1]:4317"),
        ({"endpoint": "http://c:4318", "protocol": "http"}, "http://c:4318/v1/traces"),
        ({"endpoint": "https://c", "protocol": "http"}, "https://c/v1/traces"),
        ({"endpoint": "https://c/otlp/v1/traces", "protocol": "http"}, "https://c/otlp/v1/traces"),
    ],
)
def test_where_spans_go(otlp: dict[str, Any], url: str) -> None:
    tracing = parse_config(written(otlp), "test.yaml").tracing
    assert tracing is not None
    assert tracing.otlp.url == url


@pytest.mark.parametrize(
    ("otlp", "problem"),
    [
        ({}, "endpoint: is missing"),
        ({"endpoint": "c:4317"}, "a collector is http:// or https://"),
        ({"endpoint": "grpc://c:4317"}, "a collector is http:// or https://"),
        ({"endpoint": "http://c"}, "say the endpoint's port, which is 4317 as a rule"),
        ({"endpoint": "http://c", "protocol": "http"}, "which is 4318 as a rule"),
        ({"endpoint": "http://c:4318/v1/traces"}, "is it `protocol: http`?"),
        (
            {"endpoint": "http://u:s@c:4317"},
            "must not carry a credential: use `headers`",
        ),  # pragma: allowlist secret
        ({"endpoint": "http://c:4317?key=secret"}, "no query and no fragment"),
        ({"endpoint": "http://c:99999"}, "endpoint"),
        ({"endpoint": "http://c c:4317"}, "no host that could be found"),
        ({"endpoint": "http://c:4318/ü", "protocol": "http"}, "plain ASCII"),
        ({"endpoint": "http://c:4317", "protocol": "thrift"}, "protocol"),
        ({"endpoint": "http://c:4317", "header": {}}, "did you mean 'headers'?"),
        ({"endpoint": "http://c:4317", "headers": {"a": {}}}, "exactly one of `env` and `file`"),
        ({"endpoint": "http://c:4317", "ca": "ca.pem"}, "ca"),
    ],
)
def test_what_is_wrong_is_said_and_no_secret_repeated(otlp: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_config(written(otlp), "test.yaml")
    (said,) = refused.value.problems
    assert problem in said
    assert said.startswith("test.yaml:")
    assert "secret" not in said


def test_without_the_extra_the_command_that_installs_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(opening, "_NEEDED", ("json", "no_such_module.sdk"))
    loaded = parse(written({"endpoint": "http://c:4317"}), "test.yaml")
    assert opening.problems(loaded) == [
        "test.yaml:14: tracing: no_such_module.sdk is missing: pip install 'envoy-looper[otel]'"
    ]
    assert opening.problems(parse(REST, "test.yaml")) == []


@pytest.mark.parametrize("forward", [None, [], ["x-tenant"]])
def test_a_trace_goes_on_with_every_call(forward: list[str] | None) -> None:
    more = {} if forward is None else {"forward_headers": forward}
    config = parse_config(
        yaml.safe_dump({**yaml.safe_load(written({"endpoint": "http://c:4317"})), **more}), "t"
    )
    assert {"traceparent", "tracestate"} <= set(config.forwarded)
    assert set(forward or ()) <= set(config.forwarded)
