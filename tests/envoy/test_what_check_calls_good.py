"""Whatever `looper check` calls good, Envoy takes, what nobody would write included.

Folders that are not there are told of, but are no error: a configuration may be checked elsewhere.
"""

import copy
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from extproc.bootstrap import render
from extproc.config import Config, parse_config
from extproc.errors import ConfigError
from tests.envoy.test_validate import ENVIRONMENT, whole
from tests.fakes.configurations import SMALL
from tests.fakes.envoy import envoy_path

ODD = "aZ09 .-_:/%{}\"'\\$#~@[]*?&=+,;()<>|^`!\t\r\n\0\x7f\xa0é字\U0001f600"
"""What means something to YAML, to URLs, to headers or to Envoy's formatter."""

texts = st.one_of(
    st.text(ODD, max_size=12),
    st.sampled_from(
        ["%REQ(x)%", "%%", "100%", "{{x}}", "a" * 300, "x" * 9000, "*", "..", "/", "-", "_", "null"]
    ),
)
names = st.one_of(texts, st.sampled_from(["m", "looper/auto", "a.b:c/d", "A-b_c", "a" * 64]))
HOSTS = (
    "h h. h.example -h h_x a..b localhost * 10.0.0.1 127.0.0.1 0.0.0.0 1.2.3 256.1.1.1 010.0.0.1 0x7f.1 exämple.org "
    "::1 [::1] [::] [2001:db8::1] [::ffff:1.2.3.4] [fe80::1%eth0]"
)
hosts = st.one_of(st.sampled_from([*HOSTS.split(), "", "x" * 260]), texts)
ports = st.one_of(
    st.integers(-1, 70_000).map(str),
    st.sampled_from(["0", "1", "80", "08080", "65535", "65536", "", "x", "+80", "\u0661"]),
)
paths = st.one_of(
    st.sampled_from(["", "/", "/v1", "/v1/", "//", "/a%20b", "/a?b", "/a#b", "/%", "/é"]), texts
)
addresses = st.one_of(
    st.builds("{}:{}".format, hosts, ports),
    texts.map("unix:{}".format),
    texts.map("unix:/tmp/{}".format),
    st.sampled_from(["unix:/" + "x" * 106, "unix:/" + "x" * 107, "unix:/", "unix:@abstract"]),
)
urls = st.one_of(
    st.builds("{}://{}:{}{}".format, st.sampled_from(["http", "https"]), hosts, ports, paths),
    st.builds("{}://{}{}".format, st.sampled_from(["http", "https", "HTTP", "ftp"]), hosts, paths),
)
durations = st.one_of(
    st.builds(
        "{}{}".format,
        st.sampled_from(["0", "1", "0.5", "0.0000001", "1e9", "315576000001", "9" * 20, "-1"]),
        st.sampled_from(["s", "ms", "m", "h", "d", ""]),
    ),
    st.integers(-1, 10**12),
)
sizes = st.one_of(
    st.builds(
        "{}{}".format, st.integers(0, 9999), st.sampled_from(["", "KiB", "MiB", "GiB", "MB"])
    ),
    st.sampled_from([0, 1, 2**32 - 1, 2**32, 2**63, 2**64, -1]),
)
counts = st.sampled_from([0, 1, 10, 1024, 10**6, 2**31, 2**32, 10**12, -1])
headers = st.one_of(
    names,
    st.sampled_from(["x-a", "Authorization", "host", ":path", "te", "x-looper-model", "x-envoy-a"]),
)


MODEL: dict[str, Any] = {
    "name": "m",
    "url": "https://h.example/v1",
    "api_key": {"env": "KEY"},
    "headers": {"x-a": "1"},
    "tls": {},
    "retry": {},
    "breaker": {},
}
BASE = SMALL | {
    "models": [MODEL, {"name": "n", "url": "http://127.0.0.1:1"}],
    "envoy": {},
    "limits": {},
}

