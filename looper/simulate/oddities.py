"""Shapes of answers that OpenAI's API does not have, and that servers and gateways have been seen to send."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, assert_never

import msgspec

from looper.simulate.faults import Beside, InParts, NoChunks, OtherEnd, SaidTwice, Strange
from looper.simulate.shapes import DONE, Delivery, event

Chunk = dict[str, Any]
Oddity = Strange | InParts | Beside | SaidTwice | NoChunks | OtherEnd

USAGE = {
    "prompt_tokens_details": {"cached": {"read": 1, "write": 2}, "cost": 0.25, "tier": "gold"},
    "completion_tokens_details": [1, 2],
    "cost_details": {"upstream": 0.1},
}
MESSAGE = {"refusal": False, "tool_calls": "", "function_call": [], "reasoning": {"steps": 3}}
BESIDE = {
    "annotations": [{"type": "url_citation", "url_citation": {"title": "Simulated"}}],
    "reasoning_details": [{"type": "reasoning.summary", "summary": "Simulated."}],
    "provider_specific_fields": {"simulated": True},
}
"""What clients are to see as it came."""

_NOISE = (b": keepalive", b"null", b"[]", b"1", b'"ping"', b"", b'{"choices": null}')


def odd(oddity: Oddity, delivery: Delivery) -> Delivery:
    """The same answer in another shape."""
    match oddity:
        case Strange():
            return _strange(oddity, delivery)
        case InParts():
            return _changed(delivery, _each_reply(_in_parts(thinking=oddity.thinking)))
        case Beside():
            return _changed(delivery, _with_beside)
        case OtherEnd():
            return _changed(delivery, _each_choice(_ending(oddity.word)))
        case SaidTwice() | NoChunks() if not delivery.streamed:
            return delivery
        case SaidTwice():
            at_the_end = oddity.kind == "at_the_end"
            return _changed(delivery, _whole_at_the_end if at_the_end else _whole_beside)
        case NoChunks():
            return _among_others(oddity, delivery)
        case _:
            assert_never(oddity)


Change = Callable[[list[Chunk]], list[Chunk]]


def _changed(delivery: Delivery, change: Change) -> Delivery:
    if not delivery.streamed:
        (body,) = change([msgspec.json.decode(b"".join(delivery.pieces))])
        return replace(delivery, pieces=(msgspec.json.encode(body),))
    *events, done = delivery.pieces
    chunks = [msgspec.json.decode(said.removeprefix(b"data: ")) for said in events]
    return replace(delivery, pieces=(*map(event, change(chunks)), done))


def _choices(chunks: Iterable[Chunk]) -> Iterator[dict[str, Any]]:
    for chunk in chunks:
        yield from chunk.get("choices") or ()


def _each_choice(change: Callable[[dict[str, Any]], None]) -> Change:
    def changed(chunks: list[Chunk]) -> list[Chunk]:
        for choice in _choices(chunks):
            change(choice)
        return chunks

    return changed


def _each_reply(change: Callable[[dict[str, Any]], None]) -> Change:
    return _each_choice(lambda choice: change(_reply(choice)))


def _reply(choice: dict[str, Any]) -> dict[str, Any]:
    reply: dict[str, Any] = choice.get("message") or choice.get("delta") or {}
    return reply


# Strange members


def _strange(oddity: Strange, delivery: Delivery) -> Delivery:
    changes: dict[str, Change] = {
        "usage": _strange_usage,
        "message": _each_reply(_strange_reply),
        "choice": _each_choice(_strange_choice),
    }
    for kind, change in changes.items():
        if oddity.kind in (kind, "all"):
            delivery = _changed(delivery, change)
    if oddity.kind in ("text", "all"):
        first, *rest = map(_strange_text, delivery.pieces)
        delivery = replace(delivery, pieces=(b"\xef\xbb\xbf" + first, *rest))
    return delivery


def _strange_text(piece: bytes) -> bytes:
    """With half a character, and a logarithm of nothing, as JSON does not know it."""
    return piece.replace(b'"logprobs":"-"', _IMPROBABLE).replace("\ufffd".encode(), rb"\ud83d")


_IMPROBABLE = b'"logprobs":{"content":[{"token":"?","logprob":-Infinity,"top_logprobs":[]}]}'


def _strange_usage(chunks: list[Chunk]) -> list[Chunk]:
    for chunk in chunks:
        if chunk.get("usage"):
            chunk["usage"] |= USAGE
        if chunk.get("choices") == []:
            chunk["choices"] = None
    return chunks


def _strange_reply(reply: dict[str, Any]) -> None:
    said = {name: value for name, value in MESSAGE.items() if not reply.get(name)}
    reply |= said | {"half": "\ufffd"}


def _strange_choice(choice: dict[str, Any]) -> None:
    choice["index"] = None if choice["index"] == 0 else choice["index"]
    if not choice.get("logprobs"):
        choice["logprobs"] = "-"


def _in_parts(*, thinking: bool) -> Callable[[dict[str, Any]], None]:
    def change(reply: dict[str, Any]) -> None:
        if reply.get("content"):
            thought = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]
            text = {"type": "text", "text": reply["content"]}
            reply["content"] = [*(thought if thinking else []), text]

    return change


def _with_beside(chunks: list[Chunk]) -> list[Chunk]:
    for choice in _last([each for each in _choices(chunks) if {"message", "delta"} & each.keys()]):
        name = "message" if "message" in choice else "delta"
        choice[name] = {**choice[name], **BESIDE}
    return chunks


def _last(items: list[Any]) -> list[Any]:
    return items[-1:]


# Streams


def _ending(word: str) -> Callable[[dict[str, Any]], None]:
    def change(choice: dict[str, Any]) -> None:
        if choice["finish_reason"] == "stop":
            choice["finish_reason"] = word

    return change


def _said(chunks: Iterable[Chunk]) -> str:
    return "".join(_reply(choice).get("content") or "" for choice in _choices(chunks))


def _whole_at_the_end(chunks: list[Chunk]) -> list[Chunk]:
    message = {"role": "assistant", "content": _said(chunks)}
    choice = {"index": 0, "message": message, "finish_reason": None}
    for last in _last([at for at, chunk in enumerate(chunks) if chunk.get("choices")]):
        chunks.insert(last + 1, {**chunks[last], "choices": [choice]})
    return chunks


def _whole_beside(chunks: list[Chunk]) -> list[Chunk]:
    for at, chunk in enumerate(chunks):
        for choice in _choices([chunk]) if _said(chunks) else ():
            choice["message"] = {"role": "assistant", "content": _said(chunks[: at + 1])}
    return chunks


def _among_others(oddity: NoChunks, delivery: Delivery) -> Delivery:
    *chunks, _ = delivery.pieces
    match oddity.kind:
        case "between":
            noise = b"".join(b"data: %b\n\n" % said for said in _NOISE)
            pieces = (*(noise + chunk for chunk in chunks), noise, DONE)
        case "spaces":
            pieces = (*chunks, b"data:   [DONE]  \n\n")
        case "no_blank_line":
            pieces = (*chunks, DONE.rstrip())
        case "garbage_at_the_end":
            pieces = (*chunks, b"data: {\x00\xff\n\n<html>")
    return replace(delivery, pieces=pieces)
