"""A chat request as the client sent it, read without being rebuilt; and completions as backends answer."""

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, Literal, Self, TypeVar

import msgspec

from looper.errors import InvalidField, InvalidJson, InvalidRequest
from looper.wire.folding import folded
from looper.wire.json_object import TOO_DEEP, JsonObject
from looper.wire.tokens import IMAGE, MESSAGE, weigh

Capability = Literal["logprobs", "tools", "vision", "json_schema"]
"""What a request may need and a model may lack."""


ABSENT = msgspec.Raw()
"""A member that is not there. Not None: of `Raw | None`, msgspec decodes nothing but null."""


_ROLES = frozenset({"user", "assistant", "system", "developer", "tool", "function"})


class Part(msgspec.Struct, frozen=True):
    """A part of a multimodal message."""

    type: str = ""
    text: str | None = None


class Message(msgspec.Struct, frozen=True):
    """A message of the conversation, as far as it is read here; what is sent on is the client's own bytes."""

    role: str
    content: str | list[Part] | None = None
    tool_calls: msgspec.Raw = ABSENT
    function_call: msgspec.Raw = ABSENT

    @property
    def speaker(self) -> str:
        """Its role as a lenient server takes it: `User` is the user."""
        return self.role if self.role in _ROLES else folded(self.role).strip()

    @property
    def calls_function(self) -> bool:
        """Whether it calls a function, in OpenAI's older API."""
        return self.speaker == "assistant" and bytes(self.function_call) not in (b"", b"null")

    @property
    def text(self) -> str:
        match self.content:
            case None:
                return ""
            case str():
                return self.content
            case list():
                return "\n".join(part.text for part in self.content if part.text)

    @property
    def parts(self) -> list[Part]:
        return self.content if isinstance(self.content, list) else []


_messages = msgspec.json.Decoder(list[Message])
_items = msgspec.json.Decoder(list[msgspec.Raw])
_message = msgspec.json.Decoder(Message)


class Request:
    """A JSON body with a `model`, and its members as bytes."""

    def __init__(self, object: JsonObject) -> None:
        self._object = object
        self.body = object.data
        self.members = object.members
        self.model = _read(self.members, "model", str)

    @property
    def streams(self) -> bool:
        """Whether it asks for a stream in so many words; anything else there is for whoever answers to judge."""
        return bytes(self.members.get("stream", b"")) == b"true"

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Raises InvalidJson if `body` is no JSON object or has a key twice, InvalidField without a `model`."""
        object = JsonObject.parse(body)
        if "model" not in object.members:
            raise InvalidField("The body has no `model`.", param="model")
        return cls(object)

    def read(self, name: str, type: Any) -> Any:
        """A member's value; absent is null, where `type` allows it. Raises InvalidField for any other."""
        return _read(self.members, name, type)

    def positive(self, name: str) -> int | None:
        """A member that is a positive whole number, or null. Raises InvalidField for any other."""
        said = _read(self.members, name, Any)
        number = _whole(said)
        if said is not None and number is None:
            raise InvalidField(f"`{name}` must be a positive integer.", param=name)
        return number

    def positive_or_none(self, name: str) -> int | None:
        """The same, where anything else counts for nothing."""
        try:
            return self.positive(name)
        except InvalidRequest:
            return None

    @cached_property
    def output_limit(self) -> int | None:
        """The client's limit on tokens of the answer, under whichever of its two names. Raises InvalidField."""
        limits = [self.positive(name) for name in ("max_completion_tokens", "max_tokens")]
        return next((limit for limit in limits if limit is not None), None)

    def changed(self, changes: Mapping[str, bytes]) -> Self:
        """The request with other values for some members, and every other byte as it was."""
        return type(self)(JsonObject.parse(self._object.edited(changes)))

    def with_model(
        self,
        name: str,
        changes: Mapping[str, bytes] = MappingProxyType({}),
        without: Iterable[str] = (),
    ) -> bytes:
        """The body with another model's name in it, other members changed or left out, every other byte as it was."""
        return self.edited({"model": msgspec.json.encode(name), **changes}, without)

    def edited(self, changes: Mapping[str, bytes], without: Iterable[str] = ()) -> bytes:
        """The body with other values for some members, and some left out, every other byte as it was."""
        object = self._object
        last: str | None = None
        for each in without:
            if each in self.members:
                object = (
                    object if last is None else JsonObject.parse(object.edited({}, without=last))
                )
                last = each
        return object.edited(changes, without=last)


