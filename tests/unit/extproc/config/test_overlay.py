"""What an operator may lay over Envoy: what is wrong with it is told with its place, and before Envoy is."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from extproc.bootstrap import left_out, render
from extproc.config import Config, absences, load, parse_config, warnings
from extproc.config.envoy_versions import FEATURES, NEWEST, OLDEST
from extproc.errors import ConfigError
from extproc.process.generation import generation
from tests.fakes.configurations import written

LUA = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
FILTER = {"name": "mine", "typed_config": {"@type": LUA}}
TLS = {"certificate": "/c.pem", "key": "/k.pem"}


@pytest.mark.parametrize(
    ("envoy", "words"),
    [
        ({"tls": {"certificate": "/c.pem"}}, "envoy.tls.key"),
        ({"tls": {"certificate": "c.pem", "key": "/k"}}, "envoy.tls.certificate"),
        ({"tls": {**TLS, "client_certificate": "optional"}}, "client_ca"),
        ({"tls": {**TLS, "client_ca": "/a", "client_certificate": "maybe"}}, "client_certificate"),
        ({"cors": {}}, "envoy.cors.origins"),
        ({"cors": {"origins": []}}, "envoy.cors.origins"),
        ({"cors": {"origins": ["app.example.com"]}}, "is no origin"),
        ({"cors": {"origins": ["https://a b"]}}, "plain ASCII"),
        ({"cors": {"origins": ["https://é.example"]}}, "plain ASCII"),
        ({"cors": {"origins": ["https://a.example/"]}}, "is no origin"),
        ({"cors": {"origins": ["https://a.*.example"]}}, "first dot"),
        ({"cors": {"origins": ["*"], "credentials": True}}, "every page"),
        ({"cors": {"origins": ["*"], "headers": ["a b"]}}, "envoy.cors.headers"),
        ({"version": "1.36"}, "1.37 or newer"),
        ({"version": 1.4}, "in quotes"),
        ({"version": "1.99"}, NEWEST),
        ({"version": "newest"}, "no version"),
    ],
)
def test_is_told_with_its_place(envoy: dict[str, Any], words: str) -> None:
    """What Envoy would refuse, or what would let in more than is meant."""
    with pytest.raises(ConfigError) as raised:
        parse_config(written({"envoy": envoy}), "f.yaml")
    assert any(words in each for each in raised.value.problems)


@pytest.mark.parametrize(
    "model",
    [
        {"url": None},
        {},
        *(
            {"cluster": "c", k: v}
            for k, v in {
                "api_key": {"env": "K"},
                "tls": {"server_name": "a"},
                "breaker": {"max_requests": 1},
            }.items()
        ),
        {"cluster": ""},
        {"url": "https://h/v1", "tls": {"certificate": "/c"}},
    ],
)
def test_a_model_is_somewhere(model: dict[str, Any]) -> None:
    """At a URL or in a cluster, which has its key and its certificates itself."""
    with pytest.raises(ConfigError):
        parse_config(written({"models": [{"name": "m", **model}]}), "f.yaml")


@pytest.mark.parametrize("name", ["admin", "looper_ext_proc", "looper_traces", "model:m"])
def test_a_cluster_of_ours_is_no_models(name: str) -> None:
    """A model there would lead clients to Envoy's admin interface, or round in a circle."""
    with pytest.raises(ConfigError) as raised:
        parse_config(written({"models": [{"name": "m", "cluster": name}]}), "f.yaml")
    (problem,) = raised.value.problems
    assert "models[0].cluster" in problem


def test_a_cluster_that_is_not_in_the_file_is_told(tmp_path: Path) -> None:
    """With what it may have been meant to be; without such a file it may be in a bootstrap of the operator's."""
    models = {"models": [{"name": "m", "cluster": "vlm"}]}
    (tmp_path / "theirs.yaml").write_text(yaml.safe_dump([{"name": "vllm"}]))
    (tmp_path / "f.yaml").write_text(written({**models, "envoy": {"clusters": "theirs.yaml"}}))
    (warning,) = warnings(load(tmp_path / "f.yaml"))
    assert "models[0].cluster" in warning
    assert "vllm" in warning

    (tmp_path / "f.yaml").write_text(written(models))
    assert warnings(load(tmp_path / "f.yaml")) == []


