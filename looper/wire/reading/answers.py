"""Backends' answers, whole or chunk by chunk, read so that nothing costs an answer but what is published or counted.

Most are read in one step. Where that fails the answer is looked for first, and then each member beside it by itself;
what is not understood is left out, and its name remembered.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar

import msgspec

from looper.wire.chat import ABSENT, Choice, Completion, Reply, WireUsage
from looper.wire.finish import KNOWN, broke_off, standard
from looper.wire.reading.call_bits import CallBits, whole_calls
from looper.wire.reading.content import content_of
from looper.wire.reading.surrogates import without_halves

T = TypeVar("T")
_BOM: Final = b"\xef\xbb\xbf"
_MENDED: Final = 4 << 20
"""Bytes of an answer above which it is not looked what makes it no JSON."""

_MOST_UNREAD: Final = 16
_UNLIKELY: Final = -9999.0
"""What OpenAI's own models say in place of minus infinity for a logarithm."""

_replace = msgspec.structs.replace
_completion = msgspec.json.Decoder(Completion)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_items = msgspec.json.Decoder(list[msgspec.Raw])
_text = msgspec.json.Decoder(str)
_number = msgspec.json.Decoder(int | float)
_call = msgspec.json.Decoder(dict[str, Any])


class NoAnswer(ValueError):
    """What came is no JSON object."""


