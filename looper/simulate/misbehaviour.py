"""What a fault makes of a request: in every family of faults, one arm for each."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from email.utils import formatdate
from typing import Any, assert_never

import msgspec

from looper.simulate.answers import Reply
from looper.simulate.excess import MARK, gzipped, swollen
from looper.simulate.faults import (
    AnyFault,
    Blank,
    BrokenOff,
    Comments,
    Cut,
    ErrorObject,
    Excess,
    Garbage,
    GzipBomb,
    Habit,
    Hang,
    Huge,
    Length,
    OtherMode,
    ReasoningOnly,
    Refusal,
    Reset,
    Status,
    Torn,
    Trickle,
    Unsaid,
    Unsent,
    Untrue,
)
from looper.simulate.habits import behave, every_choice, rewritten
from looper.simulate.shapes import DONE, Delivery, event, http_error

_NOISE = b"\x00\xff\xfe{]simulated noise\x80\x1b"
_HTML = b"<!DOCTYPE html>\n<html><head><title>Simulated</title></head><body>Oops</body></html>\n"
_LAST_DATE = 253_402_300_799  # of the year 9999
_COMMENT_BLOCK = 4096
_NOTHING = Delivery(status=None)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a fault may look at, and how it comes to what would be sent without it."""

    request: Mapping[str, Any]
    answer: Callable[[dict[str, Any], Reply | None], Awaitable[Delivery]]

    @property
    def stream(self) -> bool:
        return bool(self.request.get("stream"))

    async def reply(self, instead: Reply | None = None, **changes: Any) -> Delivery:
        """What would be sent, to a request with changed members, or with the given reply in it."""
        return await self.answer({**self.request, **changes}, instead)


async def misbehave(fault: AnyFault, asked: Asked) -> Delivery:
    """What a fault makes of a request. No reply is made, no script used up, if none of it is sent."""
    if isinstance(fault, Habit):
        delivery = behave(fault, await asked.reply())
    elif isinstance(fault, Unsent):
        delivery = await _unsent(fault, asked)
    elif isinstance(fault, Untrue):
        delivery = await _untrue(fault, asked)
    elif isinstance(fault, Unsaid):
        delivery = await _unsaid(fault, asked)
    else:
        delivery = await _excess(fault, asked)
    return replace(delivery, faulted=True)


async def _unsent(fault: Unsent, asked: Asked) -> Delivery:
    match fault:
        case Hang(after_chunks=chunks) | Reset(after_chunks=chunks):
            begun = _first(await asked.reply(), chunks) if chunks is not None else _NOTHING
            return replace(begun, ending=fault.type)
        case Status():
            refused = http_error(fault.status, fault.code, fault.message)
            return replace(refused, headers=_retry_after(fault))
        case Cut():
            return _first(await asked.reply(), fault.after_chunks)
        case Torn():
            return _torn(await asked.reply(), fault.after_chunks)
        case Trickle():
            delivery = await asked.reply()
            pieces = tuple(bytes([byte]) for byte in b"".join(delivery.pieces))
            return replace(delivery, pieces=pieces, pause=fault.pace)
        case _:
            assert_never(fault)


