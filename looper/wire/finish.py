"""How an answer ended: backends have many words for it, clients know OpenAI's five."""

import re
from typing import Final

KNOWN: Final = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})

_BROKE_OFF = re.compile(
    r"error|fail|abort|cancel|time_?out|timed_out|interrupt|insufficient|overload|unavailable"
    r"|malformed|exception|crash|disconnect|killed|preempt|unexpected"
)
_LENGTH = re.compile(r"length|max|limit|context_window")
_FILTERED = re.compile(
    r"filter|safety|sensitive|block|refus|recitation|prohibited|spii|guardrail|moderat|policy"
)
_CALLS = re.compile(r"tool|function")


def broke_off(reason: str | None) -> bool:
    """Whether an answer that ended so was not finished: something failed at its backend."""
    if reason is None or reason in KNOWN:
        return False
    return _BROKE_OFF.search(reason.casefold()) is not None


def standard(reason: str) -> str:
    """The one of OpenAI's words that means the same, or comes nearest."""
    if reason in KNOWN:
        return reason
    word = reason.casefold()
    for pattern, known in (
        (_FILTERED, "content_filter"),
        (_LENGTH, "length"),
        (_CALLS, "tool_calls"),
    ):
        if pattern.search(word):
            return known
    return "stop"
