"""Models that say again what was recorded of them, in the time and at the price that it took."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import msgspec

from looper.calling.calls import Answer, Call, CallFailed, Failure, Private
from looper.calling.models import Model
from looper.evaluate.dataset import Item
from looper.evaluate.outcomes import CHARS_PER_TOKEN, Question
from looper.wire.chat import ABSENT, Choice, Completion, Reply, WireUsage
from looper.wire.tokens import estimate

_FIRST_TOKEN = 0.3
_TOKENS_PER_SECOND = 60
_PRIVATE = frozenset({*get_args(Private), "synthesis", "final"})
"""Stages whose prompts hold what other models said: what would come of them was not recorded."""

_body = msgspec.json.Decoder(dict[str, Any])


@dataclass(frozen=True, slots=True)
class Recorded:
    """An answer of the record: what it says, its tokens, how long it took, and what it cost if that is known."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    usd: float | None
    logprob: float | None

    @classmethod
    def of(cls, row: Question, model: str, prompt: str) -> "Recorded":
        text = row.answers.get(model, "")
        chars = row.chars.get(model, len(text))
        tokens = max(1, chars // CHARS_PER_TOKEN)
        return cls(
            text,
            row.prompt_chars // CHARS_PER_TOKEN or estimate(prompt),
            tokens,
            row.latency.get(model, _FIRST_TOKEN + tokens / _TOKENS_PER_SECOND),
            row.cost.get(model),
            row.logprob.get(model),
        )

    def completion(self) -> Completion:
        message = Reply(role="assistant", content=self.text)
        choice = Choice(message=message, finish_reason="stop", logprobs=self._logprobs())
        return Completion(choices=[choice], usage=self._usage())

    def microusd(self, model: Model, part: float = 1.0) -> float:
        """What a call costs that had this part of its time: as recorded, else by its tokens and the model's price."""
        part = min(1.0, part)
        if self.usd is not None:
            return self.usd * 1e6 * part
        if model.price is None:
            return 0.0
        output = float(model.price.output) * self.completion_tokens * part
        return float(model.price.input) * self.prompt_tokens + output

    def _logprobs(self) -> msgspec.Raw:
        if self.logprob is None:
            return ABSENT
        token = {"token": self.text, "logprob": self.logprob, "top_logprobs": []}
        return msgspec.Raw(msgspec.json.encode({"content": [token]}))

    def _usage(self) -> WireUsage:
        return WireUsage(prompt_tokens=self.prompt_tokens, completion_tokens=self.completion_tokens)


@dataclass
class Replay:
    """In place of the egress client: models that know the recorded questions, and nothing else.

    A call is known by the conversation that it begins with. `names` says which recorded model each model of the
    catalogue is. `microusd` adds up what the calls cost, broken off ones by the part of their time that they had.
    """

    names: Mapping[str, str]
    microusd: float = 0.0
    _known: dict[bytes, tuple[Question, str]] = field(default_factory=dict)

    def learn(self, item: Item, row: Question) -> None:
        """Know a question from now on."""
        messages = item.conversation()
        prompt = "\n".join(str(message.get("content")) for message in messages)
        self._known[_key(messages)] = (row, prompt)

    async def complete(self, call: Call, headers: Mapping[str, str], *, deadline: float) -> Answer:
        """The recorded answer, when its time has come. Raises CallFailed for what was not recorded."""
        recorded = self._find(call)
        await self._wait(recorded, call.model, deadline)
        return Answer(recorded.completion(), 1)

    async def stream(
        self, call: Call, headers: Mapping[str, str], *, deadline: float
    ) -> AsyncGenerator[Answer]:
        """The same, as one chunk and an end."""
        answer = await self.complete(call, headers, deadline=deadline)
        (choice,) = answer.completion.choices
        delta = Choice(delta=choice.message, logprobs=choice.logprobs)
        yield Answer(Completion(choices=[delta]), 1)
        end = Choice(delta=Reply(), finish_reason="stop")
        yield Answer(Completion(choices=[end], usage=answer.completion.usage), 1)

    async def post(
        self, call: Call, path: str, headers: Mapping[str, str], *, deadline: float
    ) -> bytes:
        """What anybody but a model would have answered was not recorded."""
        raise CallFailed(Failure.UNUSABLE, reason="not recorded", attempts=0)

    def _find(self, call: Call) -> Recorded:
        name = self.names.get(call.model.name)
        messages = _body.decode(call.body)["messages"]
        found = None if call.role in _PRIVATE else self._search(messages)
        if name is None or found is None:
            raise CallFailed(Failure.UNUSABLE, reason="not recorded", attempts=0)
        row, prompt = found
        return Recorded.of(row, name, prompt)

    def _search(self, messages: Sequence[Mapping[str, Any]]) -> tuple[Question, str] | None:
        """The question that a conversation begins with: ours may stand behind it, or at its end."""
        for length in range(len(messages), 0, -1):
            for last in _without_ours(messages[length - 1]):
                found = self._known.get(_key([*messages[: length - 1], last]))
                if found is not None:
                    return found
        return None

    async def _wait(self, recorded: Recorded, model: Model, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        until = min(began + recorded.seconds, deadline)
        try:
            await asyncio.sleep(until - began)
        finally:
            passed = loop.time() - began
            self.microusd += recorded.microusd(model, passed / max(recorded.seconds, 1e-9))
        if until < began + recorded.seconds:
            raise CallFailed(Failure.TIMEOUT)


def _without_ours(last: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A message as it came, and what it may have been before we wrote something behind it."""
    yield last
    content = last.get("content")
    if last.get("role") == "user" and isinstance(content, list):
        yield {**last, "content": content[:-1]}
    elif last.get("role") == "user" and isinstance(content, str):
        end = content.rfind("\n\n")
        while end > 0:
            yield {**last, "content": content[:end]}
            end = content.rfind("\n\n", 0, end)


def _key(messages: Sequence[Mapping[str, Any]]) -> bytes:
    return msgspec.json.encode([[each.get("role"), each.get("content")] for each in messages])