class ChatRequest(Request):
    """A request for a chat completion."""

    def __init__(self, object: JsonObject) -> None:
        super().__init__(object)
        self._misshapen: InvalidField | None = None
        self.messages = self._read_messages()

    def check(self) -> None:
        """Raises InvalidField for what is only passed on to one model, but of no use to a team."""
        if self._misshapen is not None:
            raise self._misshapen
        _ = self.output_limit, self.choices

    def with_messages(self, messages: bytes, **changes: bytes) -> "ChatRequest":
        """The same request over another conversation, perhaps with other members too."""
        return type(self).parse(self._object.edited({"messages": messages, **changes}))

    def _read_messages(self) -> list[Message]:
        raw = self.members.get("messages")
        if raw is None:
            raise InvalidField("The body has no `messages`.", param="messages")
        try:
            messages = _messages.decode(raw)
        except msgspec.DecodeError as error:
            self._misshapen = InvalidField(explain("messages", error), param="messages")
            messages = self._as_understood(raw)
        except RecursionError:
            raise InvalidJson(TOO_DEEP) from None
        if not messages:
            raise InvalidField("`messages` is empty.", param="messages")
        return messages

    def _as_understood(self, raw: msgspec.Raw) -> list[Message]:
        """Of each message what signals may read of it. Raises InvalidField for what is no list."""
        assert self._misshapen is not None
        try:
            items = _items.decode(raw)
        except msgspec.DecodeError:
            raise self._misshapen from None
        return [_understood(item) for item in items]

    def changed(self, changes: Mapping[str, bytes]) -> Self:
        """The request with other values for some members; whatever is added to it, it is the same conversation."""
        changed = super().changed(changes)
        if "messages" in changes:
            changed.fingerprint = self.fingerprint
        return changed

    @cached_property
    def text(self) -> str:
        """What the user wrote, over all turns."""
        return self.said_by("user")

    def said_by(self, *roles: str) -> str:
        """What those with one of these roles wrote; without roles, everybody."""
        said = (each.text for each in self.messages if not roles or each.speaker in roles)
        return "\n".join(said)

    @cached_property
    def fingerprint(self) -> bytes:
        """The same in every turn of a conversation: a hash of its instructions and of the user's first turn."""
        digest = blake2b(digest_size=16)
        for message in self._beginning():
            text = message.text.encode("utf-8", "surrogatepass")
            digest.update(f"{message.role}:{len(text)}:".encode("utf-8", "surrogatepass"))
            digest.update(text)
        return digest.digest()

    def _beginning(self) -> Iterator[Message]:
        for message in self.messages:
            if message.speaker in ("system", "developer", "user"):
                yield message
            if message.speaker == "user":
                return

    @cached_property
    def stream(self) -> bool:
        return _read(self.members, "stream", bool | None) or False

    @cached_property
    def include_usage(self) -> bool:
        options = _read(self.members, "stream_options", StreamOptions | None)
        return options is not None and options.include_usage is True

    @cached_property
    def logprobs(self) -> bool:
        """Whether the client asks for the probabilities of tokens."""
        return _read(self.members, "logprobs", bool | None) or False

    @cached_property
    def top_logprobs(self) -> int:
        """How many alternatives the client asks for beside each token."""
        return _read(self.members, "top_logprobs", int | None) or 0

    @property
    def seed_source(self) -> bytes:
        """What chance follows from, so that the same request meets the same: the client's `seed`, else all of it."""
        seed = bytes(self.members.get("seed", b"null"))
        return self.body if seed == b"null" else seed

    @cached_property
    def prompt_tokens(self) -> int:
        """The size of conversation and tools, as estimated; images count by their number, not by their bytes."""
        offered = (self.members[name] for name in ("tools", "functions") if name in self.members)
        size = sum(map(_weight, self.messages)) + sum(_weigh(raw) + _LINE for raw in offered)
        return math.ceil(size - _LINE)

    @cached_property
    def images(self) -> int:
        """How many images the conversation holds."""
        return sum(_images(message) for message in self.messages)

    @cached_property
    def needs(self) -> frozenset[Capability]:
        """What a model must be able to do to take this request."""
        needs: set[Capability] = set()
        if any(says(self.members.get(name)) for name in ("tools", "functions")):
            needs.add("tools")
        if self.images:
            needs.add("vision")
        if b'"json_schema"' in bytes(self.members.get("response_format", b"")):
            needs.add("json_schema")
        return frozenset(needs)

    @cached_property
    def offers_tools(self) -> bool:
        """Whether the answer may be a call of a tool."""
        return "tools" in self.needs and bytes(self.members.get("tool_choice", b"")) != b'"none"'

    @cached_property
    def has_tools(self) -> bool:
        """Whether tools are in play: offered now, or called before."""
        return "tools" in self.needs or any(
            message.speaker in ("tool", "function")
            or says(message.tool_calls)
            or message.calls_function
            for message in self.messages
        )

    @cached_property
    def choices(self) -> int:
        """How many choices the client asks for. Raises InvalidField."""
        count = self.positive("n")
        return 1 if count is None else count


