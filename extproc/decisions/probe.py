"""Probes: requests, and what a policy has to make of them. They are asked without Envoy and without any model."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

import msgspec
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from extproc.decisions.engine import Decided, Policy
from extproc.errors import unknown
from extproc.signals import Reading, Subject
from looper.settings import Setting, Tokens
from looper.wire.chat import ChatRequest
from looper.wire.tokens import estimate

_PADDING = "Nothing of what follows here is of any importance. "
"""Says nothing that a signal would be interested in, but how long it is."""


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Names = Annotated[
    tuple[str, ...], BeforeValidator(_as_list, json_schema_input_type=str | tuple[str, ...])
]


class Expected(Setting):
    """What has to come of a request. What is not said may be anything."""

    decision: Names = Field(default=(), description="one of these answers")
    algorithm: Names = Field(default=(), description="by one of these algorithms")
    bands: dict[str, Names] = Field(
        default_factory=dict, description="the band of a score, or the member of a partition"
    )
    signals: Names = Field(default=(), description="names of rules: each of these holds")
    not_signals: Names = Field(default=(), description="none of these holds, and each is known")

    @model_validator(mode="after")
    def _expects_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("expect something")
        return self


def _are_messages(messages: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    if any("role" not in message for message in messages):
        raise ValueError("each message has a `role`")
    return messages


Messages = Annotated[tuple[dict[str, Any], ...], AfterValidator(_are_messages)]


class Probe(Setting):
    """A request, by what its user says or as a conversation, and what has to come of it."""

    text: str | None = Field(default=None, description="what the user says")
    messages: Messages = Field(default=(), description="or the whole conversation")
    tools: tuple[str, ...] = Field(default=(), description="names of the tools that are offered")
    padding: Tokens | None = Field(
        default=None,
        description="the last message is made so much longer, with words of no meaning",
    )
    members: dict[str, Any] = Field(default_factory=dict, description="further members of the body")
    headers: dict[str, str] = Field(default_factory=dict)
    assume: dict[str, bool | dict[str, float] | None] = Field(
        default_factory=dict,
        description="what signals say that are not asked here: a match, labels, or null for no reading",
    )
    tags: Names = ()
    recipe: str | None = Field(default=None, description="if it is for another than the others")
    expect: Expected

    @model_validator(mode="after")
    def _asks_one_thing(self) -> Self:
        if (self.text is None) == (not self.messages):
            raise ValueError("give either `text` or `messages`")
        return self

    @property
    def title(self) -> str:
        """The last thing that is said, on one line."""
        said = self.text if self.text is not None else _said(self.messages[-1])
        line = " ".join(said.split())
        return line if len(line) <= 60 else line[:59] + "…"

    def request(self) -> ChatRequest:
        """The body as a client would send it. Raises InvalidRequest for what is none."""
        body: dict[str, Any] = {"model": "probe", "messages": self._conversation(), **self.members}
        if self.tools:
            body["tools"] = [_tool(name) for name in self.tools]
        return ChatRequest.parse(msgspec.json.encode(body))

    def _conversation(self) -> list[dict[str, Any]]:
        messages = [dict(each) for each in self.messages] or [
            {"role": "user", "content": self.text}
        ]
        if self.padding is not None:
            times = -(-self.padding // estimate(_PADDING * 100)) * 100
            messages[-1]["content"] = f"{_said(messages[-1])}\n\n{_PADDING * times}"
        return messages


def _said(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""


def _tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


class Probes(Setting):
    """A file of probes, which stands beside the file that it is for."""

    recipe: str | None = Field(
        default=None, description="of several in a configuration, the one meant"
    )
    probes: tuple[Probe, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Probed:
    """What came of a probe: nothing wrong, or what."""

    probe: Probe
    decision: str
    shadows: tuple[str, ...]
    problems: tuple[str, ...]
    milliseconds: float


async def run(policy: Policy, probe: Probe) -> Probed:
    """Ask a policy, as live traffic asks it, and compare."""
    subject = Subject(probe.request(), {name.lower(): each for name, each in probe.headers.items()})
    began = time.perf_counter()
    decided = await _decide(policy, subject, probe)
    took = (time.perf_counter() - began) * 1000
    return Probed(
        probe,
        decided.decision.name,
        tuple(decision.name for decision in decided.shadows),
        tuple(_compare(probe.expect, decided, policy)),
        took,
    )


async def _decide(policy: Policy, subject: Subject, probe: Probe) -> Decided:
    if not probe.assume:
        return await policy.decide(subject)
    readings = dict(await policy.read(subject))
    for name, said in probe.assume.items():
        match said:
            case None:
                readings.pop(name, None)
            case bool():
                readings[name] = Reading(match=said, score=float(said))
            case _:
                readings[name] = Reading(match=True, score=1.0, labels=said)
    return policy.judge(subject, readings)


def _compare(expected: Expected, decided: Decided, policy: Policy) -> Iterator[str]:
    names = [decision.name for decision in policy.decisions]
    yield from _one_of("decision", decided.decision.name, expected.decision, names)
    if expected.algorithm and decided.decision.label not in expected.algorithm:
        yield f"algorithm is {decided.decision.label}, not {_or(expected.algorithm)}"
    yield from _compare_bands(expected, decided)
    truths = decided.projected.truths
    for name, wanted in [
        *((name, True) for name in expected.signals),
        *((name, False) for name in expected.not_signals),
    ]:
        if name not in truths:
            yield unknown("name", name, truths)
        elif truths[name] is not wanted:
            yield f"{name} {_WORDS[truths[name]]}"


_WORDS = {True: "holds", False: "does not hold", None: "is unknown"}


def _compare_bands(expected: Expected, decided: Decided) -> Iterator[str]:
    found: dict[str, str | None] = {
        **{name: level.band for name, level in decided.projected.levels.items()},
        **{name: shape.winner for name, shape in decided.projected.shapes.items()},
    }
    for name, wanted in expected.bands.items():
        if name not in found:
            yield unknown("projection", name, found)
            continue
        known = {
            truth.partition(".")[2]
            for truth in decided.projected.truths
            if truth.startswith(f"{name}.")
        }
        yield from _one_of(name, found[name] or "unknown", wanted, known)


def _one_of(what: str, found: str, wanted: tuple[str, ...], known: Iterable[str]) -> Iterator[str]:
    choices = list(known)
    strange = [name for name in wanted if name not in choices]
    for name in strange:
        yield unknown(what, name, choices)
    if wanted and not strange and found not in wanted:
        yield f"{what} is {found}, not {_or(wanted)}"


def _or(names: tuple[str, ...]) -> str:
    return " or ".join(names)
