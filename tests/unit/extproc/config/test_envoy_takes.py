"""What Envoy would refuse is an error here first."""

from typing import Any

import pytest

from extproc.config import parse_config
from extproc.errors import ConfigError
from tests.fakes.configurations import written

MODEL = {"name": "m", "url": "http://10.0.0.1:8000/v1"}


def of_model(**settings: Any) -> dict[str, Any]:
    return {"models": [MODEL | settings]}


REFUSED = [
    *(
        of_model(headers={name: "x"})
        for name in ("", ":path", "host", "Host", "a b", "a\r\nb", "a\0")
    ),
    *(of_model(headers={"x-a": value}) for value in ("a\r\nb", "a\nb", "\0", "\x7f", "x" * 9000)),
    of_model(headers={"Content-Length": "1"}),
    of_model(api_key={"env": "K", "header": "host"}),
    of_model(api_key={"env": "K", "prefix": "a\r\nx-b: c"}),
    of_model(api_key={"file": "/a\0b"}),
    of_model(tls={"ca": "/a\0"}),
    of_model(tls={"ca": "ca.pem"}),
    of_model(tls={"server_name": ""}),
    of_model(url="http://a b/v1"),
    of_model(url="http://[fe80::1%eth0]/v1"),
    of_model(url="http://h/\u00e9"),
    of_model(breaker={"max_connections": 10**12}),
    {"egress": "unix:/" + "x" * 107},
    {"egress": "unix:/a\0b"},
    {"egress": "http://host"},
    {"egress": "http://name:80"},
    {"egress": "http://127.0.0.1:0"},
    {"envoy": {"ingress": "localhost:80"}},
    {"envoy": {"admin": "name:80"}},
    {"envoy": {"stats": "1.2.3:80"}},
    {"envoy": {"processors": ["a b:80"]}},
    {"envoy": {"ingress": "0.0.0.0:9902"}},
    {"envoy": {"stats": "0.0.0.0:1", "admin": "127.0.0.1:1"}},
    {"envoy": {"ingress": "1.2.3.4:5", "stats": "1.2.3.4:5"}},
    {"egress": "http://127.0.0.1:8080"},
    {"envoy": {"ingress": "127.0.0.1:8081", "processors": ["localhost:8081", "127.0.0.1:8081"]}},
    {"limits": {"max_body": "9999GiB"}},
    {"limits": {"max_body": "4GiB"}},
    {"limits": {"max_inflight_bytes": "9999999GiB"}},
    {"limits": {"max_runs": 10**12}},
]


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: ascii(change)[:60])
def test_is_an_error_with_its_place(change: dict[str, Any]) -> None:
    """At a start, one such thing would take every model away."""
    with pytest.raises(ConfigError) as raised:
        parse_config(written(change), "f.yaml")
    assert all(each.startswith("f.yaml:") for each in raised.value.problems)


def test_processors_elsewhere_may_have_our_ports() -> None:
    """Only of those on this machine it is known that they take a port from Envoy."""
    change = {"envoy": {"ingress": "0.0.0.0:8080", "processors": ["10.0.0.2:8080", "p:8080"]}}
    assert parse_config(written(change), "f.yaml")