class AnswerReader:
    """Reads one call's answer: complete, or the chunks of it in their order."""

    def __init__(self) -> None:
        self._unread: dict[str, None] = {}
        self._calls: defaultdict[int, CallBits] = defaultdict(CallBits)
        self._deltas: set[int] = set()
        self._spoke: set[int] = set()
        self._said_at_last: dict[int, Reply] = {}

    @property
    def unread(self) -> tuple[str, ...]:
        """The members that were not understood, by their places."""
        return tuple(self._unread)

    def whole(self, body: bytes) -> Completion:
        """A complete answer. Raises NoAnswer."""
        completion = self._decode(body)
        if not any(each.message is None or _is_special(each) for each in completion.choices):
            return completion
        return _with_choices(completion, [self._complete(each) for each in completion.choices])

    def chunk(self, data: bytes) -> Completion:
        """A chunk of a streamed answer. Raises NoAnswer."""
        completion = self._decode(data)
        special = False
        for choice in completion.choices:
            if choice.message is not None or _is_special(choice):
                special = True
            else:
                self._hear(choice)
        if not special:
            return completion
        return _with_choices(completion, [self._bit(each) for each in completion.choices])

    def rest(self) -> Completion | None:
        """What was said only by a last event with the whole message, where deltas had come that said nothing."""
        left = [
            Choice(index=index, delta=self._delta(message, index))
            for index, message in self._said_at_last.items()
            if index not in self._spoke
        ]
        self._said_at_last = {}
        return Completion(choices=left) if left else None

    # What is said, and by whom...

    def _complete(self, choice: Choice) -> Choice:
        message = choice.message if _says(choice.message) else choice.delta or choice.message
        if message is not None and (calls := _calls_of(message)) is not None:
            message = _replace(message, tool_calls=whole_calls(calls) or None, function_call=None)
        return _with_known_finish(_replace(choice, message=message, delta=None))

    def _bit(self, choice: Choice) -> Choice:
        """An answer is said once: a `delta` wins wherever there was one."""
        index, delta = choice.index, choice.delta
        if choice.message is not None:
            if delta is None and index not in self._deltas:
                delta = choice.message  # of a server that knows no deltas
            else:
                self._said_at_last[index] = choice.message
        if choice.delta is not None:
            self._deltas.add(index)
        if delta is not None:
            delta = self._delta(delta, index)
        if choice.finish_reason and index in self._calls:
            delta = self._with_nameless(delta, index)
        choice = _replace(choice, message=None, delta=delta)
        if _says(delta):
            self._spoke.add(index)
        return _with_known_finish(choice)

    def _hear(self, choice: Choice) -> None:
        if choice.delta is not None:
            self._deltas.add(choice.index)
            if choice.index not in self._spoke and _says(choice.delta):
                self._spoke.add(choice.index)

    def _delta(self, delta: Reply, index: int) -> Reply:
        if (calls := _calls_of(delta)) is None:
            return delta
        read = self._calls[index].read(calls)
        return _replace(delta, tool_calls=read or None, function_call=None)

    def _with_nameless(self, delta: Reply | None, index: int) -> Reply | None:
        """With the calls that name no tool, now that no name can come: whoever reads on knows what that is."""
        nameless = self._calls[index].nameless()
        if not nameless:
            return delta
        delta = delta or Reply()
        return _replace(delta, tool_calls=[*(delta.tool_calls or ()), *nameless])

    # ... in one step, or member by member.

    def _decode(self, data: bytes) -> Completion:
        try:
            return _completion.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._by_member(_object(data))

    def _by_member(self, members: Mapping[str, msgspec.Raw]) -> Completion:
        items = self._read(_items, members.get("choices"), "choices") or []
        choices = (self._choice(raw, at) for at, raw in enumerate(items))
        return Completion(
            choices=[choice for choice in choices if choice is not None],
            usage=self._usage(members.get("usage")),
            object=self._read(_text, members.get("object"), "object"),
            error=members.get("error", ABSENT),
        )

    def _choice(self, raw: msgspec.Raw, at: int) -> Choice | None:
        members = self._read(_members, raw, "choices[]")
        if members is None:
            return None
        place = "choices[]."
        return Choice(
            index=self._index(members.get("index"), at),
            message=self._reply(members.get("message"), f"{place}message"),
            delta=self._reply(members.get("delta"), f"{place}delta"),
            finish_reason=self._read(_text, members.get("finish_reason"), f"{place}finish_reason"),
            native_finish_reason=_or_none(_text, members.get("native_finish_reason")),
            logprobs=members.get("logprobs", ABSENT),
            error=members.get("error", ABSENT),
            usage=self._usage(members.get("usage")),
        )

    def _index(self, raw: msgspec.Raw | None, at: int) -> int:
        index = self._count(raw, "choices[].index")
        return at if index is None or index < 0 else index

    def _reply(self, raw: msgspec.Raw | None, place: str) -> Reply | None:
        said = self._read(_members, raw, place)
        if said is None:
            return None
        content, thoughts = self._content(said, "content", place)
        known = (self._content(said, name, place)[0] for name in _THOUGHTS)
        thought = next(filter(None, known), thoughts)
        return Reply(
            role=_or_none(_text, said.get("role")),
            content=content,
            reasoning_content=thought,
            refusal=self._read(_text, said.get("refusal"), f"{place}.refusal"),
            tool_calls=self._calls_in(said.get("tool_calls"), f"{place}.tool_calls"),
            function_call=self._read(_call, said.get("function_call"), f"{place}.function_call"),
            more={name: part for name, part in said.items() if name not in _SAID},
        )

    def _content(
        self, said: Mapping[str, msgspec.Raw], name: str, place: str
    ) -> tuple[str | None, str | None]:
        """A text, and thoughts beside it; both are written as lists of parts, too."""
        raw = said.get(name, ABSENT)
        if bytes(raw) in (b"", b"null"):
            return None, None
        try:
            return _text.decode(raw), None
        except msgspec.DecodeError:
            found = content_of(raw, thoughts=name != "content")
        if found is None:
            self._leave_out(f"{place}.{name}")
            return None, None
        return found

    def _calls_in(self, raw: msgspec.Raw | None, place: str) -> list[dict[str, Any]] | None:
        items = self._read(_items, raw, place)
        if items is None:
            return None
        calls = (self._read(_call, item, f"{place}[]") for item in items)
        return [call for call in calls if call is not None]

    def _usage(self, raw: msgspec.Raw | None) -> WireUsage | None:
        members = self._read(_members, raw, "usage")
        if members is None:
            return None
        prompt, completion = (
            self._count(members.get(name), f"usage.{name}")
            for name in ("prompt_tokens", "completion_tokens")
        )
        return WireUsage(
            prompt,
            completion,
            self._details(members, "prompt_tokens_details"),
            self._details(members, "completion_tokens_details"),
        )

    def _details(
        self, members: Mapping[str, msgspec.Raw], name: str
    ) -> dict[str, int | None] | None:
        details = self._read(_members, members.get(name), f"usage.{name}") or {}
        counts = {
            each: self._count(raw, f"usage.{name}.{each[:_LONGEST_NAME]}")
            for each, raw in details.items()
        }
        return {each: count for each, count in counts.items() if count is not None} or None

    def _count(self, raw: msgspec.Raw | None, place: str) -> int | None:
        number = self._read(_number, raw, place)
        if number is None or isinstance(number, int):
            return number
        if number.is_integer():
            return int(number)
        self._leave_out(place)
        return None

    def _read(
        self, decoder: msgspec.json.Decoder[T], raw: msgspec.Raw | None, place: str
    ) -> T | None:
        """A member's value; None where there is none, or where it is not understood."""
        if raw is None or bytes(raw) in (b"", b"null"):
            return None
        value = _or_none(decoder, raw)
        if value is None:
            self._leave_out(place)
        return value

    def _leave_out(self, place: str) -> None:
        if len(self._unread) < _MOST_UNREAD:
            self._unread[place] = None


