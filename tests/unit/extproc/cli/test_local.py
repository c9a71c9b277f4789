"""A configuration is made this machine's for `looper up`, wherever it was written."""

import json
from pathlib import Path

from extproc.cli.up.local import Addresses, localised
from extproc.config import load_config
from looper.patterns.ratings import RatingsConfig

TEXT = """
version: 1
egress: unix:/run/looper/egress.sock
models: [{name: a, url: "http://a/v1"}, {name: b, url: "http://b/v1"}]
recipes: {general: {include: own.yaml}}
entrypoints: {looper/auto: general}
"""
OWN = """
models: {a: votes, b: votes too}
recipe:
  decisions: [{name: vote, algorithm: {type: ratings, models: [a, b], weights: weights.json}}]
"""
MEMBER = {"weight": 1.5, "rating": 0.7}
WEIGHTS = {
    "version": 1,
    "provenance": {"date": "2026-01-31", "rows": 100, "checksum": "sha256:" + "0" * 64},
    "teams": [{"members": {"a": MEMBER, "b": MEMBER}, "none_of_these": 1.0}],
}


def test_what_is_laid_over_envoy_comes_along(tmp_path: Path) -> None:
    """Files are found from elsewhere; TLS is not, as clients of this machine have no certificates."""
    home, folder = tmp_path / "home", tmp_path / "run"
    home.mkdir()
    folder.mkdir()
    kind = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"
    (home / "theirs.yaml").write_text(json.dumps([{"name": "a", "typed_config": {"@type": kind}}]))
    addresses = Addresses("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4", None, folder)
    laid = "envoy: {filters: theirs.yaml, tls: {certificate: /c, key: /k}}\n"
    own = TEXT.replace(
        "{include: own.yaml}", "{decisions: [{name: d, algorithm: {type: single, model: a}}]}"
    )

    config, path = localised(laid + own, str(home / "looper.yaml"), addresses)

    assert load_config(path) == config
    assert config.envoy.filters is not None
    assert config.envoy.filters.content is not None
    assert config.envoy.tls is None


def test_what_stands_beside_it_is_found_from_elsewhere(tmp_path: Path) -> None:
    """Included recipes are put in, and weights are named by their whole path, so that the copy can be read alone."""
    home, folder = tmp_path / "home", tmp_path / "run"
    home.mkdir()
    folder.mkdir()
    (home / "own.yaml").write_text(OWN)
    (home / "weights.json").write_text(json.dumps(WEIGHTS))
    addresses = Addresses("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4", None, folder)

    config, path = localised(TEXT, str(home / "looper.yaml"), addresses)

    assert load_config(path) == config
    algorithm = config.recipes["general"].decisions[0].algorithm
    assert isinstance(algorithm, RatingsConfig)
    assert algorithm.weights is not None
    assert config.egress == f"unix:{folder}/egress.sock"
