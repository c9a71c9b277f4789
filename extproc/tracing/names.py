"""How spans are named, and what they say of models: OpenTelemetry's semantic conventions for generative AI.

What these have no name for is called `looper.…`.
"""

from looper.calling.models import Model
from looper.wire.dialects import DIALECTS

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_STREAM = "gen_ai.request.stream"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
ERROR_TYPE = "error.type"
METHOD = "http.request.method"
STATUS = "http.response.status_code"

TIMEOUT = "timeout"
"""The error's type of what was not there in time."""

CHAT = "chat"
"""The operation of a chat completion."""

OPERATIONS = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
"""What is done at a path, where the conventions have a word for it."""

_PROVIDERS = {
    "anthropic-compat": "anthropic",
    "gemini-compat": "gcp.gemini",
    "mistral": "mistral_ai",
}
_OPENAI = "openai"


def provider(model: Model) -> str:
    """Whose API a model speaks, as far as its dialect tells: all of them speak OpenAI's in some way."""
    declared = model.declared_dialect
    named = (name for name in _PROVIDERS if declared is not None and DIALECTS[name] == declared)
    return _PROVIDERS.get(next(named, ""), _OPENAI)
