"""The shipped recipes are good configurations, for whoever has models to put into them."""

from pathlib import Path

import pytest
import yaml

from extproc.config import parse_config

RECIPES = Path(__file__).parents[3] / "extproc" / "recipes"
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
