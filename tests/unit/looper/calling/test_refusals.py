"""Errors as providers and servers write them, and the one word that is kept of each."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from looper.calling.refusals import MAX_BODY, READ, is_rate_limit, named, refusal, said


def openai(message: str, code: Any = None, type: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": message, "type": type, "param": "messages", "code": code}}


def flat(message: Any, code: Any = 400, type: str = "BadRequestError") -> dict[str, Any]:
    return {"object": "error", "message": message, "type": type, "param": None, "code": code}


AZURE_FILTER = {
    "error": {
        "message": "The response was filtered due to the prompt triggering a policy.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": {"violence": {"filtered": True, "severity": "high"}},
        },
    }
}
AZURE_INNER = {
    "error": {"code": None, "innererror": {"code": "ResponsibleAIPolicyViolation"}, "message": ""}
}
GEMINI = [
    {
        "error": {
            "code": 400,
            "message": "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
            "status": "INVALID_ARGUMENT",
        }
    }
]
MISTRAL_FIELD = flat(
    {"detail": [{"type": "extra_forbidden", "loc": ["body", "store"], "input": True}]},
    type="invalid_request_error",
)
NESTED = {
    "error": {
        "message": "Provider returned error",
        "code": 400,
        "metadata": {
            "raw": json.dumps(openai("Too much.", "context_length_exceeded")),
            "provider_name": "P",
        },
    }
}
TPM = openai("Request too large for model `m` on tokens per minute", "rate_limit_exceeded")


LENGTH, FILTER = "context_length_exceeded", "content_filter"
UNSUPPORTED, OTHER = "unsupported_by_model", "invalid_request"


@pytest.mark.parametrize(
    ("status", "body", "kept"),
    [
        pytest.param(
            400, openai("Too long.", "context_length_exceeded"), LENGTH, id="openai-length"
        ),
        pytest.param(
            400,
            openai("Input tokens exceed the configured limit of 272000 tokens."),
            LENGTH,
            id="openai-tokens",
        ),
        pytest.param(
            400,
            openai(
                "Invalid 'messages[0].content': string too long. Expected a string with maximum length 10485760",
                "string_above_max_length",
            ),
            LENGTH,
            id="openai-string",
        ),
        pytest.param(
            400,
            openai(
                "Invalid 'user': string too long. Expected a string with maximum length 64",
                "string_above_max_length",
            ),
            OTHER,
            id="openai-user",
        ),
        pytest.param(
            400,
            openai("Invalid prompt: your prompt was flagged", "invalid_prompt"),
            FILTER,
            id="openai-flagged",
        ),
        pytest.param(400, openai("No.", "content_policy_violation"), FILTER, id="openai-policy"),
        pytest.param(
            400,
            openai("Unsupported value: 'temperature'", "unsupported_value"),
            UNSUPPORTED,
            id="openai-value",
        ),
        pytest.param(
            400,
            openai("Unrecognized request argument supplied: top_k"),
            UNSUPPORTED,
            id="openai-argument",
        ),
        pytest.param(400, openai("[] is too short - 'messages'"), OTHER, id="openai-other"),
        pytest.param(400, AZURE_FILTER, FILTER, id="azure"),
        pytest.param(400, AZURE_INNER, FILTER, id="azure-inner"),
        pytest.param(
            400,
            flat("This model's maximum context length is 8192 tokens. However, you requested 9000"),
            LENGTH,
            id="vllm",
        ),
        pytest.param(
            400,
            {
                "error": {
                    "message": "The decoder prompt (length 9000) is longer than the maximum model length of 8192.",
                    "code": 400,
                }
            },
            LENGTH,
            id="vllm-decoder",
        ),
        pytest.param(
            400,
            flat(
                '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
            ),
            UNSUPPORTED,
            id="vllm-tools",
        ),
        pytest.param(400, flat("qwen is not a multimodal model"), UNSUPPORTED, id="vllm-vision"),
        pytest.param(
            400,
            {
                "type": "error",
                "error": {
                    "type": "invalid_request_error",
                    "message": "prompt is too long: 208310 tokens > 200000 maximum",
                },
            },
            LENGTH,
            id="anthropic",
        ),
        pytest.param(
            400,
            openai("input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"),
            LENGTH,
            id="anthropic-sum",
        ),
        pytest.param(
            413,
            {"type": "error", "error": {"type": "request_too_large", "message": "x"}},
            LENGTH,
            id="anthropic-413",
        ),
        pytest.param(
            400, openai("Output blocked by content filtering policy"), FILTER, id="anthropic-filter"
        ),
        pytest.param(400, GEMINI, LENGTH, id="gemini-list"),
        pytest.param(
            400,
            flat(
                "Prompt contains 40960 tokens, too large for model with 32768 maximum context length",
                "3051",
            ),
            LENGTH,
            id="mistral",
        ),
        pytest.param(422, MISTRAL_FIELD, UNSUPPORTED, id="mistral-field"),
        pytest.param(
            400,
            {"error": {"code": 400, "type": "exceed_context_size_error", "n_ctx": 4096}},
            LENGTH,
            id="llama.cpp",
        ),
        pytest.param(
            422,
            {
                "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096",
                "error_type": "validation",
            },
            LENGTH,
            id="tgi",
        ),
        pytest.param(400, openai("Content Exists Risk"), FILTER, id="deepseek"),
        pytest.param(400, openai("This model's maximum prompt length is 131072"), LENGTH, id="xai"),
        pytest.param(
            400, {"code": "data_inspection_failed", "message": "x"}, FILTER, id="dashscope"
        ),
        pytest.param(
            400,
            {"code": "InvalidParameter", "message": "Range of input length should be [1, 30720]"},
            LENGTH,
            id="dashscope-length",
        ),
        pytest.param(413, TPM, LENGTH, id="groq-413"),
        pytest.param(400, NESTED, LENGTH, id="openrouter-nested"),
        pytest.param(
            403, openai("Your input was flagged", 403), FILTER, id="openrouter-moderation"
        ),
        pytest.param(
            404,
            openai("No endpoints found that support tool use", 404),
            UNSUPPORTED,
            id="openrouter-tools",
        ),
        pytest.param(
            404, openai("The model `m` does not exist", "model_not_found"), None, id="no-such-model"
        ),
        pytest.param(
            403,
            openai(
                "Country, region, or territory not supported",
                "unsupported_country_region_territory",
            ),
            None,
            id="no-such-country",
        ),
        pytest.param(400, "", OTHER, id="nothing"),
        pytest.param(413, "<html>nginx</html>", LENGTH, id="proxy-413"),
        pytest.param(422, "<html>Unprocessable</html>", OTHER, id="proxy-422"),
    ],
)
def test_a_refusal_becomes_one_of_our_words(status: int, body: Any, kept: str | None) -> None:
    raw = body if isinstance(body, str) else json.dumps(body)
    assert status in READ
    assert refusal(status, raw.encode()) == kept


@pytest.mark.parametrize(
    "words",
    [
        "The input (4096 tokens) is longer than the model's context length (1024 tokens).",
        "Requested token count exceeds the model's maximum context length of 8192 tokens.",
        "Trying to keep the first 5120 tokens when context the overflows. However, the model is loaded with context "
        "length of only 4096 tokens, which is not enough.",
        "The number of tokens to keep from the initial prompt is greater than the context length.",
        "Reached context length of 4096 tokens, but this model does not support mid-generation context overflow.",
        "Invalid request: Your request exceeded model token limit: 8192",
        "Input validation error: `inputs` must have less than 1024 tokens. Given: 4000",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens",
        "Prompt exceeds max length",
        "Prompt 超长",
        "the request exceeds the available context size. try increasing the context size",
    ],
)
@pytest.mark.parametrize("shape", [openai, flat])
def test_too_long_has_many_words(words: str, shape: Any) -> None:
    """As sglang, LM Studio, Moonshot, TGI, Zhipu and llama.cpp say it."""
    assert refusal(400, json.dumps(shape(words)).encode()) == LENGTH


@pytest.mark.parametrize(
    ("body", "limited"),
    [
        (openai("Request too large for model on tokens per minute (TPM).", "rate_limit_exceeded"), True),
        ({"type": "error", "error": {"type": "rate_limit_error", "message": "x"}}, True),
        (openai("Too long.", "context_length_exceeded"), False),
        (openai("The word rate_limit_exceeded alone says nothing."), False),
    ],
)  # fmt: skip
def test_quota_is_told_by_its_code(body: Any, limited: bool) -> None:
    """Whatever the status; words about it may be of anything."""
    assert is_rate_limit(json.dumps(body).encode()) is limited


def test_a_body_that_is_cut_off_says_as_much_as_there_is() -> None:
    body = json.dumps(openai("Too long.", "context_length_exceeded") | {"trace": "x" * 20_000})
    assert refusal(400, body.encode()[:MAX_BODY]) == "context_length_exceeded"


@given(st.sampled_from(sorted(READ)), st.binary(max_size=300))
def test_any_bytes_are_one_of_our_words_or_none(status: int, body: bytes) -> None:
    assert refusal(status, body) in {LENGTH, FILTER, UNSUPPORTED, OTHER, None}


@pytest.mark.parametrize("unit", ['"code":"', '\\"', "exceeds the ", '"code" ' + " " * 50])
def test_hostile_bodies_take_no_time(unit: str) -> None:
    body = (unit * MAX_BODY).encode()
    began = time.process_time()
    assert said(body) is None
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    ("body", "member"),
    [
        pytest.param({"error": {"param": "logprobs", "code": "unsupported_parameter"}}, "logprobs", id="param"),
        pytest.param({"error": {"param": "response_format.type"}}, "response_format", id="inside-one"),
        pytest.param({"error": {"param": "messages[0].content"}}, "messages", id="item-of-one"),
        pytest.param(MISTRAL_FIELD, "store", id="place"),
        pytest.param({"error": {"param": None, "message": "Unsupported parameter: 'seed'."}}, "seed", id="quoted"),
        pytest.param({"message": "`logit_bias` is not supported"}, "logit_bias", id="ticks"),
        pytest.param({"raw": json.dumps({"param": "temperature"})}, "temperature", id="nested"),
        pytest.param({"error": {"message": "'secret_of_ours' is not permitted"}}, None, id="not-of-the-api"),
        pytest.param({"error": {"param": "secret_of_ours"}}, None, id="param-not-of-the-api"),
        pytest.param({"error": "unsupported", "user": "x", "metadata": 1}, None, id="keys-are-no-names"),
        pytest.param({}, None, id="nothing"),
    ],
)  # fmt: skip
def test_a_member_is_named_if_it_is_one_of_openais(body: Any, member: str | None) -> None:
    """Nothing else of an error is shown to anybody."""
    assert named(json.dumps(body).encode()) == member