def _first(delivery: Delivery, chunks: int) -> Delivery:
    """The first chunks of a stream, never its `[DONE]`; the first half of a body."""
    if delivery.streamed:
        return replace(delivery, pieces=delivery.pieces[:-1][:chunks], usage=None)
    body = b"".join(delivery.pieces)
    return replace(delivery, pieces=(body[: len(body) // 2],) if chunks else (), usage=None)


def _torn(delivery: Delivery, chunks: int) -> Delivery:
    begun = _first(delivery, chunks)
    if not delivery.streamed:
        promised = sum(map(len, delivery.pieces))
        return replace(begun, headers={"Content-Length": str(promised)})
    # `[DONE]` is not torn: what is left of it might be taken for whole.
    last = delivery.pieces[:-1][chunks : chunks + 1] or delivery.pieces[-2:-1]
    return replace(begun, pieces=(*begun.pieces, last[0][: len(last[0]) // 2]))


def _retry_after(fault: Status) -> dict[str, str]:
    match fault.retry_after:
        case None:
            return {}
        case str(text):
            return {"Retry-After": text}
        case seconds if fault.retry_after_date:
            date = formatdate(min(time.time() + seconds, _LAST_DATE), usegmt=True)
            return {"Retry-After": date}
        case seconds:
            whole = f"{seconds:.0f}" if seconds.is_integer() else f"{seconds:g}"
            return {"Retry-After": whole}


async def _untrue(fault: Untrue, asked: Asked) -> Delivery:
    match fault:
        case Garbage(kind="html"):
            return Delivery((_HTML,), fault.status, {"Content-Type": "text/html"})
        case Garbage(kind="content_type"):
            headers = {"Content-Type": "text/plain"}
            return replace(await asked.reply(), status=fault.status, headers=headers)
        case Garbage():
            noise = (b"data: " + _NOISE + b"\n\n", DONE) if asked.stream else (_NOISE,)
            return replace(await _after(asked, fault.after_chunks, *noise), status=fault.status)
        case ErrorObject():
            error = _error_object(fault)
            if not asked.stream:
                return Delivery((msgspec.json.encode(error),))
            ending = (DONE,) if fault.done else ()
            name = b"event: error\n" if fault.named else b""
            return await _after(asked, fault.after_chunks, name + event(error), *ending)
        case BrokenOff():
            return rewritten(await asked.reply(), every_choice(_ended_with(fault.word)))
        case OtherMode():
            # Who streams whatever it is asked for says what that took without being asked, too.
            options = {"include_usage": True}
            return await asked.reply(stream=not asked.stream, stream_options=options)
        case _:
            assert_never(fault)


async def _after(asked: Asked, chunks: int, *pieces: bytes) -> Delivery:
    """So many good chunks of a stream, and then the given pieces; for a body, only these."""
    if not (asked.stream and chunks):
        return Delivery(pieces, streamed=asked.stream)
    begun = _first(await asked.reply(), chunks)
    return replace(begun, pieces=begun.pieces + pieces)


def _error_object(fault: ErrorObject) -> dict[str, Any]:
    error = {"message": fault.message, "type": "server_error", "param": None, "code": fault.code}
    match fault.shape:
        case "nested":
            return {"error": error}
        case "text":
            return {"error": fault.message}
        case "flat":
            return {"object": "error", **error}


async def _unsaid(fault: Unsaid, asked: Asked) -> Delivery:
    match fault:
        case Blank():
            return await _blank(fault, asked)
        case ReasoningOnly():
            return await asked.reply({**_thoughts(fault), "finish_reason": fault.finish})
        case Refusal(kind="refusal"):
            return await asked.reply({"content": None, "refusal": fault.text})
        case Refusal():
            return await asked.reply({"content": fault.text, "finish_reason": "content_filter"})
        case Length():
            limits = [asked.request.get(name) for name in ("max_tokens", "max_completion_tokens")]
            least = min([n for n in limits if isinstance(n, int)] + [fault.tokens])
            delivery = await asked.reply(max_tokens=None, max_completion_tokens=least)
            return rewritten(delivery, every_choice(_stopped_short))
        case _:
            assert_never(fault)


async def _blank(fault: Blank, asked: Asked) -> Delivery:
    match fault.kind:
        case "empty":
            return await asked.reply({"content": ""})
        case "whitespace":
            return await asked.reply({"content": " \n\t \n"})
        case "null_content":
            return await asked.reply({"content": None})
        case "null_message":
            return rewritten(await asked.reply({"content": None}), every_choice(_without_message))
        case "no_choices":
            return rewritten(await asked.reply({"content": None}), _without_choices)


def _ended_with(word: str) -> Callable[[dict[str, Any]], None]:
    def change(choice: dict[str, Any]) -> None:
        if choice["finish_reason"] is not None:
            choice["finish_reason"] = word

    return change


def _without_message(choice: dict[str, Any]) -> None:
    choice |= dict.fromkeys({"message", "delta"} & choice.keys())


def _without_choices(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**chunk, "choices": []} for chunk in chunks]


def _stopped_short(choice: dict[str, Any]) -> None:
    if choice.get("finish_reason") is not None:
        choice["finish_reason"] = "length"


def _thoughts(fault: ReasoningOnly) -> dict[str, Any]:
    thought = "I am asked something. Let me think. It might be this, or it might be that."
    match fault.where:
        case "reasoning_content":
            return {"content": None, "reasoning_content": thought}
        case "content":
            return {"content": f"<think>\n{thought}\n</think>\n\n"}
        case "unclosed":
            return {"content": f"<think>\n{thought}"}


async def _excess(fault: Excess, asked: Asked) -> Delivery:
    match fault:
        case Huge(size=size):
            delivery = await asked.reply({"content": MARK})
            return replace(delivery, pieces=swollen(delivery, size, 2**13).pieces, pause=0.0)
        case GzipBomb(size=size):
            delivery = await asked.reply({"content": MARK})
            pieces = gzipped(swollen(delivery, size, 2**18))
            headers = {"Content-Encoding": "gzip"}
            return replace(delivery, pieces=pieces, headers=headers, pause=0.0)
        case Comments(count=count):
            delivery = await asked.reply()
            comment = b": keep-alive\n\n" if delivery.streamed else b"\n"
            blocks, rest = divmod(count, _COMMENT_BLOCK)
            before = ((comment * _COMMENT_BLOCK,) * blocks) + ((comment * rest,) if rest else ())
            return replace(delivery, pieces=before + delivery.pieces)
        case _:
            assert_never(fault)