def loaded(folder: Path, content: Any, key: str = "filters") -> Config:
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    (folder / "theirs.yaml").write_text(text)
    (folder / "f.yaml").write_text(written({"envoy": {key: "theirs.yaml"}}))
    return load(folder / "f.yaml").config


@pytest.mark.parametrize(
    ("key", "content", "words"),
    [
        ("filters", "a: b", "a list"),
        ("filters", "[a]", "a list"),
        ("filters", "- [", "theirs.yaml"),
        ("filters", "", "a list"),
        ("filters", [{**FILTER, "name": ""}], "item 1: has no `name`"),
        ("filters", [FILTER, {"name": "b"}], "item 2: has no `typed_config`"),
        ("filters", [FILTER, FILTER], "'mine' is there twice"),
        ("filters", [{**FILTER, "name": "looper.ext_proc"}], "taken"),
        ("filters", [{"name": "r", "typed_config": {"@type": ROUTER}}], "the router"),
        ("access_log", [{"name": "a"}], "has no `typed_config`"),
        ("routes", [{"name": "a"}], "neither a route"),
        ("routes", [{"name": "a", "domains": ["*"]}], "is ours"),
        ("routes", [{"domains": ["a.example"]}], "has no `name`"),
        ("clusters", [{"type": "STATIC"}], "has no `name`"),
        ("clusters", [{"name": "admin"}], "taken"),
        ("clusters", [{"name": "model:m"}], "taken"),
    ],
)
def test_a_file_of_envoys_is_looked_into(
    key: str, content: Any, words: str, tmp_path: Path
) -> None:
    """Each thing that would have Envoy refuse its start, with the file's name."""
    with pytest.raises(ConfigError) as raised:
        loaded(tmp_path, content, key)
    (problem,) = raised.value.problems
    assert words in problem
    assert f"envoy.{key}" in problem


def test_a_file_may_be_where_envoy_is(tmp_path: Path) -> None:
    """A processor starts without it and agrees with routes that were made with it; only Envoy's files need it."""
    config = loaded(tmp_path, [FILTER])
    assert "name: mine" in render(config, directory="/e")["bootstrap.yaml"]

    (tmp_path / "theirs.yaml").unlink()
    without = load(tmp_path / "f.yaml")
    assert generation(without.config) == generation(config)
    assert warnings(without) == []
    assert any("envoy.filters: theirs.yaml is not there" in each for each in absences(without))
    with pytest.raises(ConfigError, match="not there"):
        render(without.config, directory="/e")


def test_a_change_of_a_file_is_a_change(tmp_path: Path) -> None:
    """So that `--watch` writes again, though the generation stays."""
    one = loaded(tmp_path, [FILTER])
    other = loaded(tmp_path, [{**FILTER, "name": "other"}])
    assert one != other
    assert (tmp_path / "theirs.yaml") in load(tmp_path / "f.yaml").files


# Versions...


@pytest.mark.parametrize("version", ["1.37", "1.38", "1.38.2", "v1.39.1", "1.39", "1.40"])
def test_what_a_version_lacks_is_left_out_and_said(version: str) -> None:
    """In the file's first lines, and to whoever writes it."""
    config = parse_config(written({"envoy": {"version": version}}), "f.yaml")
    text = render(config, directory="/e")["bootstrap.yaml"]
    old = config.envoy.version in ("1.37", "1.38")

    assert ("stats_scope:" in text) != old
    assert any("stats_scope" in each for each in left_out(config)) == old
    assert [line for line in text.splitlines() if line.startswith("# left out")] == [
        f"# left out for Envoy {config.envoy.version}: {each}" for each in left_out(config)
    ]


def test_the_newest_lacks_nothing() -> None:
    """A feature that no version has is none."""
    assert all(feature.is_in(NEWEST) and not feature.is_in(OLDEST) for feature in FEATURES)
