"""What fragments say of their parts."""

import pytest
import yaml

from extproc.bootstrap.annotated import annotated
from extproc.bootstrap.fragments import FRAGMENTS, fragment
from extproc.bootstrap.notes import ABOUT, NOTES
from extproc.config import Config, parse_config

TEXT = """
version: 1
egress: unix:/run/looper/egress.sock
envoy:
  cors: {origins: ["*"]}
  profile: %s
  tracing: {otlp: {endpoint: "http://collector:4317"}}
state: {type: memory, identity: {attribute: source.address}}
models:
  - {name: m, url: "https://a.b.example/v1", api_key: {env: K}}
  - {name: f, url: "https://f.example/v1", api_key: {file: /k}, tls: {certificate: /c, key: /k}}
  - {name: c, cluster: theirs}
recipes: {r: {decisions: [{name: d, algorithm: {type: single, model: m}}]}}
entrypoints: {looper/auto: r}
"""


def config(profile: str = "fast") -> Config:
    return parse_config(TEXT % profile, "f.yaml")


@pytest.mark.parametrize("name", FRAGMENTS)
def test_every_note_is_of_something(name: str) -> None:
    """A part that is not there any more has no remark either; and each fragment says what it is."""
    text = " ".join(
        line.strip().removeprefix("# ")
        for line in fragment(name, config()).splitlines()
        if line.lstrip().startswith("#")
    )
    assert ABOUT[name] in text
    assert [note for note in NOTES[name].values() if note not in text] == []


@pytest.mark.parametrize("profile", ["fast", "metered"])
@pytest.mark.parametrize("name", FRAGMENTS)
def test_no_file_of_ours_is_referred_to(name: str, profile: str) -> None:
    """Whoever pastes it has none."""
    text = fragment(name, config(profile))
    assert isinstance(yaml.safe_load(text), dict)
    assert "path_config_source" not in text
    assert "/etc/envoy" not in text


def test_secrets_are_envoys_own() -> None:
    """Of the environment and of files, each under the name by which clusters refer to it; a key is never in it."""
    resources = yaml.safe_load(fragment("clusters", config()))["static_resources"]
    names = {each["name"] for each in resources["secrets"]}
    assert names == {"env:K", "file:/k", "certificate:/c:/k"}
    assert [each["name"] for each in resources["clusters"]] == [
        "looper_ext_proc",
        "looper_traces",
        "model:m",
        "model:f",
    ]


@pytest.mark.parametrize(
    "data",
    [
        {"a": {"b": [1, 2.5, True, None, "yes", "1", "y", "a: b", "#", "", "é", "%A(b)%", "a\nb"]}},
        {"a": [], "b": {}, "c": [[1, 2], {"x": {"y": 1}}, []]},
        {"re2.max": 10000.0, "@type": "t", "12": "12", "on": "off", "~": "~", "0x1": "0x1"},
    ],
)
@pytest.mark.parametrize("notes", [{}, {("a",): "said", ("b",): "said " * 60, ("c", ""): "of it"}])
def test_what_is_written_is_what_is_read(data: object, notes: dict[tuple[str, ...], str]) -> None:
    """By a parser of YAML, with or without remarks."""
    assert yaml.safe_load(annotated(data, notes)) == data
