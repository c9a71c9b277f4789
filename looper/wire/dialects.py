"""What upstreams make of OpenAI's chat completions: which members they take, under which names."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from looper.settings import Setting

ToolCallIds = Literal["any", "max40", "alnum9"]
Effort = Literal["reasoning_effort", "thinking_budget", "enable_thinking", "none"]

Constraint = Literal["structured_outputs", "guided", "none"]

STANDARD = frozenset(
    {
        *("model", "messages", "stream", "stream_options", "n", "stop", "seed", "user", "metadata"),
        *("max_tokens", "max_completion_tokens", "temperature", "top_p", "presence_penalty"),
        *("frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "response_format"),
        *("tools", "tool_choice", "parallel_tool_calls"),
        *("reasoning_effort", "modalities", "audio", "prediction", "service_tier", "store"),
        *("verbosity", "web_search_options", "safety_identifier", "prompt_cache_key"),
        *("prompt_cache_options", "prompt_cache_retention", "moderation"),
    }
)
"""The members that OpenAI's API knows, without those of its older one, which no call has; others are vendors' own."""


class Dialect(Setting):
    """How an upstream wants to be spoken to."""

    max_tokens: Literal["max_tokens", "max_completion_tokens"] = Field(
        default="max_tokens", description="the one name of the token limit"
    )
    drop: frozenset[str] = Field(default=frozenset(), description="members that it refuses")
    names: dict[str, str] = Field(
        default_factory=dict, description="members that it knows by another name"
    )
    roles: dict[str, str] = Field(
        default_factory=dict, description="roles that it knows by another name"
    )
    merge: bool = Field(default=False, description="neighbours of the same role become one message")
    apart: bool = Field(
        default=False,
        description="what teams tell it is a message of its own, and no end of the client's last one",
    )
    finish_reason: bool = Field(
        default=True,
        description="whether its streams say how an answer ended; false: its server never does",
    )
    tool_call_ids: ToolCallIds = Field(
        default="any", description="max40: at most 40 characters; alnum9: nine letters and digits"
    )
    effort: Effort = Field(default="reasoning_effort", description="how reasoning effort is said")
    constrain: Constraint = Field(
        default="none",
        description="how it is told what values, or which expression, an answer is to be: structured_outputs, guided",
    )
    thinks_outside: bool = Field(
        default=False,
        description="whether such a grammar binds its answer only, and it may think before that",
    )
    open: bool = Field(default=False, description="whether vendors' own members pass")


_OPENAI_ONLY = frozenset(
    {"store", "metadata", "service_tier", "prediction", "web_search_options", "safety_identifier"}
    | {"prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "moderation"}
    | {"verbosity", "user"}
)
_NOT_OF_A_SERVER = frozenset({"store", "metadata", "service_tier", "prediction", "moderation"}) | {
    "web_search_options"
}

DIALECTS: dict[str, Dialect] = {
    "openai": Dialect(max_tokens="max_completion_tokens", tool_call_ids="max40"),
    "openai-reasoning": Dialect(
        max_tokens="max_completion_tokens",
        drop=frozenset(
            {"temperature", "top_p", "presence_penalty", "frequency_penalty"}
            | {"logprobs", "top_logprobs", "logit_bias", "stop"}
        ),
        roles={"system": "developer"},
        tool_call_ids="max40",
    ),
    "vllm": Dialect(
        drop=_NOT_OF_A_SERVER,
        roles={"developer": "system"},
        constrain="structured_outputs",
        open=True,
    ),
    "sglang": Dialect(
        drop=_NOT_OF_A_SERVER,
        roles={"developer": "system"},
        open=True,
    ),
    "mistral": Dialect(
        # Usage comes in its streams unasked; its tiers of service are others than OpenAI's.
        drop=(_OPENAI_ONLY - {"metadata", "prediction", "prompt_cache_key"})
        | {"logit_bias", "modalities", "audio", "stream_options"},
        names={"seed": "random_seed"},
        roles={"developer": "system"},
        merge=True,
        tool_call_ids="alnum9",
    ),
    "anthropic-compat": Dialect(
        drop=_OPENAI_ONLY
        | {"logprobs", "top_logprobs", "logit_bias", "seed", "response_format"}
        | {"presence_penalty", "frequency_penalty"},
        roles={"developer": "system"},
        merge=True,
        effort="thinking_budget",
    ),
    "gemini-compat": Dialect(
        drop=_OPENAI_ONLY | {"logprobs", "top_logprobs", "logit_bias", "parallel_tool_calls"},
        roles={"developer": "system"},
        merge=True,
    ),
}
"""The dialects that have a name."""


def _named(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in DIALECTS:
        raise ValueError(f"unknown dialect {value!r}: known: {', '.join(DIALECTS)}")
    return DIALECTS[value]


NamedDialect = Annotated[Dialect, BeforeValidator(_named, json_schema_input_type=str | Dialect)]
"""A dialect by its name, or written out."""
