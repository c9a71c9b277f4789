"""What a model's server makes of roles, and how its streams end: what only trying it shows."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from extproc.cli.doctor.findings import Finding
from looper.calling.calls import CallFailed, Failure
from looper.calling.drafts import answering
from looper.calling.models import Model
from looper.run import Client
from looper.wire.chat import ChatRequest

_MAX_TOKENS = 16
_DEVELOPER = {"role": "developer", "content": "Answer in one word."}
_USER = {"role": "user", "content": "Say OK."}
_ROLES: Mapping[str, tuple[Sequence[Mapping[str, str]], str]] = {
    "the role `developer`": ((_DEVELOPER, _USER), "`roles: {developer: system}`"),
    "two turns of the user's in a row": ((_USER, _USER), "`merge: true`"),
}
"""What a chat template may refuse, a conversation that has it, and what its dialect has to say then."""


async def takes_roles(client: Client, model: Model, seconds: float) -> Finding:
    """Whether a server takes a developer, and two turns of the user's in a row, as its dialect sends them."""
    if await _takes(client, model, (_DEVELOPER, _USER, _USER), seconds):
        return Finding(model.name, "roles", "ok", "takes them as its dialect sends them")
    refused = [
        (what, saying)
        for what, (messages, saying) in _ROLES.items()
        if not await _takes(client, model, messages, seconds)
    ]
    if not refused:
        return Finding(model.name, "roles", "ok", "takes them one at a time")
    what = " and ".join(each for each, _ in refused)
    saying = " and ".join(each for _, each in refused)
    return Finding(model.name, "roles", "warn", f"refuses {what}", f"its `dialect` needs {saying}")


async def ends_streams(client: Client, model: Model, seconds: float) -> Finding:
    """Whether a server's streams say how an answer ended. One that does not may have been interrupted: it is asked
    once more.
    """
    try:
        says, counts = await _says_the_end(client, model, seconds)
        again = says or (await _says_the_end(client, model, seconds))[0]
    except CallFailed as error:
        if error.failure is Failure.TIMEOUT:
            found = f"slow: no whole stream within {seconds:g} s"
            return Finding(model.name, "stream", "warn", found, _SLOW)
        return Finding(model.name, "stream", "warn", "no whole stream came", _NO_STREAM)
    if again and not says:
        return Finding(model.name, "stream", "warn", "one of two broke off", _BROKE_OFF)
    match says, model.dialect.finish_reason:
        case (True, True) if not counts:
            return Finding(model.name, "stream", "warn", "without its usage", _NO_USAGE)
        case (True, True):
            return Finding(model.name, "stream", "ok", "says how its answer ended")
        case (False, False):
            return Finding(model.name, "stream", "ok", "never says the end, as its dialect says")
        case (False, True):
            return Finding(
                model.name, "stream", "fail", "ends without a `finish_reason`", _WORDLESS
            )
        case _:
            return Finding(model.name, "stream", "warn", "says how its answer ended", _NOT_WORDLESS)


_NO_STREAM = "streamed answers by it will fail: can its server stream?"
_SLOW = "give it more with --timeout, and see that decisions that use it have the time"
_NO_USAGE = "what its streams use is then an estimate: have its server heed `stream_options: {include_usage: true}`"
_BROKE_OFF = "a stream ended with [DONE] and no `finish_reason`: is its server restarted, or short of memory?"
_WORDLESS = "they are taken for broken: if its server never sends one, its `dialect` needs `finish_reason: false`"
_NOT_WORDLESS = "take `finish_reason: false` out of its `dialect`: an answer that breaks off passes for a whole one"


def _request(model: Model, messages: Sequence[Mapping[str, str]]) -> ChatRequest:
    body: dict[str, Any] = {"model": model.name, "messages": messages}
    return ChatRequest.parse(msgspec.json.encode(body))


async def _takes(
    client: Client, model: Model, messages: Sequence[Mapping[str, str]], seconds: float
) -> bool:
    """Whether a conversation is not refused; whatever else goes wrong is no matter of roles."""
    draft = answering(_request(model, messages), model, "single")
    deadline = asyncio.get_running_loop().time() + seconds
    try:
        await client.complete(draft.call(_MAX_TOKENS), {}, deadline=deadline)
    except CallFailed as error:
        return error.failure is not Failure.STATUS or error.status not in (400, 422, 500)
    return True


async def _says_the_end(client: Client, model: Model, seconds: float) -> tuple[bool, bool]:
    """Whether a stream that is read to its end says how its answer ended, and what it used. Raises CallFailed."""
    lenient = model.dialect.model_copy(update={"finish_reason": False})
    asked = model.model_copy(update={"dialect": lenient})
    draft = answering(_request(model, [_USER]), asked, "single", stream=True)
    deadline = asyncio.get_running_loop().time() + seconds
    said = counted = False
    chunks = client.stream(draft.call(_MAX_TOKENS), {}, deadline=deadline)
    async with aclosing(chunks) as arriving:
        async for chunk, _, _ in arriving:
            said = said or any(choice.finish_reason for choice in chunk.choices)
            counted = counted or chunk.usage is not None
    return said, counted
