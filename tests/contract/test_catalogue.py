"""Every kind of signal, algorithm and contract is described, with an example that loads."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel, TypeAdapter

from extproc.config import parse_config
from extproc.signals import SignalConfig
from looper.algorithms import AlgorithmConfig
from looper.contract import ContractConfig

ROOT = Path(__file__).parents[2]
SIGNALS = ROOT / "extproc" / "signals" / "README.md"
CONTRACTS = ROOT / "looper" / "contract" / "README.md"
ALGORITHMS = ROOT / "looper" / "README.md"


def members(union: Any) -> tuple[type[BaseModel], ...]:
    """The models of a union, with or without a discriminator; one model is a union of one."""
    if isinstance(union, type):
        return (union,)
    first, *_ = get_args(union)
    return get_args(first) or get_args(union)


def kinds(union: Any) -> set[str]:
    return {get_args(member.model_fields["type"].annotation)[0] for member in members(union)}


def sections(readme: Path) -> dict[str, str]:
    """The text under each heading that names a kind."""
    parts = re.split(r"^## ", readme.read_text(), flags=re.MULTILINE)[1:]
    named = (re.match(r"`(\w+)`\n(.*)", part, re.DOTALL) for part in parts)
    return {match[1]: match[2] for match in named if match}


@pytest.mark.parametrize(
    ("union", "readme"),
    [
        pytest.param(SignalConfig, SIGNALS, id="signals"),
        pytest.param(AlgorithmConfig, ALGORITHMS, id="algorithms"),
        pytest.param(ContractConfig, CONTRACTS, id="contracts"),
    ],
)
def test_every_kind_has_a_section(union: Any, readme: Path) -> None:
    """The catalogue has a section for each kind in the union, and for nothing else."""
    assert set(sections(readme)) == kinds(union)


@pytest.mark.parametrize(
    ("union", "readme"),
    [
        pytest.param(SignalConfig, SIGNALS, id="signals"),
        pytest.param(AlgorithmConfig, ALGORITHMS, id="algorithms"),
        pytest.param(ContractConfig, CONTRACTS, id="contracts"),
    ],
)
def test_every_section_has_an_example_that_loads(union: Any, readme: Path) -> None:
    """The first YAML block of each section is a working example of its kind."""
    for kind, text in sections(readme).items():
        block = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
        assert block is not None, kind
        (value,) = yaml.safe_load(block[1]).values()
        assert TypeAdapter(union).validate_python(value).type == kind


def test_the_readmes_configuration_loads() -> None:
    """The configuration that the README shows is a good one."""
    readme = (ROOT / "README.md").read_text()
    block = re.search(r"```yaml\n(.*?)```", readme, re.DOTALL)
    assert block is not None
    assert parse_config(block[1], "README.md").entrypoints == {"looper/auto": "general"}


def words(value: Any) -> set[str]:
    """Every text in a tree of YAML."""
    match value:
        case dict():
            return {word for each in value.values() for word in words(each)}
        case list():
            return {word for each in value for word in words(each)}
        case _:
            return {str(value)}


@pytest.mark.parametrize("kind", sorted(kinds(AlgorithmConfig)))
def test_every_algorithm_names_all_of_its_models(kind: str) -> None:
    """A data policy is held against what an algorithm says its members are, so that none may be missing."""
    text = sections(ALGORITHMS)[kind]
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        written = yaml.safe_load(block)
        if not isinstance(written, dict) or "algorithm" not in written:
            continue
        config = TypeAdapter[Any](AlgorithmConfig).validate_python(written["algorithm"])
        named = words(written["algorithm"]) & {"small", "other", "third", "large"}
        assert {name for _, name in config.members()} == named
