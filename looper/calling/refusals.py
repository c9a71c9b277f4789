"""Why an upstream refuses a request: read from its error's body into a word of ours, and nothing else is kept."""

import re
from typing import Literal

from looper.wire.dialects import STANDARD

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


def is_rate_limit(body: bytes) -> bool:
    """Whether an error is about quota by its code, whatever its status and its words."""
    text = _text(body)
    return any(found[1] in _RATE_LIMITS for found in _CODE.finditer(text))


_RATE_LIMITS = frozenset(
    {"rate_limit_exceeded", "rate_limit_error", "rate_limited", "rate_limit", "too_many_requests"}
    | {"ratelimitreached", "throttling", "throttling_exception", "throttlingexception"}
    | {"throttling.ratequota", "throttling.allocationquota", "resource_exhausted"}
    | {"rate_limit_reached_error", "engine_overloaded_error"}
)


def said(body: bytes) -> Refusal | None:
    """What an error is about: by its code if it has one that we know, else by its words; None if neither tells.

    JSON or not, nested or cut off: no matter.
    """
    text = _text(body)
    for found in _CODE.finditer(text):
        for kind, codes in _CODES:
            if found[1] in codes:
                return kind
    return next((kind for kind, words in _WORDS if words.search(text)), None)


def named(body: bytes) -> str | None:
    """The member of a request that an error is about: a name that OpenAI's API has, and nothing else of the error.

    It stands in `param`, at the end of a place such as `["body", "seed"]`, or in quotes of some kind.
    """
    text = _text(body)
    for places in (_PARAM, _PLACE, _QUOTED):
        names = (found[1] for found in places.finditer(text))
        if (name := next((each for each in names if each in STANDARD), None)) is not None:
            return name
    return None


_PARAM = re.compile(r"""\\?"param\\?"\s*:\s*\\?"([a-z_]{1,40})[".\[\\]""")
_PLACE = re.compile(r"""\\?"body\\?"\s*,\s*\\?"([a-z_]{1,40})\\?\"""")
_QUOTED = re.compile(r"""['"`‘“]([a-z_]{1,40})['"`’”\\](?!\s*:)""")


def _text(body: bytes) -> str:
    """The beginning of a body, with the letters that JSON may write as their numbers."""
    text = body[:MAX_BODY].decode("utf-8", "replace").casefold()
    return _LETTER.sub(lambda found: chr(int(found[1], 16)), text)


_LETTER = re.compile(r"\\u([1-9a-c][0-9a-f]{3})")

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
            | {"exceed_context_size_error", "request_too_large", "1261"}
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
            r"maximum (?:context|model|prompt) length|context[ _](?:window|limit|size)|context length is"
            r"|context length(?: of only)? \(?\d|(?:model's|available|supported|than the|the) context length"
            r"|context the overflows|context overflow|exceeds? (?:the )?max(?:imum)? length"
            r"|exceed(?:s|ed|ing)? (?:the )?(?:model'?s? )?(?:model )?token limit|prompt (?:exceeds|超)"
            r"|超长|过长|超过(?:了)?(?:模型|最大)|too many (?:input|prompt) tokens"
            r"|`?inputs`? (?:tokens )?(?:\+|must have less than)|must have less than \d+ tokens"
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
