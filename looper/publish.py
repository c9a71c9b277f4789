"""The stage that writes the answer: one model's words, handed on as they come or in one piece."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

import msgspec

from looper.calls import Call, CallFailed, Failure
from looper.chat import Choice, Completion, Reply
from looper.events import Delta, Event, Finish
from looper.run import Run


async def publish(call: Call, run: Run, *, stream: bool, until: float) -> AsyncGenerator[Event]:
    """Let a model write the answer. `stream` must be what the call asks for.

    Raises CallFailed if it fails or has nothing to say. As long as no word of the answer was yielded (reasoning is
    none) another answer may follow.
    """
    if stream:
        async with aclosing(run.stream(call, until=until)) as chunks:
            async for event in _live(chunks):
                yield event
        return
    result = await run.ask(call, until=until)
    if result.state != "ok" or result.completion is None:
        raise result.error or CallFailed(Failure.BROKEN)
    for event in whole(result.completion.choices[0]):
        yield event


def whole(choice: Choice) -> Iterator[Event]:
    """A complete answer as events."""
    yield from _bits(choice)
    yield Finish(choice.finish_reason or "stop")


async def _live(chunks: AsyncGenerator[Completion]) -> AsyncGenerator[Event]:
    finish: str | None = None
    blank: (
        list[Event] | None
    ) = []  # white space that is held back until it is known to lead to an answer
    async for chunk in chunks:
        for choice in chunk.choices[:1]:
            finish = choice.finish_reason or finish
            for event in _bits(choice):
                if blank is None or is_thought(event):
                    yield event
                elif _is_blank(event):
                    blank.append(event)
                else:
                    for held in (*blank, event):
                        yield held
                    blank = None
    if blank is not None:
        raise CallFailed(Failure.UNUSABLE)
    yield Finish(finish or "stop")


def is_thought(event: Event) -> bool:
    """Whether an event is reasoning, which is no answer yet."""
    return isinstance(event, Delta) and event.kind == "reasoning_content"


def _is_blank(event: Event) -> bool:
    """Whether an event is white space, or probabilities of tokens, which say nothing by themselves."""
    if not isinstance(event, Delta):
        return False
    return event.kind == "logprobs" or (event.kind == "content" and not event.value.strip())


def _bits(choice: Choice) -> Iterator[Event]:
    reply = choice.message or choice.delta or Reply()
    if reply.reasoning_content:
        yield Delta("reasoning_content", reply.reasoning_content)
    if reply.content:
        yield Delta("content", reply.content)
    if reply.refusal:
        yield Delta("refusal", reply.refusal)
    if reply.tool_calls:
        yield Delta(
            "tool_calls", [{"index": at, **call} for at, call in enumerate(reply.tool_calls)]
        )
    if choice.logprobs is not None and (logprobs := msgspec.json.decode(choice.logprobs)):
        yield Delta("logprobs", logprobs)
