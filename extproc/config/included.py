"""How a recipe is written that is included from elsewhere: what an editor and a suggestion know of it."""

from types import GenericAlias
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, Field, create_model
from pydantic.fields import FieldInfo

from extproc.decisions.recipe import Decision, Recipe
from looper.settings import Name, Setting


def is_by_name(key: str) -> bool:
    """Whether a recipe's member is a mapping of named things, such as signals."""
    field = Recipe.model_fields.get(key)
    return field is not None and get_origin(field.annotation) is dict


def _optional(field: FieldInfo) -> Any:
    """The type of a member that may be left out, or set back to its default with null."""
    kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return (kind | None, Field(default=None, alias=field.alias, description=field.description))


ChangedDecision: type[BaseModel] = create_model(
    "ChangedDecision",
    __base__=Setting,
    __doc__="What is different in a decision of an included recipe; a new one needs an algorithm.",
    **{key: _optional(field) for key, field in Decision.model_fields.items() if key != "name"},
)


def _changes(key: str, field: FieldInfo) -> Any:
    if key == "decisions":
        return (dict[Name, ChangedDecision | None], Field(default_factory=dict))
    if is_by_name(key):
        name, value = get_args(field.annotation)
        return (GenericAlias(dict, (name, value | None)), Field(default_factory=dict))
    return _optional(field)


IncludedRecipe: type[BaseModel] = create_model(
    "IncludedRecipe",
    __base__=Setting,
    __doc__="A recipe that is included, with who its models are, and what is different here.",
    include=(
        str,
        Field(description="a shipped recipe's name, or the path of a YAML file beside this one"),
    ),
    models=(
        dict[str, str],
        Field(default_factory=dict, description="this file's model for each role of the recipe"),
    ),
    **{key: _changes(key, field) for key, field in Recipe.model_fields.items()},
)

RecipeOrInclude = Annotated[
    Recipe,
    # By the time a recipe is validated, what it includes stands in it.
    BeforeValidator(lambda value: value, json_schema_input_type=Recipe | IncludedRecipe),
]