def _images(message: Message) -> int:
    return sum(part.type == "image_url" for part in message.parts)


def _weight(message: Message) -> float:
    """What a message weighs in tokens. Nearly all have one text and no more, and every request is read."""
    size = MESSAGE + 3 * _LINE
    if message.tool_calls is not ABSENT or message.function_call is not ABSENT:
        size += _weigh(message.tool_calls) + _weigh(message.function_call)
    if isinstance(message.content, str):
        return size + weigh(message.content)
    return size + weigh(message.text) + IMAGE * _images(message)


def _weigh(raw: msgspec.Raw) -> float:
    return weigh(bytes(raw).decode("utf-8", "replace"))


_LINE = weigh("\n")
"""What stands between texts."""


def _understood(raw: msgspec.Raw) -> Message:
    """As much of a message as is one."""
    if (message := _or_none(_message, raw)) is not None:
        return message
    members = _or_none(_members, raw) or {}
    parts = _or_none(_items, members.get("content", ABSENT))
    texts = None if parts is None else [_or_none(_part, part) or Part() for part in parts]
    text = _or_none(_text, members.get("content", ABSENT))
    return Message(
        role=_or_none(_text, members.get("role", ABSENT)) or "",
        content=text if texts is None else texts,
        tool_calls=members.get("tool_calls", ABSENT),
        function_call=members.get("function_call", ABSENT),
    )


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_part = msgspec.json.Decoder(Part)
_text = msgspec.json.Decoder(str)
T = TypeVar("T")


def _or_none(decoder: msgspec.json.Decoder[T], raw: msgspec.Raw) -> T | None:
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None


def _whole(said: Any) -> int | None:
    """A number that is whole and positive; 256.0 is."""
    if isinstance(said, bool) or not isinstance(said, int | float) or said != said // 1:
        return None
    return int(said) if said >= 1 else None


def says(raw: msgspec.Raw | None) -> bool:
    """Whether a member that is a list has anything in it."""
    return raw is not None and bytes(raw).translate(None, b" \t\n\r") not in (b"", b"null", b"[]")


class StreamOptions(msgspec.Struct, frozen=True):
    """`stream_options` of a request."""

    include_usage: bool | None = None


def _read(members: Mapping[str, msgspec.Raw], name: str, type: Any) -> Any:
    """A member's value. Absent is null, where `type` allows it."""
    try:
        return msgspec.json.decode(members.get(name, b"null"), type=type)
    except msgspec.DecodeError as error:
        raise InvalidField(explain(name, error), param=name) from None
    except RecursionError:
        raise InvalidJson(TOO_DEEP) from None