_LONGEST_NAME: Final = 64
_THOUGHTS: Final = ("reasoning_content", "reasoning")
_SAID: Final = frozenset({"role", "content", "refusal", "tool_calls", "function_call", *_THOUGHTS})


def _or_none(decoder: msgspec.json.Decoder[T], raw: msgspec.Raw | None) -> T | None:
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _is_special(choice: Choice) -> bool:
    """Whether there is more to a choice than a text in its usual place."""
    reply, finish = choice.message or choice.delta, choice.finish_reason
    called = reply is not None and (reply.tool_calls is not None or reply.function_call is not None)
    both = choice.message is not None and choice.delta is not None
    plain = choice.usage is None and (finish is None or finish in _USUAL)
    return called or both or not plain


def _with_choices(completion: Completion, choices: list[Choice]) -> Completion:
    """With these, and with the usage that one of them may report."""
    usage = completion.usage or next((each.usage for each in choices if each.usage), None)
    return _replace(completion, choices=choices, usage=usage)


_USUAL: Final = frozenset({"stop", "length", "content_filter"})


def _says(reply: Reply | None) -> bool:
    return reply is not None and bool(
        reply.content or reply.thought or reply.refusal or reply.tool_calls or reply.function_call
    )


def _calls_of(reply: Reply) -> list[dict[str, Any]] | None:
    """Its calls of tools; that of a function, in OpenAI's older API, is one."""
    if not reply.tool_calls and reply.function_call:
        return [{"function": reply.function_call}]
    return (
        None if reply.tool_calls is None and reply.function_call is None else reply.tool_calls or []
    )


def _with_known_finish(choice: Choice) -> Choice:
    reason = choice.finish_reason
    if reason == "function_call":
        return _replace(choice, finish_reason="tool_calls")
    if not reason or reason in KNOWN or broke_off(reason):
        return choice
    native = choice.native_finish_reason or reason
    return _replace(choice, finish_reason=standard(reason), native_finish_reason=native)


def _object(data: bytes) -> dict[str, msgspec.Raw]:
    """The members of a JSON object that may not be quite one. Raises NoAnswer."""
    for read in _readings(data):
        try:
            return _members.decode(read)
        except msgspec.ValidationError:
            raise NoAnswer from None  # JSON, and no object
        except (msgspec.DecodeError, RecursionError):
            continue
    raise NoAnswer


def _readings(data: bytes) -> Iterator[bytes]:
    """What may be meant: without a byte order mark or halves of characters; then without what JSON lacks."""
    if not data.isascii():
        try:
            data.decode()  # what is kept raw would otherwise pass with invalid UTF-8 in it
        except UnicodeDecodeError:
            data = data.decode("utf-8", "replace").encode()
    data = without_halves(data.strip().removeprefix(_BOM))
    yield data
    if len(data) <= _MENDED:
        try:
            value, _ = _LENIENT.raw_decode(data.decode())
        except (ValueError, RecursionError):
            return
        yield json.dumps(value).encode()


_CONSTANTS: Final[dict[str, float | None]] = {"-Infinity": _UNLIKELY, "Infinity": None, "NaN": None}


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


_LENIENT: Final = json.JSONDecoder(parse_constant=_CONSTANTS.get, parse_float=_finite)
"""Reads numbers that JSON does not know, and does not mind what stands behind the object."""