CHANGES: dict[str, st.SearchStrategy[Any]] = {
    "egress": addresses.map("http://{}".format) | addresses,
    "heartbeat": durations,
    "limits.max_body": sizes,
    "limits.max_inflight_bytes": sizes,
    "limits.max_runs": counts,
    "envoy.ingress": addresses,
    "envoy.stats": addresses,
    "envoy.admin": addresses,
    "envoy.processors": st.lists(addresses, max_size=3),
    "envoy.body_mode": st.sampled_from(["full_duplex", "buffered"]),
    "envoy.profile": st.sampled_from(["fast", "metered"]),
    "envoy.preserve_external_request_id": st.booleans(),
    "envoy.request_id_in_response": st.booleans(),
    "envoy.version": st.sampled_from(
        ["1.37", "1.38", "1.39", "1.40", "1.40.9", "v1.40", "1.4", ""]
    ),
    "envoy.cors": st.fixed_dictionaries(
        {"origins": st.lists(urls | names | st.just("https://*.example"), max_size=3)},
        optional={"headers": st.lists(headers), "max_age": durations, "credentials": st.booleans()},
    ),
    "envoy.tls": st.fixed_dictionaries(
        {"certificate": texts.map("/{}".format), "key": texts.map("/{}".format)},
        optional={"client_ca": st.just("/etc/ssl/certs/ca-certificates.crt")},
    ),
    "envoy.drop_headers": st.lists(headers, max_size=3),
    "envoy.keep_headers": st.dictionaries(st.just("m"), st.lists(headers, max_size=2)),
    "envoy.stream_idle_timeout": durations,
    "envoy.max_stream_duration": durations,
    "models.1.name": names,
    "models.0.upstream_model": texts,
    "models.0.url": urls,
    "models.1.url": urls,
    "models.0.api_key.header": headers,
    "models.0.api_key.prefix": texts,
    "models.0.api_key": texts.map(lambda text: {"file": "/etc/" + text.replace("/", "")}),
    "models.0.headers": st.dictionaries(headers, texts, max_size=3),
    "models.0.tls.server_name": hosts,
    "models.0.retry.attempts": counts,
    "models.0.breaker.max_requests": counts,
    "models.0.breaker.max_pending": counts,
    "models.0.breaker.max_connections": counts,
    "models.0.timeout": durations,
    "models.1.public": st.booleans() | st.just("r"),
    "recipes.r.decisions.0.name": names,
    "recipes.r.decisions.0.budget": durations.map(lambda written: {"deadline": written}),
    "entrypoints": st.dictionaries(names, st.just("r"), min_size=1, max_size=3),
}

changed = st.lists(st.sampled_from(sorted(CHANGES)), min_size=1, max_size=3, unique=True).flatmap(
    lambda paths: st.fixed_dictionaries({path: CHANGES[path] for path in paths})
)


def written(change: dict[str, Any]) -> str:
    """A usual configuration with other values in some places."""
    config = copy.deepcopy(BASE)
    for path, value in change.items():
        *there, last = path.split(".")
        place: Any = config
        for each in there:
            place = place[int(each) if isinstance(place, list) else each]
        place[last] = value
    return yaml.safe_dump(config, allow_unicode=True)


def good(change: dict[str, Any]) -> Config | None:
    try:
        return parse_config(written(change), "f.yaml")
    except ConfigError:
        return None


def refusal(config: Config, folder: Path) -> str:
    """What Envoy says against it."""
    texts = render(config, directory=str(folder))
    for name, text in {**texts, "whole.yaml": whole(texts)}.items():
        (folder / name).write_text(text, "utf-8")
    command = [envoy_path(), "--mode", "validate", "-c", str(folder / "whole.yaml"), "-l", "error"]
    environment = ENVIRONMENT | {"KEY": "sk-test"}
    result = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    return result.stderr if result.returncode else ""


@pytest.mark.timeout(0)
@given(changed)
@settings(
    max_examples=30, suppress_health_check=list(HealthCheck), phases=set(Phase) - {Phase.explain}
)
def test_envoy_takes_it(change: dict[str, Any]) -> None:
    config = good(change)
    assume(config is not None)
    assert config is not None
    with tempfile.TemporaryDirectory() as folder:
        assert not refusal(config, Path(folder))
