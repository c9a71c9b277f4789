"""How a simulated model's answers look on the wire: the shapes of OpenAI's API, whole and streamed."""

import base64
import math
import re
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Annotated, Any, Literal

import msgspec

from looper.simulate.answers import ChatBody, Choice, Message, draw, tokens
from looper.simulate.models import SimulatedModel

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A response, when its parts come, and how it ends."""

    pieces: tuple[bytes, ...] = ()
    """A stream's events, the role's first and `[DONE]` last; or one body."""
    status: int | None = 200
    """None: not even headers."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Without `Content-Type` and `Content-Length`, the usual ones."""
    streamed: bool = False
    wait: float = 0.0
    """Seconds before the headers."""
    pause: float = 0.0
    """Seconds between the pieces."""
    ending: Literal["end", "hang", "reset"] = "end"
    faulted: bool = False
    usage: Mapping[str, Any] | None = None
    """What it costs, if it is sent to its end."""


def http_error(status: int, code: str, message: str, *, param: str | None = None) -> Delivery:
    kinds = {429: "rate_limit_error", 401: "authentication_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    error = {"message": message, "type": kind, "param": param, "code": code}
    return Delivery((msgspec.json.encode({"error": error}),), status=status)


def event(data: object) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def completion(model: SimulatedModel, body: ChatBody, choices: Sequence[Choice]) -> Delivery:
    """A chat completion, streamed or not."""
    head = _head(model, "chatcmpl", "chat.completion.chunk" if body.stream else "chat.completion")
    usage = _usage(body.texts, [choice.message for choice in choices])
    if body.stream:
        events = (*_events(head, body, choices, usage), DONE)
        return Delivery(
            events, streamed=True, wait=model.latency, pause=model.token_latency, usage=usage
        )
    whole = [
        {
            "index": index,
            "message": {"role": "assistant", "content": None, "refusal": None, **choice.message},
            "logprobs": choice.logprobs,
            "finish_reason": choice.finish_reason,
        }
        for index, choice in enumerate(choices)
    ]
    seconds = model.latency + model.token_latency * usage["completion_tokens"] / len(choices)
    encoded = msgspec.json.encode({**head, "choices": whole, "usage": usage})
    return Delivery((encoded,), wait=seconds, usage=usage)


def _head(model: SimulatedModel, prefix: str, kind: str) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": model.name,
        "system_fingerprint": f"simulated:{model.name}",
    }


def _events(
    head: dict[str, Any], body: ChatBody, choices: Sequence[Choice], usage: dict[str, Any]
) -> Iterator[bytes]:
    with_usage = bool((body.stream_options or {}).get("include_usage"))
    head = {**head, "usage": None} if with_usage else head

    for index, choice in enumerate(choices):
        rest = {"index": index, "finish_reason": None}
        for delta, logprobs in _deltas(choice):
            yield event({**head, "choices": [{**rest, "delta": delta, "logprobs": logprobs}]})
        ending: dict[str, Any] = {
            "delta": {},
            "logprobs": None,
            "finish_reason": choice.finish_reason,
        }
        yield event({**head, "choices": [{**rest, **ending}]})
    if with_usage:
        yield event({**head, "choices": [], "usage": usage})


def _deltas(choice: Choice) -> Iterator[tuple[dict[str, Any], Mapping[str, Any] | None]]:
    """A message in pieces, each with the log-probabilities of its tokens: role, thoughts, the rest."""
    message = dict(choice.message)
    content, calls = message.pop("content", None), message.pop("tool_calls", None) or ()
    older = message.pop("function_call", None)
    yield {"role": "assistant", "content": None if content is None else ""}, None
    for key in sorted(message, key=lambda key: key != "reasoning_content"):
        value = message[key]
        for piece in tokens(value) if isinstance(value, str) else [value]:
            yield {key: piece}, None
    entries = (choice.logprobs or {}).get("content") or []
    if "".join(entry["token"] for entry in entries) == content:
        for entry in entries:
            yield {"content": entry["token"]}, {"content": [entry], "refusal": None}
    else:
        for at, piece in enumerate(tokens(content or "")):
            yield {"content": piece}, None if at else choice.logprobs
    for called in (*_calls(calls), *_function_call(older)):
        yield called, None


def _calls(calls: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for index, call in enumerate(calls):
        function = call["function"]
        yield {"tool_calls": [{**call, "index": index, "function": {**function, "arguments": ""}}]}
        for piece in tokens(function["arguments"]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _function_call(call: dict[str, str] | None) -> Iterator[dict[str, Any]]:
    if call is not None:
        yield {"function_call": {**call, "arguments": ""}}
        for piece in tokens(call["arguments"]):
            yield {"function_call": {"arguments": piece}}


def prompt_tokens(texts: Iterable[str]) -> int:
    return sum(4 + len(text) // 4 for text in texts)


def _usage(prompts: Iterable[str], messages: Iterable[Message]) -> dict[str, Any]:
    prompt = prompt_tokens(prompts)
    thought = said = 0
    for message in messages:
        thought += len(tokens(message.get("reasoning_content") or ""))
        said += len(tokens((message.get("content") or "") + (message.get("refusal") or "")))
        calls = [call["function"] for call in message.get("tool_calls") or ()]
        calls += [call for call in [message.get("function_call")] if call]
        said += sum(len(tokens(call["arguments"])) for call in calls)
    counts = {"prompt_tokens": prompt, "completion_tokens": thought + said}
    details = {"completion_tokens_details": {"reasoning_tokens": thought}} if thought else {}
    return {**counts, "total_tokens": prompt + thought + said, **details}


def legacy_completion(model: SimulatedModel, body: ChatBody, choice: Choice) -> Delivery:
    """A text completion; streamed, its text is one event."""
    text = {"text": choice.message["content"], "index": 0, "logprobs": None}
    answer: dict[str, Any] = {
        **_head(model, "cmpl", "text_completion"),
        "choices": [{**text, "finish_reason": choice.finish_reason}],
    }
    if body.stream:
        return Delivery((event(answer), DONE), streamed=True, wait=model.latency)
    answer["usage"] = _usage(body.texts, [choice.message])
    return Delivery((msgspec.json.encode(answer),), wait=model.latency)


class EmbeddingsBody(msgspec.Struct, frozen=True):
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=4096)] | None = None


def embeddings(model: SimulatedModel, body: EmbeddingsBody) -> Delivery:
    """Bags of words, so that texts with words in common are near to each other."""
    single = isinstance(body.input, str) or all(isinstance(part, int) for part in body.input)
    texts = [str(text) for text in ([body.input] if single else body.input)]
    data = []
    for index, text in enumerate(texts):
        vector = [0.0] * (body.dimensions or 64)
        for word in re.findall(r"\w+", text.lower()) or [""]:
            vector[int(draw(model.seed, word) * len(vector))] += 1.0
        length = math.hypot(*vector)
        vector = [value / length for value in vector]
        packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        shown = packed if body.encoding_format == "base64" else vector
        data.append({"object": "embedding", "index": index, "embedding": shown})
    prompt = prompt_tokens(texts)
    usage = {"prompt_tokens": prompt, "total_tokens": prompt}
    answer = {"object": "list", "data": data, "model": model.name, "usage": usage}
    return Delivery((msgspec.json.encode(answer),), wait=model.latency)
