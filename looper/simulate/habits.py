"""Answers that say all they should, in ways that not every client expects."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import groupby, zip_longest
from typing import Any, TypeAlias, assert_never

import msgspec

from looper.simulate.faults import (
    EarlyFinish,
    EmptyFirst,
    Ending,
    Framing,
    FunctionCall,
    Habit,
    PlainStop,
    RoleInEach,
    ToolDeltas,
    UsageHabit,
)
from looper.simulate.oddities import odd
from looper.simulate.shapes import DONE, Delivery, event

Chunk: TypeAlias = dict[str, Any]
Change: TypeAlias = Callable[[list[Chunk]], list[Chunk]]


def behave(habit: Habit, delivery: Delivery) -> Delivery:
    """The same answer, said in the way of the habit."""
    match habit:
        case Ending():
            return _ended(habit, delivery)
        case Framing():
            return _framed(habit, delivery)
        case UsageHabit(kind="twice"):
            return rewritten(delivery, _usage_twice)
        case UsageHabit():
            change = _no_usage if habit.kind == "missing" else _other_usage(habit.kind)
            return replace(rewritten(delivery, change), usage=None)
        case FunctionCall():
            return rewritten(delivery, every_choice(_with_function_call))
        case PlainStop():
            return rewritten(delivery, every_choice(_with_plain_stop))
        case EmptyFirst() | RoleInEach() | ToolDeltas() | EarlyFinish():
            return rewritten(delivery, _stream_habit(habit)) if delivery.streamed else delivery
        case _:
            return odd(habit, delivery)


def _stream_habit(habit: EmptyFirst | RoleInEach | ToolDeltas | EarlyFinish) -> Change:
    match habit:
        case EmptyFirst():
            return _empty_first
        case RoleInEach():
            return every_choice(_with_role)
        case ToolDeltas(kind="gaps"):
            return every_choice(_with_gaps)
        case ToolDeltas(kind="interleaved"):
            return _interleaved
        case ToolDeltas():
            return _indistinct(habit.kind)
        case EarlyFinish():
            return _early_finish
        case _:
            assert_never(habit)


# Chunks


def rewritten(delivery: Delivery, change: Change) -> Delivery:
    """A delivery with its chunks changed; a body that is not streamed counts as one."""
    if not delivery.streamed:
        (body,) = change([msgspec.json.decode(b"".join(delivery.pieces))])
        return replace(delivery, pieces=(msgspec.json.encode(body),))
    *events, done = delivery.pieces
    chunks = [msgspec.json.decode(said.removeprefix(b"data: ")) for said in events]
    return replace(delivery, pieces=(*map(event, change(chunks)), done))


def every_choice(change: Callable[[dict[str, Any]], None]) -> Change:
    """Every choice of every chunk changed in place."""

    def changed(chunks: list[Chunk]) -> list[Chunk]:
        for choice in _choices(chunks):
            change(choice)
        return chunks

    return changed


def _choices(chunks: Iterable[Chunk]) -> Iterator[dict[str, Any]]:
    for chunk in chunks:
        yield from chunk.get("choices") or ()


def _empty_first(chunks: list[Chunk]) -> list[Chunk]:
    filtered = {"hate": {"filtered": False, "severity": "safe"}}
    results = [{"prompt_index": 0, "content_filter_results": filtered}]
    head = {"id": "", "object": "", "created": 0, "model": "", "choices": []}
    return [{**chunks[0], **head, "prompt_filter_results": results}, *chunks]


def _with_role(choice: dict[str, Any]) -> None:
    if "delta" in choice:
        choice["delta"] = {"role": "assistant", **choice["delta"]}


def _with_gaps(choice: dict[str, Any]) -> None:
    for call in choice.get("delta", {}).get("tool_calls") or ():
        call["index"] = 2 * call["index"] + 1


def _interleaved(chunks: list[Chunk]) -> list[Chunk]:
    """Each run of tool-call deltas with the calls' pieces in turn."""
    mixed: list[Chunk] = []
    for is_call, run in groupby(chunks, lambda chunk: _tool_index(chunk) is not None):
        pieces: defaultdict[int | None, list[Chunk]] = defaultdict(list)
        for chunk in run:
            pieces[_tool_index(chunk) if is_call else None].append(chunk)
        mixed += [chunk for turn in zip_longest(*pieces.values()) for chunk in turn if chunk]
    return mixed


