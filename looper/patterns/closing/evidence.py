"""Answers of models as other models read them: as data, between fences, cut to what the reader has room for."""

from collections.abc import Sequence
from typing import Any

from looper.calling.calls import Result
from looper.calling.models import Model
from looper.calling.scaffolding import Label
from looper.patterns.closing.marks import masked
from looper.wire.chat import ChatRequest
from looper.wire.tokens import estimate, fit_all, surely

_INSTRUCTIONS = 1000
"""Tokens, generously, of what we say around the evidence, a judge's analysis included."""

_ANSWER = 4096


def room(request: ChatRequest, reader: Model) -> int | None:
    """How many tokens of evidence fit beside the conversation and an answer; None: nobody knows the window."""
    if reader.context_window is None:
        return None
    answer = min(reader.max_output or _ANSWER, reader.context_window // 4)
    prompt = surely(reader.context_window - answer)
    return max(0, prompt - request.prompt_tokens - _INSTRUCTIONS)


def fenced(
    texts: Sequence[str],
    fence: str,
    *,
    room: int | None,
    label: Label = "candidate",
    notes: Sequence[str] = (),
    less: bool = False,
    seen: Sequence[str] = (),
) -> str:
    """Texts by number, each between lines with the mark that no author can know; cut to `room` tokens together.

    With `less`, half of that is shown: the whole was too long for its reader.
    `notes`, one for each text, stand outside the fences: they are ours. `seen` are other marks beside these texts.
    """
    unmarked = [masked(text, (fence, *seen)) for text in texts]
    if less:
        whole = sum(map(estimate, unmarked))
        room = (whole if room is None else min(whole, room)) // 2
    cut = unmarked if room is None else fit_all(unmarked, room)
    said = notes or [""] * len(texts)
    return "\n\n".join(
        f"[{label} {number} {fence}]{note}\n{text}\n[end of {label} {number} {fence}]"
        for number, (text, note) in enumerate(zip(cut, said, strict=True), 1)
    )


def marked(answer: Result, note: str = "") -> str:
    """What stands beside an answer: what is ours to say of it, and whether it ends before its end."""
    return f"{note} (cut off: its end is missing)" if answer.is_cut else note


def said(answer: Result) -> str:
    """An answer as another model reads it: its text, and the calls of tools that it makes."""
    if answer.completion is None:
        return ""
    message = answer.completion.choices[0].message
    calls = [_call(call) for call in (message and message.tool_calls) or ()]
    return "\n".join(filter(None, [answer.text, *calls]))


def _call(call: dict[str, Any]) -> str:
    called = call.get("function") or call.get("custom")
    said = called if isinstance(called, dict) else {}
    return f"[calls {said.get('name')} with {said.get('arguments') or said.get('input') or '{}'}]"
