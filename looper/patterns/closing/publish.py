"""The stage that writes the answer: one model's words, handed on as they come or in one piece."""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from looper.calling.calls import CallFailed, Failure, nothing_said
from looper.calling.drafts import Draft
from looper.run import Run
from looper.wire.chat import ChatRequest, Choice, Completion
from looper.wire.deltas import bits
from looper.wire.events import Delta, Event, Finish


async def publish(draft: Draft, run: Run, *, until: float) -> AsyncGenerator[Event]:
    """Let a model write the answer: as it comes if the draft asks for a stream, else in one piece.

    Raises CallFailed if it fails or has nothing to say. As long as no word of the answer was yielded (reasoning is
    none) another answer may follow.
    """
    if draft.stream:
        async with aclosing(run.stream(draft, until=until)) as chunks:
            async for event in _live(chunks):
                yield event
        return
    result = await run.ask(draft, until=until)
    if result.state != "ok" or result.completion is None:
        raise result.error or CallFailed(Failure.BROKEN)
    for choice in result.completion.choices:
        for event in whole(choice):
            yield event


def whole(choice: Choice) -> Iterator[Event]:
    """A complete answer as events."""
    calls = choice.message is not None and bool(choice.message.tool_calls)
    yield from bits(choice)
    reason = choice.finish_reason or _end(calls=calls)
    yield Finish(reason, choice.index, choice.native_finish_reason)


def _end(*, calls: bool) -> str:
    """How an answer ends of which its backend does not say it."""
    return "tool_calls" if calls else "stop"


async def _live(chunks: AsyncGenerator[Completion]) -> AsyncGenerator[Event]:
    finishes: dict[int, tuple[str | None, str | None]] = {0: (None, None)}
    calling: set[int] = set()
    opening = _Opening()
    last: Sequence[Choice] = ()
    async for chunk in chunks:
        last = chunk.choices or last
        for choice in chunk.choices:
            if choice.finish_reason:
                finishes[choice.index] = choice.finish_reason, choice.native_finish_reason
            else:
                finishes.setdefault(choice.index, (None, None))
            for bit in bits(choice):
                calling |= {bit.choice} if bit.kind == "tool_calls" else set()
                for event in opening.admit(bit):
                    yield event
    if not opening.over:
        raise nothing_said(last)
    for index, (reason, native) in sorted(finishes.items()):
        yield Finish(reason or _end(calls=index in calling), index, native)


class _Opening:
    """Holds back white space at the beginning until it is known to lead to an answer."""

    def __init__(self) -> None:
        self.over = False
        self._held: list[Event] = []

    def admit(self, event: Event) -> list[Event]:
        """What may be said now that `event` has come."""
        if self.over or is_thought(event):
            return [event]
        self._held.append(event)
        if _is_blank(event):
            return []
        self.over = True
        return self._held


def is_thought(event: Event) -> bool:
    """Whether an event is reasoning, which is no answer yet."""
    return isinstance(event, Delta) and event.kind == "reasoning_content"


def _is_blank(event: Event) -> bool:
    """Whether an event is white space, or stands beside an answer and says nothing by itself."""
    if not isinstance(event, Delta):
        return False
    if event.kind in ("logprobs", "members"):
        return True
    return event.kind == "content" and not event.value.strip()


async def as_asked(events: AsyncGenerator[Event], request: ChatRequest) -> AsyncGenerator[Event]:
    """Events without the probabilities that were asked for in our own interest, and not in the client's."""
    async with aclosing(events) as heard:
        async for event in heard:
            if not (isinstance(event, Delta) and event.kind == "logprobs"):
                yield event
            elif request.logprobs:
                yield replace(event, value=_with_alternatives(event.value, request.top_logprobs))


def _with_alternatives(logprobs: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Probabilities with no more alternatives beside each token than so many."""
    return {name: _shortened(entries, count) for name, entries in logprobs.items()}


def _shortened(entries: Any, count: int) -> Any:
    if not isinstance(entries, list):
        return entries
    return [
        {**entry, "top_logprobs": entry["top_logprobs"][:count]}
        if isinstance(entry, dict) and isinstance(entry.get("top_logprobs"), list)
        else entry
        for entry in entries
    ]
