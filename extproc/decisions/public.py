"""What a model's own name stands for, where clients may use it: the guards of a recipe, and behind them the model."""

from extproc.decisions.recipe import Decision, Recipe
from looper.calling.models import Model
from looper.patterns.single import SingleConfig


def recipe_for(model: Model, recipe: Recipe) -> Recipe:
    """`recipe` with only those of its decisions that answer by themselves, and else the model."""
    guards = [decision for decision in recipe.decisions if decision.respond is not None]
    last = Decision(
        name="public",
        priority=min((guard.priority for guard in guards), default=0),
        algorithm=SingleConfig(type="single", model=model.name),
    )
    return recipe.model_copy(update={"decisions": (*guards, last)})
