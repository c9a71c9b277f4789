"""What is left out of files for an older Envoy."""

from typing import Any

import pytest

from extproc.bootstrap.older import fit

STATS = "type.googleapis.com/envoy.extensions.access_loggers.stats.v3.Config"
FILE = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"


def logger(**config: Any) -> dict[str, Any]:
    return {"name": "l", "typed_config": {"@type": STATS, "stats_scope": {"prefix": "p"}, **config}}


@pytest.mark.parametrize(("version", "told"), [("1.39", 1), ("1.40", 0)])
def test_who_writes_a_key_is_told_how(version: str, told: int) -> None:
    """Before 1.40 a newline at its end is a part of it; a key of the environment has none."""

    def secret(**source: str) -> dict[str, Any]:
        return {"resources": [{"name": "k", "generic_secret": {"secret": source}}]}

    assert len(fit({"sds-k.yaml": secret(filename="/k")}, version)) == told
    assert fit({"sds-k.yaml": secret(environment_variable="K")}, version) == []


@pytest.mark.parametrize(
    ("version", "left", "told"), [("1.37", 2, 2), ("1.38", 3, 1), ("1.39", 3, 0), ("1.40", 3, 0)]
)
def test_loggers_are_what_an_envoy_can_read(version: str, left: int, told: int) -> None:
    """Before 1.39 without a bound, before 1.38 without gauges; a logger that then counts nothing goes."""
    other = {"name": "o", "typed_config": {"@type": FILE}}
    loggers = [logger(gauges=[1]), logger(counters=[1], gauges=[1]), other]
    files = {"bootstrap.yaml": {"listeners": [{"deep": {"access_log": loggers}}]}}

    assert len(fit(files, version)) == told
    (listener,) = files["bootstrap.yaml"]["listeners"]
    found = listener["deep"]["access_log"]
    assert len(found) == left
    assert other in found
    for each in found[:-1]:
        config = each["typed_config"]
        assert ("stats_scope" in config) == (told == 0)
        assert config.get("stat_prefix") == (None if told == 0 else "p")
        assert ("gauges" in config) == (told < 2)