def _indistinct(kind: str) -> Change:
    """Each call without what tells it apart, or with its name in each piece."""
    names: dict[int, str] = {}

    def change(choice: dict[str, Any]) -> None:
        for call in choice.get("delta", {}).get("tool_calls") or ():
            place = call["index"]
            names.setdefault(place, call["function"].get("name") or "")
            if kind in ("same_index", "empty_id", "named"):
                call["index"] = 0
            if kind == "named":
                call["function"]["name"] = names[place]
            if kind in ("no_index", "bare"):
                del call["index"]
            if kind in ("same_id", "empty_id") and "id" in call:
                call["id"] = "same" if kind == "same_id" else ""
            if kind == "bare":
                call.pop("id", None)
                call.pop("type", None)

    return every_choice(change)


def _tool_index(chunk: Chunk) -> int | None:
    deltas = (choice.get("delta", {}) for choice in _choices([chunk]))
    return next((call["index"] for delta in deltas for call in delta.get("tool_calls", ())), None)


def _with_function_call(choice: dict[str, Any]) -> None:
    said = choice.get("message") or choice.get("delta") or {}
    first = [call for call in said.pop("tool_calls", None) or () if not call.get("index")]
    if first:
        said["function_call"] = first[0]["function"]
    if choice["finish_reason"] == "tool_calls":
        choice["finish_reason"] = "function_call"


def _with_plain_stop(choice: dict[str, Any]) -> None:
    if choice["finish_reason"] == "tool_calls":
        choice["finish_reason"] = "stop"


def _early_finish(chunks: list[Chunk]) -> list[Chunk]:
    """Each choice's bare last chunk goes into the one before it."""
    kept: list[Chunk] = []
    for chunk in chunks:
        reason = next((choice["finish_reason"] for choice in _choices([chunk])), None)
        if reason is not None and kept and not any(c.get("delta") for c in chunk["choices"]):
            kept[-1]["choices"][0]["finish_reason"] = reason
        else:
            kept.append(chunk)
    return kept


def _usage_twice(chunks: list[Chunk]) -> list[Chunk]:
    if len(chunks) == 1:  # a body cannot say it twice
        return chunks
    return [chunk for once in chunks for chunk in ([once, once] if once.get("usage") else [once])]


def _no_usage(chunks: list[Chunk]) -> list[Chunk]:
    kept = [chunk for chunk in chunks if chunk.get("choices") != []]
    return [{name: part for name, part in chunk.items() if name != "usage"} for chunk in kept]


def _other_usage(kind: str) -> Change:
    numbers = {"negative": -(10**6), "impossible": 10**30}

    def change(chunks: list[Chunk]) -> list[Chunk]:
        for chunk in chunks:
            if usage := chunk.get("usage"):
                chunk["usage"] = {} if kind == "empty" else dict.fromkeys(usage, numbers.get(kind))
        return chunks

    return change


# Events


def _ended(habit: Ending, delivery: Delivery) -> Delivery:
    if habit.kind in ("without_finish", "without_both"):
        delivery = rewritten(delivery, every_choice(_unfinished))
    if not delivery.streamed:
        return delivery
    chunks = delivery.pieces[:-1]
    match habit.kind:
        case "done_twice":
            return replace(delivery, pieces=(*chunks, DONE, DONE))
        case "chunks_after_done":
            return replace(delivery, pieces=(*chunks, DONE, *chunks))
        case "without_done" | "without_both":
            return replace(delivery, pieces=chunks)
        case "without_finish":
            return delivery


def _unfinished(choice: dict[str, Any]) -> None:
    choice["finish_reason"] = None


# JSON has no line ends of its own, and the first `data: ` is the one that counts.
_FRAMES = {
    "crlf": (b"\n", b"\r\n", -1),
    "cr": (b"\n", b"\r", -1),
    "no_space": (b"data: ", b"data:", 1),
}


def _framed(habit: Framing, delivery: Delivery) -> Delivery:
    if not delivery.streamed:
        return delivery
    change = _FRAMES[habit.kind]
    return replace(delivery, pieces=tuple(piece.replace(*change) for piece in delivery.pieces))
