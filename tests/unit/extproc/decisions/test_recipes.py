"""The shipped recipes are good configurations, for whoever has models to put into them."""

from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from extproc.cli.offline import asking
from extproc.cli.probe.probing import probe
from extproc.config import Config, Loaded, parse, parse_config, warnings
from extproc.decisions.engine import Policy
from extproc.decisions.probe import Probes
from extproc.signals import Subject
from looper.calling.cost import worst_case
from looper.calling.models import Model, Price

RECIPES = Path(__file__).parents[4] / "extproc" / "recipes"
FILES = sorted(path for path in RECIPES.glob("*.yaml") if not path.name.endswith(".probes.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_a_good_one(path: Path) -> None:
    """With a model for each that it names and no other, a recipe loads; it is short, and each is for something."""
    file = yaml.safe_load(path.read_text())
    config = {
        "version": 1,
        "egress": "unix:/egress.sock",
        "models": [{"name": name, "url": "http://127.0.0.1:1/v1"} for name in file["models"]],
        "recipes": {path.stem: file["recipe"]},
        "entrypoints": {"looper/auto": path.stem},
    }
    recipe = parse_config(yaml.safe_dump(config), path.name).recipes[path.stem]

    named = {name for decision in recipe.decisions for _, name in decision.members()}
    assert named == file["models"].keys()
    assert all(file["models"].values())
    assert len(path.read_text().splitlines()) <= 120


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_a_shipped_recipe_passes_its_probes(path: Path) -> None:
    """And they come to every decision that it has."""
    report = await probe(path)
    failed = {each.probe.title: each.problems for each in report.probed if each.problems}
    assert failed == {}
    assert report.unreached == ()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_probes_are_worth_something(path: Path) -> None:
    """At least 25, of requests that it is for, that it is not for, and that look as if; in three languages."""
    text = path.with_suffix(".probes.yaml").read_text(encoding="utf-8")
    probes = Probes.model_validate(yaml.safe_load(text)).probes
    tags = Counter(tag for each in probes for tag in each.tags)
    languages = [tag for tag, times in tags.items() if len(tag) == 2 and times >= 2]
    assert len(probes) >= 25
    assert len(languages) >= 3
    assert min(tags["positive"], tags["negative"]) >= 5
    assert tags["collision"] >= 3


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_what_nothing_is_for_goes_to_one_cheap_model(path: Path) -> None:
    """A catch-all is no team: everyday requests cost what one model costs."""
    config = included(path.stem)
    policy = Policy("it", config.recipes["it"])
    last = policy.decisions[-1]
    assert (last.label, [name for _, name in last.members()]) == ("single", ["cheap"])
    for text in ("fix my tree widget", "hello", "Danke!", "明天见", "¿Qué tal?", "Спасибо", ""):
        decided = await policy.decide(Subject(asking(text, "m")))
        assert decided.decision is last, text


def included(name: str) -> Config:
    return loaded(name).config


def loaded(name: str) -> Loaded:
    """A configuration that includes a shipped recipe, with a model for each that it names."""
    models = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())["models"]
    config = {
        "version": 1,
        "egress": "unix:/egress.sock",
        "models": [{"name": each, "url": "http://127.0.0.1:1/v1"} for each in models],
        "recipes": {"it": {"include": name}},
        "entrypoints": {"looper/auto": "it"},
    }
    return parse(yaml.safe_dump(config), "f.yaml")


def test_the_budget_recipe_keeps_its_promise() -> None:
    """One call for each request, by the cheapest model or by one that costs no more than 1.3 times as much."""
    cheap = Model.model_validate(
        {"name": "cheap", "url": "http://c/v1", "price": {"input": 1, "output": 4}, "max_output": 1000}
    )  # fmt: skip
    near = cheap.model_copy(update={"name": "near", "price": Price(input=1.3, output=5.2)})
    models = {"cheap": cheap, "near": near}
    for decision in included("budget").recipes["it"].decisions:
        worst = worst_case(decision.planned(), models, prompt_tokens=3000)
        least = worst_case(
            included("budget").recipes["it"].decisions[-1].planned(), models, prompt_tokens=3000
        )
        assert decision.is_routed
        assert worst.calls == 1
        assert worst.microusd is not None
        assert least.microusd is not None
        assert worst.microusd <= least.microusd * Decimal("1.3")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nothing_in_it_is_hardly_meant(path: Path) -> None:
    """`looper check` has nothing to say of it, but that models without a price or a limit cannot be added up."""
    assert [text for text in warnings(loaded(path.stem)) if "only its budget" not in text] == []
