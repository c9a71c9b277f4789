"""The paths that we answer or resolve a model on. All others pass as they are."""

CHAT = "/v1/chat/completions"
MODELS = "/v1/models"
ALIASED = ("/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages")
"""What is no chat completion, but names a model."""

READ = (CHAT, *ALIASED)
"""Where bodies are read, as they are below."""


def is_below_ours(path: str) -> bool:
    """Whether something stands below a path whose bodies are read, such as `/v1/messages/count_tokens`."""
    return path.rstrip("/").startswith(tuple(f"{each}/" for each in READ))