def explain(name: str, error: msgspec.DecodeError) -> str:
    """msgspec's message names types and a path, never a value: it is safe to show."""
    text, _, path = str(error).partition(" - at `$")
    return f"`{name}{path.rstrip('`')}`: {text}."


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one call or, added up, of several. Details are OpenAI's own, by name.

    `estimated` is how many of all these tokens no backend has reported.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_details: dict[str, int] = {}
    completion_details: dict[str, int] = {}
    estimated: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            _sum(self.prompt_details, other.prompt_details),
            _sum(self.completion_details, other.completion_details),
            self.estimated + other.estimated,
        )

    def to_dict(self) -> dict[str, object]:
        wire: dict[str, object] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
        }
        if self.prompt_details:
            wire["prompt_tokens_details"] = dict(self.prompt_details)
        if self.completion_details:
            wire["completion_tokens_details"] = dict(self.completion_details)
        return wire


NO_USAGE = Usage()


def _sum(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    return {name: a.get(name, 0) + b.get(name, 0) for name in {**a, **b}}


class WireUsage(msgspec.Struct, frozen=True):
    """`usage` as a backend reports it: whether that can be is for those to say who know what was asked."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: dict[str, int | None] | None = None
    completion_tokens_details: dict[str, int | None] | None = None

    def read(self) -> Usage:
        """As it may be added up: what is missing or negative counts for nothing, nor does a part above its whole."""
        prompt, completion = max(0, self.prompt_tokens or 0), max(0, self.completion_tokens or 0)
        return Usage(
            prompt,
            completion,
            _parts(self.prompt_tokens_details, prompt),
            _parts(self.completion_tokens_details, completion),
        )


def _parts(details: dict[str, int | None] | None, whole: int) -> dict[str, int]:
    if not details:
        return {}
    return {name: count or 0 for name, count in details.items() if 0 <= (count or 0) <= whole}


class Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The message, or the delta of one, that a backend answers with.

    Whoever reads a `Completion` of the client's finds no `function_call`: it is among `tool_calls`.
    """

    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    function_call: dict[str, Any] | None = None
    annotations: msgspec.Raw = ABSENT
    audio: msgspec.Raw = ABSENT
    images: msgspec.Raw = ABSENT
    reasoning_details: msgspec.Raw = ABSENT
    thinking_blocks: msgspec.Raw = ABSENT
    provider_specific_fields: msgspec.Raw = ABSENT
    more: dict[str, msgspec.Raw] = msgspec.field(name="looper.more", default_factory=dict)
    """Members that nobody knows here: they are the client's to see, as those before are, which come often."""

    @property
    def thought(self) -> str | None:
        """Reasoning, under whichever of its two names."""
        return self.reasoning_content or self.reasoning

    @property
    def beside(self) -> dict[str, msgspec.Raw]:
        """What is said beside the answer, by its names, and is only handed on."""
        named = {name: raw for name in _BESIDE if (raw := getattr(self, name)) is not ABSENT}
        if not named and not self.more:
            return NOTHING_BESIDE
        said = {**named, **self.more}
        return {name: raw for name, raw in said.items() if bytes(raw) not in (b"", b"null")}


_BESIDE = (
    "annotations",
    "audio",
    "images",
    "reasoning_details",
    "thinking_blocks",
    "provider_specific_fields",
)
NOTHING_BESIDE: dict[str, msgspec.Raw] = {}


class Choice(msgspec.Struct, frozen=True):
    """One choice of a completion (`message`) or of a chunk (`delta`).

    `native_finish_reason` is the backend's own word for the end, where it is none of OpenAI's. There are servers that
    report the usage here.
    """

    index: int = 0
    message: Reply | None = None
    delta: Reply | None = None
    finish_reason: str | None = None
    native_finish_reason: str | None = None
    logprobs: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT
    usage: WireUsage | None = None


class Completion(msgspec.Struct, frozen=True):
    """A backend's complete answer, or one chunk of a streamed one."""

    choices: list[Choice] = []
    usage: WireUsage | None = None
    object: str | None = None
    error: msgspec.Raw = ABSENT

    @property
    def is_error(self) -> bool:
        """Whether it is an error that came with status 200, in one of the shapes that are in use."""
        if self.object == "error" or _is_error(self.error):
            return True
        return any(_is_error(choice.error) for choice in self.choices)


def _is_error(raw: msgspec.Raw) -> bool:
    return raw is not ABSENT and bytes(raw) not in (b"", b"null", b"false", b'""', b"[]")
