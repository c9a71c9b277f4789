import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from extproc.bootstrap import render
from extproc.bootstrap.files import as_yaml
from extproc.config import Config, load_config, parse_config
from tests.fakes.configurations import written
from tests.fakes.envoy import envoy_path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {"OPENAI_API_KEY": "sk-test", "OPENROUTER_API_KEY": "sk-test"}


def validate(
    texts: dict[str, str], folder: Path, *, envoy: str | None = None, known: tuple[str, ...] = ()
) -> None:
    """Let Envoy judge the files. It looks at the bootstrap only, so a copy with all the rest in it is judged too.

    Warnings in which one of `known` stands are none.
    """
    for name, text in {**texts, "whole.yaml": whole(texts)}.items():
        (folder / name).write_text(text.replace("/etc/envoy", str(folder)))
    for name in ("bootstrap.yaml", "whole.yaml"):
        result = subprocess.run(
            [
                envoy or envoy_path(),
                "--mode",
                "validate",
                "-c",
                folder / name,
                "--log-level",
                "warning",
            ],
            env=ENVIRONMENT,
            check=False,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        assert not [
            line
            for line in result.stderr.splitlines()
            if "warning" in line and not _is_known(line, known)
        ]


def _is_known(warning: str, known: tuple[str, ...]) -> bool:
    """One filter, for the refusals of backends, is not declared stable. It reads no more than a status."""
    unstable = "custom_response" in warning and "marked as work-in-progress" in warning
    return unstable or any(each in warning for each in known)


def whole(texts: dict[str, str]) -> str:
    """The bootstrap with the watched clusters and routes as static ones."""
    bootstrap = yaml.safe_load(texts["bootstrap.yaml"])
    del bootstrap["dynamic_resources"]
    bootstrap["static_resources"]["clusters"] += resources(texts, "cds.yaml")
    bootstrap["static_resources"]["secrets"] = [
        *bootstrap["static_resources"].get("secrets", []),
        *(each for name in texts if name.startswith("sds-") for each in resources(texts, name)),
    ]
    for listener in bootstrap["static_resources"]["listeners"]:
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        if rds := manager.pop("rds", None):
            name = Path(rds["config_source"]["path_config_source"]["path"]).name
            (manager["route_config"],) = resources(texts, name)
    return as_yaml(bootstrap)


def resources(texts: dict[str, str], name: str) -> list[dict[str, Any]]:
    found = yaml.safe_load(texts[name])["resources"]
    return [{key: value for key, value in each.items() if key != "@type"} for each in found]


def committed() -> dict[str, str]:
    return {path.name: path.read_text() for path in (ROOT / "envoy").glob("*.yaml")}


def example(name: str, body_mode: str) -> Config:
    config = load_config(ROOT / "examples" / f"{name}.yaml")
    envoy = config.envoy.model_copy(update={"body_mode": body_mode})
    return config.model_copy(update={"envoy": envoy})


def test_committed_files_are_valid(tmp_path: Path) -> None:
    """The files in envoy/ are accepted by Envoy as they are, but for the folder that they are in."""
    validate(committed(), tmp_path)


def test_committed_files_are_current() -> None:
    """The files in envoy/ are what examples/demo.yaml renders to."""
    config = load_config(ROOT / "examples" / "demo.yaml")

    assert committed() == render(config, directory="/etc/envoy")


@pytest.mark.parametrize("body_mode", ["full_duplex", "buffered"])
@pytest.mark.parametrize("name", ["demo", "providers"])
def test_examples_are_valid(name: str, body_mode: str, tmp_path: Path) -> None:
    """What the examples render to is accepted without a warning, in both ways of exchanging bodies."""
    validate(render(example(name, body_mode), directory="/etc/envoy"), tmp_path)


def test_names_stay_names(tmp_path: Path) -> None:
    """Envoy's parser of YAML takes other words for truth values and numbers than the one that writes them."""
    names = ["n", "Y", "no", "On", "null", "1", "0x1f", "0o17", "010", "1e3", "0.5", "nan", "1_000"]
    models = [{"name": name, "url": "http://10.0.0.1"} for name in ["m", *names]]
    validate(
        render(parse_config(written({"models": models}), "f.yaml"), directory="/etc/envoy"),
        tmp_path,
    )


def test_a_mistake_in_a_watched_file_is_seen(tmp_path: Path) -> None:
    """The check above would fail for an unknown field in a cluster, though Envoy does not validate that file."""
    texts = render(example("demo", "full_duplex"), directory="/etc/envoy")
    texts["cds.yaml"] = texts["cds.yaml"].replace("connect_timeout", "conect_timeout")

    with pytest.raises(AssertionError, match="conect_timeout"):
        validate(texts, tmp_path)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:4317", "https://localhost:4317"])
def test_envoys_spans_are_valid(endpoint: str, protocol: str, tmp_path: Path) -> None:
    """Whichever way they go, and with TLS."""
    text = (ROOT / "examples" / "demo.yaml").read_text()
    tracing = {"otlp": {"endpoint": endpoint, "protocol": protocol}, "sample": 0.1}
    changed = {**yaml.safe_load(text), "envoy": {"tracing": tracing}}
    validate(
        render(parse_config(yaml.safe_dump(changed), "t.yaml"), directory="/etc/envoy"), tmp_path
    )
