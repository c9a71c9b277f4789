"""The names of attributes are those of the conventions, as OpenTelemetry's own package has them."""

import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes, http_attributes

from extproc.tracing import names
from looper.calling.models import Model

_GROUPS = (gen_ai_attributes, error_attributes, http_attributes)
CURRENT = {
    value
    for group in _GROUPS
    for name, value in vars(group).items()
    if name.isupper() and isinstance(value, str)
}
OURS = {
    value
    for name, value in vars(names).items()
    if name.isupper() and isinstance(value, str) and "." in value
}
REPLACED = {"gen_ai.system", "gen_ai.usage.prompt_tokens", "gen_ai.usage.completion_tokens"}


def test_each_name_is_in_the_conventions_and_none_was_replaced() -> None:
    assert len(OURS) > 8
    assert OURS <= CURRENT - REPLACED


def test_operations_are_words_of_the_conventions() -> None:
    known = {each.value for each in gen_ai_attributes.GenAiOperationNameValues}
    assert set(names.OPERATIONS.values()) <= known


@pytest.mark.parametrize(
    ("dialect", "provider"),
    [
        (None, "openai"),
        ("openai-reasoning", "openai"),
        ("vllm", "openai"),
        ("mistral", "mistral_ai"),
        ("anthropic-compat", "anthropic"),
        ("gemini-compat", "gcp.gemini"),
        ({"open": True}, "openai"),
    ],
)
def test_a_provider_is_whose_api_it_is(dialect: object, provider: str) -> None:
    said = {} if dialect is None else {"dialect": dialect}
    model = Model.model_validate({"name": "m", "url": "http://m/v1", **said})
    assert names.provider(model) == provider
    assert provider in {each.value for each in gen_ai_attributes.GenAiProviderNameValues}
