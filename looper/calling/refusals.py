"""Why an upstream refuses a request: read from its error's body into a word of ours, and nothing else is kept."""

import re
from typing import Literal

Refusal = Literal[
    "context_length_exceeded", "content_filter", "unsupported_by_model", "invalid_request"
]
"""All that a client is ever told of it."""

MAX_BODY = 8 << 10
"""Bytes of an error that are read."""

READ = frozenset({400, 403, 404, 413, 422})
"""The statuses whose body says more than they do."""


def refusal(status: int, body: bytes) -> Refusal | None:
    """What a refusal with this status and the beginning of this body is about; None if it is not the request.

    A 403 or 404 is about our credential or our name of the model, unless the body clearly says otherwise.
    """
    reason = said(body)
    match status:
        case 403:
            return reason if reason == "content_filter" else None
        case 404:
            return reason if reason == "unsupported_by_model" else None
        case 413:
            return reason or "context_length_exceeded"
        case _:
            return reason or "invalid_request"


def said(body: bytes) -> Refusal | None:
    """What an error is about: by its code if it has one that we know, else by its words; None if neither tells.

    JSON or not, nested or cut off: no matter.
    """
    text = body[:MAX_BODY].decode("utf-8", "replace").casefold()
    for found in _CODE.finditer(text):
        for kind, codes in _CODES:
            if found[1] in codes:
                return kind
    return next((kind for kind, words in _WORDS if words.search(text)), None)


_CODE = re.compile(
    r"""\\?"(?:code|type|error_type|reason)\\?"\s*:\s*\\?"([a-z0-9_.-]{1,64})\\?\""""
)
"""A backslash stands before quotes where a gateway hands on a provider's error as a text."""

_CODES: tuple[tuple[Refusal, frozenset[str]], ...] = (
    (
        "content_filter",
        frozenset(
            {"content_filter", "content_policy_violation", "responsibleaipolicyviolation"}
            | {"moderation_blocked", "data_inspection_failed", "prohibited_content"}
        ),
    ),
    (
        "context_length_exceeded",
        frozenset(
            {"context_length_exceeded", "model_context_window_exceeded", "tokens_limit_reached"}
            | {"exceed_context_size_error", "request_too_large"}
        ),
    ),
    (
        "unsupported_by_model",
        frozenset(
            {"unsupported_parameter", "unsupported_value", "unknown_parameter", "extra_forbidden"}
        ),
    ),
)

_WORDS: tuple[tuple[Refusal, re.Pattern[str]], ...] = (
    (
        "content_filter",
        re.compile(
            r"content management policy|content[ _]filter|content policy|content exists risk"
            r"|safety system|(?:was|been) flagged|input was blocked|inappropriate content"
        ),
    ),
    (
        "context_length_exceeded",
        re.compile(
            r"maximum (?:context|model|prompt) length|context (?:window|limit|size)|context length is"
            r"|(?:prompt|input) is too long|exceeds? the (?:maximum number of tokens|configured limit)"
            r"|input tokens exceed|max_new_tokens` must be|too many tokens|reduce the length of"
            r"|range of input length|maximum length \d{5}|(?:entity|payload|request) too large"
        ),
    ),
    (
        "unsupported_by_model",
        re.compile(
            r"not supported|unsupported|does not support|no endpoints found that support"
            r"|not a multimodal|may be provided in one|not permitted|unrecognized request argument"
            r"|unknown parameter|requires --enable-auto-tool-choice"
        ),
    ),
)
