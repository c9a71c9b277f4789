"""Problems of a configuration in words: where they are, and what was probably meant."""

import re
from collections.abc import Iterator
from difflib import get_close_matches

from pydantic import BaseModel, ValidationError

from extproc.config.model import Config
from extproc.config.yaml_source import Path as YamlPath
from extproc.config.yaml_source import Problem, YamlSource
from looper.settings.wording import in_words


def explain(
    error: ValidationError, source: YamlSource, model: type[BaseModel] = Config
) -> list[Problem]:
    """Pydantic's errors where they were written, with a suggestion for a misspelt key or word."""
    problems: dict[YamlPath, str] = {}
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        path = _yaml_path(item["loc"], source, missing=item["type"] == "missing")
        text = in_words(item)
        if item["type"] == "extra_forbidden":
            text = _misspelt(item["loc"], model)
        if item["type"] == "string_type":
            text = _no_text(text, path, source)
        if item["type"] in ("literal_error", "union_tag_invalid"):
            text = _meant(text, _value_at(path, source))
        problems.setdefault(path, text)  # of the members of a union, the first says enough
    return source.placed(
        (path, text)
        for path, text in problems.items()
        # Of the members of a union, the one that got further into the value is the one that was meant.
        if not any(other[: len(path)] == path and other != path for other in problems)
    )


def _yaml_path(loc: tuple[str | int, ...], source: YamlSource, *, missing: bool) -> YamlPath:
    """Pydantic's location without what is no key of the file: the tags of unions, and marks of its own."""
    if loc[-1:] == ("[key]",):
        return (*_yaml_path(loc[:-2], source, missing=False), str(loc[-2]))
    path: YamlPath = ()
    value = source.data
    tagged = False
    for part in loc:
        # The tag of `any: […]` is `any` as well, so that it has to be known by where it stands.
        tagged = (_at_rule(path) or _is_type(value, part)) and not tagged
        inside = (isinstance(value, dict) and part in value) or _is_index(value, part)
        if inside and not tagged:
            value, path = value[part], (*path, part)
    return (*path, loc[-1]) if missing else path


def _at_rule(path: YamlPath) -> bool:
    """Whether a rule stands at `path`: pydantic's location then goes on with the rule's tag."""
    if path[-1:] in (("when",), ("not",)):
        return True
    if path[-2:-1] == ("members",) and "projections" in path:
        return True
    return len(path) > 1 and path[-2] in ("all", "any") and isinstance(path[-1], int)


def _is_type(value: object, part: str | int) -> bool:
    """Whether `part` is the tag of a kind; of one kind, `model`, the tag is also the name of a key."""
    return isinstance(value, dict) and value.get("type") == part


def _is_index(value: object, part: str | int) -> bool:
    return isinstance(value, list) and isinstance(part, int) and part < len(value)


def _misspelt(loc: tuple[str | int, ...], model: type[BaseModel]) -> str:
    close = get_close_matches(str(loc[-1]), _keys_beside(loc, model), n=1)
    return f"unknown key; did you mean {close[0]!r}?" if close else "unknown key"


def _written(path: YamlPath, source: YamlSource) -> object:
    value: object = source.data
    for part in path:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part]
    return value


def _value_at(path: YamlPath, source: YamlSource) -> object:
    value = _written(path, source)
    return value.get("type") if isinstance(value, dict) else value


def _no_text(text: str, path: YamlPath, source: YamlSource) -> str:
    """What stands where a text should, if that tells what was meant."""
    value = _written(path, source)
    if _at_rule(path) and isinstance(value, dict | list):
        return f"{_RULE}{_meant_rule(value)}"
    if isinstance(value, bool):
        word = "true" if value else "false"
        return f"{text}: YAML reads words such as yes, no, on and off as {word}; put it in quotes"
    return f"{text}: put it in quotes" if isinstance(value, int | float) else text


_RULE = "a rule is a name, or one of `all: […]`, `any: […]` and `not: …`"
_OTHER_WORDS = {"or": "any", "and": "all", "one_of": "any", "all_of": "all", "none": "not"}


def _meant_rule(value: dict[str, object] | list[object]) -> str:
    if isinstance(value, list):
        return ": of a list, is it `all` or `any`?"
    meant = next(
        (_OTHER_WORDS[key.lower()] for key in value if str(key).lower() in _OTHER_WORDS), None
    )
    return f"; did you mean `{meant}`?" if meant else ""


_WORD = re.compile(r"'([^']*)'")


def _meant(text: str, written: object) -> str:
    """The message with the word of those it allows that is most like what was written."""
    allowed = _WORD.findall(text.partition("expected")[2] or text)
    close = get_close_matches(str(written), allowed, n=1) if isinstance(written, str) else []
    return f"{text}; did you mean {close[0]!r}?" if close else text


def _keys_beside(loc: tuple[str | int, ...], model: type[BaseModel]) -> list[str]:
    """The keys that the schema knows beside the last part of `loc`, found by walking the JSON schema.

    Of a union, those of the member that is meant.
    """
    schema = model.model_json_schema(by_alias=True)
    nodes = [schema]
    for part in loc[:-1]:
        tagged = [node for node in nodes if _is_of(node, part)]
        inner = [below for node in nodes for below in _descend(node, part, schema)]
        # One that is the only one was told from others before: this is a key of it.
        nodes = (tagged if len(nodes) > 1 else []) or inner or nodes
    return [key for node in nodes for key in node.get("properties", {})]


def _is_of(node: dict, part: str | int) -> bool:  # type: ignore[type-arg]  # JSON schema
    """Whether `part` is no key, but says that of a union this one is meant."""
    return bool(node.get("properties", {}).get("type", {}).get("const") == part)


def _descend(node: dict, part: str | int, schema: dict) -> Iterator[dict]:  # type: ignore[type-arg]  # JSON schema
    if isinstance(part, int):
        inner = node.get("items")
    else:
        named = node.get("properties", {}).get(part) or node.get("additionalProperties")
        inner = named or next(iter(node.get("patternProperties", {}).values()), None)
    if isinstance(inner, dict):
        yield from _resolve(inner, schema)


def _resolve(node: dict, schema: dict) -> Iterator[dict]:  # type: ignore[type-arg]  # JSON schema
    if "$ref" in node:
        yield from _resolve(schema["$defs"][node["$ref"].rpartition("/")[2]], schema)
    elif options := node.get("anyOf") or node.get("oneOf"):
        for option in options:
            yield from _resolve(option, schema)
    else:
        yield node
