"""What the README of decisions shows is so."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import TypeAdapter

from extproc.decisions.engine import Policy
from extproc.decisions.probe import Probes
from extproc.decisions.projections import ProjectionConfig
from extproc.decisions.recipe import Decision, Recipe
from extproc.signals import Subject
from looper.wire.chat import ChatRequest
from tests.contract.test_catalogue import kinds, sections

README = Path(__file__).parents[2] / "extproc" / "decisions" / "README.md"


def blocks(text: str) -> list[Any]:
    return [
        yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", text, re.M | re.S)
    ]


def test_every_projection_has_a_section_with_an_example() -> None:
    """As signals and algorithms have; and the example loads."""
    assert set(sections(README)) == kinds(ProjectionConfig)
    for kind, text in sections(README).items():
        (value,) = blocks(text)[0].values()
        assert TypeAdapter(ProjectionConfig).validate_python(value).type == kind
    assert len(get_args(get_args(ProjectionConfig)[0])) == len(sections(README))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "Prove that this is the better trade-off",
            {"decision": "hard", "shape.task": "proof", "band.difficulty": "hard"},
            id="proof",
        ),
        pytest.param(
            "Compare these two: ``` … ```",
            {"decision": "code", "shape.task": "code", "band.difficulty": "medium"},
            id="code",
        ),
        pytest.param(
            "Good morning",
            {"decision": "default", "shape.task": "chat", "band.difficulty": "easy"},
            id="neither",
        ),
    ],
)
async def test_the_example_does_what_is_said_of_it(text: str, expected: dict[str, str]) -> None:
    """The worked example is worked."""
    policy = Policy("p", Recipe.model_validate(blocks(README.read_text())[0]))
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    decided = await policy.decide(Subject(ChatRequest.parse(json.dumps(body).encode())))
    assert expected.items() <= decided.facts.items()


def test_what_is_shown_of_decisions_loads() -> None:
    """A guard as it is written there, and a team with what its models get."""
    shown = blocks(README.read_text())
    (guard,) = (block[0] for block in shown if isinstance(block, list))
    (gets,) = (block for block in shown if "parameters" in block)
    assert Decision.model_validate(guard).respond is not None
    algorithm = {"type": "single", "model": "small"}
    decision = Decision.model_validate({"name": "d", "algorithm": algorithm, **gets})
    assert decision.parameters.governed
    assert decision.headers.names == ("x-tenant", "x-internal-id")


def test_the_recipes_readme_shows_probes_that_load() -> None:
    """As it is written there."""
    readme = (README.parents[1] / "recipes" / "README.md").read_text()
    (shown,) = (block for block in blocks(readme) if "probes" in block)
    assert len(Probes.model_validate(shown).probes) == 2
