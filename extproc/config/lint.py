"""What is no error in a configuration, but hardly meant."""

from extproc.config.model import Config
from extproc.decisions.budgets import over_budget
from extproc.decisions.engine import reachable
from extproc.decisions.recipe import Recipe


def warnings(config: Config) -> list[str]:
    """What is no error, but hardly meant."""
    found = []
    models = {model.name: model for model in config.models}
    for name, recipe in config.recipes.items():
        for decision in recipe.decisions:
            found += [
                f"recipes.{name}.{decision.name}: {text}" for text in over_budget(decision, models)
            ]
        found += [f"recipes.{name}.{each}: can never be reached" for each in _unreachable(recipe)]
        found += [
            f"recipes.{name}.allow_tags: no model has the tag {tag!r}"
            for tag in sorted((recipe.allow_tags or frozenset()) - _tags(config))
        ]
    return found


def _tags(config: Config) -> frozenset[str]:
    return frozenset(tag for model in config.models for tag in model.tags)


def _unreachable(recipe: Recipe) -> list[str]:
    reached = reachable(recipe)
    return [decision.name for decision in recipe.decisions if decision not in reached]
