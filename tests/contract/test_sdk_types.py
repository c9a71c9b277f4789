"""What is sent in each dialect, held against the types of the SDK that defines it; and answers, against OpenAI's."""

import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from mistralai.client.models import ChatCompletionRequest
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)
from pydantic import TypeAdapter

from looper.calling.drafts import Draft, answering, private
from looper.wire.chat import ChatRequest
from tests.fakes.models import model

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"id": "call_1234567890", "type": "function", "function": {"name": "f", "arguments": "{}"}}
WISHES: dict[str, Any] = {
    "messages": [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "One"},
        {"role": "user", "content": [{"type": "text", "text": "Two"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": CALL["id"], "content": "three"},
        {"role": "user", "content": "Four"},
    ],
    **{"n": 1, "stop": ["x"], "seed": 1, "user": "u", "metadata": {"a": "b"}, "max_tokens": 9},
    **{"temperature": 0.5, "top_p": 0.5, "presence_penalty": 0.1, "frequency_penalty": 0.1},
    **{"logit_bias": {"1": 2}, "logprobs": True, "top_logprobs": 2},
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {"type": "object"}},
    },
    **{"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False},
    **{"reasoning_effort": "high", "service_tier": "auto", "store": False, "verbosity": "low"},
    **{"prediction": {"type": "content", "content": "x"}, "safety_identifier": "s"},
    **{"prompt_cache_key": "k", "prompt_cache_retention": "24h", "web_search_options": {}},
    **{"modalities": ["text"], "vendors_own": 1, "top_k": 5},
}
"""A request that wants everything, and some of it from another vendor."""


def drafts(dialect: str) -> list[Draft]:
    request = ChatRequest.parse(json.dumps({"model": "x", **WISHES}).encode())
    one = model("m", dialect=dialect, capabilities=["logprobs", "tools", "json_schema"])
    return [
        answering(request, one, "panel", instruction="Say why.", sample=1, alternatives=2),
        answering(request, one, "final", tools=True, logprobs=True, stream=True),
        answering(request, one, "single", tools=True, choices=True, temperature=0.1),
        private(request, one, "judge", instruction="Judge.", schema={"type": "object"}),
        answering(request, one, "final").again("No.", "Again."),
    ]


@pytest.mark.parametrize("dialect", ["openai", "openai-reasoning"])
def test_openai_is_sent_what_its_sdk_would_send(dialect: str) -> None:
    """Every member is one of its types', and has a value of its type."""
    for draft in drafts(dialect):
        body = json.loads(draft.call(64).body)
        type = (
            CompletionCreateParamsStreaming if draft.stream else CompletionCreateParamsNonStreaming
        )
        assert body.keys() <= type.__annotations__.keys()
        read = TypeAdapter(type).validate_python(body)
        assert len(list(read["messages"])) == len(body["messages"])
        assert (
            "max_tokens" not in body
        )  # which the SDK calls deprecated, and o-series models refuse


def test_a_reasoning_model_is_sent_nothing_that_it_refuses() -> None:
    """By the SDK's own remarks on members, and what the API says of sampling."""
    refused = {"stop", "temperature", "top_p", "presence_penalty", "frequency_penalty"}
    refused |= {"logit_bias", "logprobs", "top_logprobs"}
    for draft in drafts("openai-reasoning"):
        assert not refused & json.loads(draft.call(64).body).keys()


def test_mistral_is_sent_what_its_sdk_would_send() -> None:
    """Nothing that its type lacks, as the API refuses that with 422."""
    known = {field.alias or name for name, field in ChatCompletionRequest.model_fields.items()}
    for draft in drafts("mistral"):
        body = msgspec.json.decode(draft.call(64).body)
        assert body.keys() <= known
        read = ChatCompletionRequest.model_validate(body)
        assert read.max_tokens == 64
        if draft.role != "judge":
            assert isinstance(read.random_seed, int)
        roles = [message["role"] for message in body["messages"]]
        assert not [pair for pair in pairwise(roles) if pair == ("user", "user")]
