"""Bits of an answer, put together: a streamed choice becomes a whole one."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from looper.wire.chat import ABSENT, Choice, Completion, Reply, WireUsage
from looper.wire.events import Delta
from looper.wire.reading.call_bits import GIVEN

_object = msgspec.json.Decoder(dict[str, Any])


def bits(choice: Choice) -> Iterator[Delta]:
    """What a choice, or a chunk of one, says."""
    reply, at = choice.message or choice.delta or Reply(), choice.index
    if reply.thought:
        yield Delta("reasoning_content", reply.thought, at)
    if reply.content:
        yield Delta("content", reply.content, at)
    if reply.refusal:
        yield Delta("refusal", reply.refusal, at)
    if reply.tool_calls:
        calls = [{"index": index, **call} for index, call in enumerate(reply.tool_calls)]
        yield Delta("tool_calls", calls, at)
    if beside := reply.beside:
        yield Delta("members", beside, at)
    if logprobs := _logprobs(choice.logprobs):
        yield Delta("logprobs", logprobs, at)


def _logprobs(raw: msgspec.Raw) -> dict[str, Any] | None:
    """What a backend sends for logprobs, if it is what it should be: an answer is not lost over it."""
    try:
        return _object.decode(raw) if raw != ABSENT else None
    except msgspec.DecodeError:
        return None


def merge_tool_call(calls: dict[int, dict[str, Any]], delta: Mapping[str, Any]) -> None:
    """Add a bit of a call to the calls so far, by its index."""
    index = delta.get("index", 0)
    call = calls.setdefault(index, {})
    for key, value in delta.items():
        if key in GIVEN and isinstance(value, dict):
            given = GIVEN[key]
            called = call.setdefault(key, {given: ""})
            called[given] += value.get(given) or ""
            said = {name: part for name, part in value.items() if part is not None}
            called |= {name: part for name, part in said.items() if name != given}
        elif key != "index" and value is not None:
            call[key] = value


def merge_logprobs(known: dict[str, Any] | None, delta: Mapping[str, Any]) -> dict[str, Any]:
    """Add the probabilities of more tokens to those so far."""
    merged = known or {}
    for key, value in delta.items():
        if isinstance(value, list) and isinstance(merged.get(key), list):
            merged[key].extend(value)
        else:
            merged[key] = list(value) if isinstance(value, list) else value
    return merged


def merge_members(known: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """Add a bit of the members beside an answer to those so far: texts and lists go on, objects are put together."""
    for name, value in delta.items():
        said = msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value
        before = known.get(name)
        if isinstance(before, str) and isinstance(said, str) and name not in _SAID_AGAIN:
            known[name] = before + said
        elif isinstance(before, list) and isinstance(said, list):
            known[name] = [*before, *said]
        elif isinstance(before, dict) and isinstance(said, dict):
            merge_members(before, said)
        elif said is not None:
            known[name] = said


_SAID_AGAIN = frozenset({"id", "type", "format", "index"})
"""Members of an object that its bits repeat."""


@dataclass(slots=True)
class Gathering:
    """One choice of a streamed answer, the first if it is not said which, as far as it has come."""

    at: int = 0
    _texts: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    _members: dict[str, Any] = field(default_factory=dict)
    _logprobs: dict[str, Any] | None = None
    _finish: str | None = None
    _native: str | None = None
    _usage: WireUsage | None = None
    tokens: int = 0
    """How many tokens' probabilities have come."""

    def add(self, chunk: Completion) -> None:
        """Another chunk has come."""
        self._usage = chunk.usage or self._usage
        for choice in chunk.choices:
            if choice.index == self.at:
                self._finish = choice.finish_reason or self._finish
                self._native = choice.native_finish_reason or self._native
                for delta in bits(choice):
                    self.hear(delta)

    def hear(self, delta: Delta) -> None:
        """Another bit has come."""
        match delta.kind:
            case "tool_calls":
                for call in delta.value:
                    merge_tool_call(self._calls, call)
            case "members":
                merge_members(self._members, delta.value)
            case "logprobs":
                self._logprobs = merge_logprobs(self._logprobs, delta.value)
                content = delta.value.get("content")
                self.tokens += len(content) if isinstance(content, list) else 0
            case kind:
                self._texts[kind].append(delta.value)

    def completion(self) -> Completion:
        """What has come, as if it had come in one piece."""
        texts: dict[str, Any] = {kind: "".join(pieces) for kind, pieces in self._texts.items()}
        calls = [self._calls[index] for index in sorted(self._calls)] or None
        logprobs = msgspec.Raw(msgspec.json.encode(self._logprobs)) if self._logprobs else ABSENT
        members = {
            name: msgspec.Raw(msgspec.json.encode(each)) for name, each in self._members.items()
        }
        message = Reply(role="assistant", tool_calls=calls, more=members, **texts)
        choice = Choice(
            index=self.at,
            message=message,
            finish_reason=self._finish,
            native_finish_reason=self._native,
            logprobs=logprobs,
        )
        return Completion(choices=[choice], usage=self._usage)


class GatheredAnswer:
    """All choices of a streamed answer, as far as they have come."""

    def __init__(self) -> None:
        self._choices: dict[int, Gathering] = {}
        self._usage: WireUsage | None = None

    def add(self, chunk: Completion) -> None:
        """Another chunk has come."""
        if chunk.usage is not None and chunk.usage != _NOTHING_USED:
            self._usage = chunk.usage
        for index in dict.fromkeys(choice.index for choice in chunk.choices):
            self._choices.setdefault(index, Gathering(index)).add(chunk)

    def completion(self) -> Completion:
        """What has come, as if it had come in one piece."""
        gathered = (self._choices[index].completion() for index in sorted(self._choices))
        return Completion([choice for each in gathered for choice in each.choices], self._usage)


_NOTHING_USED = WireUsage()
