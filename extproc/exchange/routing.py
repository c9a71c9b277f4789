"""How a request is written that Envoy routes to one model: what is said there by another name, or not at all."""

from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from typing import Any

import msgspec

from extproc import headers
from extproc.decisions.recipe import Decision
from extproc.protocol.actions import Metadata, Rewrite
from looper.calling.drafts import LIMITS, can_say_effort, say_effort
from looper.calling.models import Model
from looper.calling.propagation import CONTEXT
from looper.wire.chat import ChatRequest, Request
from looper.wire.dialects import Dialect
from looper.wire.messages import speak

_EFFORT = ("reasoning_effort", "chat_template_kwargs", "thinking")
"""Members in which one dialect or another says how much to think."""


def rewrite(
    request: Request,
    model: Model,
    decision: Decision,
    metadata: Metadata,
    changes: Mapping[str, bytes],
    *,
    trailers: bool,
) -> Rewrite:
    """What Envoy is told, so that the request reaches the model, with all that the decision says of it."""
    ours = [(headers.MODEL, model.name), (headers.RUN, str(metadata["run"]))]
    if trailers:
        ours.append((headers.TRAILERS, "1"))
    if (patience := _patience(model, decision)) is not None:
        ours.append((headers.PATIENCE, str(patience)))
    return Rewrite(
        (*decision.headers.set.items(), *ours),
        written_for(model, request, changes, decision.parameters.governed),
        metadata,
        trailers=trailers,
        appended=tuple(decision.headers.append.items()),
        removed=decision.headers.remove,
    )


def traced(action: Rewrite, headers_: Mapping[str, str]) -> Rewrite:
    """The same in the trace that these headers name, whatever the client's did."""
    context = tuple((name, headers_[name]) for name in CONTEXT if name in headers_)
    stale = tuple(name for name in CONTEXT if name not in headers_)
    return replace(action, headers=(*action.headers, *context), removed=(*action.removed, *stale))


def _patience(model: Model, decision: Decision) -> int | None:
    """The milliseconds within which an answer must begin, if the configuration says any; a default says nothing."""
    said = {"deadline"} & decision.budget.model_fields_set
    limits = [decision.budget.deadline] if said else []
    if model.timeout is not None:
        limits.append(model.timeout)
    return max(1, round(min(limits).total_seconds() * 1000)) if limits else None


def written_for(
    model: Model, request: Request, changes: Mapping[str, bytes], ours: Set[str] = frozenset()
) -> bytes:
    """The body as it goes to a model: its own name for it, and, in a dialect that is declared, its way to say things.

    What it does not take at all is left to it to refuse, as no wish of a client's is dropped without a word; but for
    the members that are `ours` to set.
    """
    dialect = model.declared_dialect
    if dialect is None or not isinstance(request, ChatRequest):
        return request.with_model(model.upstream, changes)
    limit, limit_without = _limit(request, dialect)
    effort, effort_without = _effort(request, dialect)
    names, names_without = _names(request, dialect)
    return request.with_model(
        model.upstream,
        {**_messages(request, dialect), **limit, **effort, **names, **changes},
        {*limit_without, *effort_without, *names_without, *_not_taken(request, dialect, ours)},
    )


def _messages(request: ChatRequest, dialect: Dialect) -> dict[str, bytes]:
    """The conversation, if its roles, its neighbours or its ids of tool calls have to be others."""
    messages = request.members["messages"]
    spoken = speak(messages, dialect)
    return {} if spoken is messages else {"messages": bytes(spoken)}


def _limit(request: ChatRequest, dialect: Dialect) -> tuple[dict[str, bytes], list[str]]:
    """The token limit under the one name that the model knows."""
    said = [name for name in LIMITS if bytes(request.members.get(name, b"null")) != b"null"]
    if not said or said == [dialect.max_tokens]:
        return {}, []
    others = [name for name in LIMITS if name != dialect.max_tokens]
    return {dialect.max_tokens: bytes(request.members[said[0]])}, others


def _names(request: ChatRequest, dialect: Dialect) -> tuple[dict[str, bytes], list[str]]:
    """Members under the names that the model knows; one that is there already under its own stays."""
    known = {
        ours: theirs
        for ours, theirs in dialect.names.items()
        if ours in request.members and theirs not in request.members
    }
    return {theirs: bytes(request.members[ours]) for ours, theirs in known.items()}, list(known)


def _effort(request: ChatRequest, dialect: Dialect) -> tuple[dict[str, bytes], list[str]]:
    """How much to think, as the model wants to be told; what it cannot be told stays as it is."""
    said = request.members.get("reasoning_effort")
    if said is None or not can_say_effort(said, dialect.effort):
        return {}, []
    before: dict[str, Any] = {
        name: request.members[name] for name in _EFFORT if name in request.members
    }
    after = dict(before)
    say_effort(after, dialect.effort)
    new = {name: msgspec.json.encode(value) for name, value in after.items() if name not in before}
    return new, [name for name in before if name not in after]


def _not_taken(request: ChatRequest, dialect: Dialect, ours: Set[str]) -> Iterator[str]:
    """The members that are ours to set, and that the model does not take."""
    for name in ours & request.members.keys():
        mute = name == "reasoning_effort" and not can_say_effort(
            request.members[name], dialect.effort
        )
        if mute or name in dialect.drop:
            yield name
