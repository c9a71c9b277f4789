"""What a stage wants to send, before it is known to which model and with how many tokens; and how it is composed."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import msgspec

from looper.calling.budget import MIN_OUTPUT
from looper.calling.calls import Call, Role
from looper.calling.models import Model
from looper.contract import NO_TERMS, Grammar, Terms
from looper.wire.chat import Capability, ChatRequest
from looper.wire.dialects import STANDARD, Effort
from looper.wire.messages import message, plain, speak, with_ours
from looper.wire.tokens import at_most, estimate

# Members that the runtime sets for itself, whatever the client asked for.
_OWN = frozenset({"model", "stream", "stream_options", "n", "logprobs", "top_logprobs"})
LIMITS = ("max_completion_tokens", "max_tokens")
"""The names of the token limit. The first one holds where both are given."""
_TOOLS = ("tools", "tool_choice", "parallel_tool_calls")
PRIVATE_OUTPUT = 4096
"""Tokens that a private stage may answer with, unless it says otherwise."""

MORE_ROOM = 2
AGAIN_OUTPUT = PRIVATE_OUTPUT * MORE_ROOM
"""The same for one that had too few, and is asked again."""

Members = dict[str, Any]
StandIn = Literal["hedge", "substitute"]
"""Why a call is made that nobody planned: beside one that takes long, or in place of one that failed."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A call that is not yet made. `members` holds values as the client sent them, byte for byte, or plain ones."""

    model: Model
    role: Role
    members: Mapping[str, Any]
    input_tokens: int
    ours: tuple[msgspec.Raw, ...] = ()
    """Messages that stand behind the client's: ours, and what was said to them."""
    needs: frozenset[Capability] = frozenset()
    wanted_output: int | None = None
    stream: bool = False
    extra: bool = False
    """Whether the plan can do without the call, which then is made only if the budget has more than the plan needs."""
    among: int = 1
    """How many calls, it included, share what the budget has left: those of its round that have not begun."""
    agent: str | None = None
    """Whose call it is, where a model works under several names."""
    tools: bool = False
    """Whether calls of tools are an answer to it."""
    shorter: Callable[[], "Draft"] | None = None
    """Composes it with less of the answers that stand in its prompt, where there are any."""
    proposals: bool = False
    """Whether calls of tools say something though they are none: where they would be answers if others made them."""
    grammar: Grammar | None = None
    """What its answer is to be, as far as a server can see to that."""
    stands_in: StandIn | None = None
    choices: int = 1
    """How many answers it asks for."""
    queued: float = 0.0
    """Seconds for which it waited, as too many others of its round were under way."""

    def to(self, model: Model) -> "Draft":
        """The same for another model."""
        return replace(self, model=model)

    def again(self, said: str, why: str) -> "Draft":
        """The same once more, after what the model said and what is wrong with it: an extra call."""
        answered = (message("assistant", said),) if said else ()
        shorter = self.shorter
        return replace(
            self,
            ours=(*self.ours, *answered, message("user", why)),
            input_tokens=self.input_tokens + estimate(said) + estimate(why),
            extra=True,
            shorter=shorter and (lambda: shorter().again(said, why)),
        )

    def less(self, limit: int | None) -> "Draft | None":
        """The same once more for a model that had no room for it and for an answer of `limit` tokens: an extra call.

        None if there is nothing that could be left out.
        """
        if self.shorter is None and (limit is None or limit <= MIN_OUTPUT):
            return None
        short = self if self.shorter is None else self.shorter()
        return replace(
            self,
            members=short.members,
            ours=short.ours,
            input_tokens=short.input_tokens,
            wanted_output=self.wanted_output if limit is None else max(MIN_OUTPUT, limit // 4),
            extra=True,
            shorter=None,
        )

    def has_room_for(self, more: str) -> bool:
        """Whether so much more in the prompt leaves an answer room in the model's context window."""
        window = self.model.context_window
        if window is None:
            return True
        answer = min(4 * MIN_OUTPUT, window // 4)
        return at_most(self.input_tokens + estimate(more)) + answer <= window

    def roomier(self) -> "Draft":
        """The same with more room for the answer, of which nothing, or not all, came."""
        wanted = self.wanted_output
        return replace(self, wanted_output=None if wanted is None else wanted * MORE_ROOM)

    def without_tools(self) -> "Draft":
        """The same for an answer that is to be a text."""
        armed = {"tool_choice": "none"} if "tools" in self.members else {}
        return replace(self, members={**self.members, **armed}, tools=False)

    def unsuitable(self) -> str | None:
        """Why the model cannot take this; None if it can, as far as is known."""
        return self.model.lacks(self.needs, self.input_tokens)

    @property
    def messages(self) -> Any:
        """The conversation with our words behind it, as the model is to read them, in no dialect yet."""
        return with_ours(self.members["messages"], self.ours, apart=self.model.dialect.apart)

    def call(self, max_tokens: int | None, retries: int = 0) -> Call:
        """The call, in the model's dialect and with this limit on its output."""
        dialect = self.model.dialect
        members: Members = {
            name: value
            for name, value in self.members.items()
            if name not in LIMITS
            and name not in dialect.drop
            and (dialect.open or name in STANDARD)
            and not is_null(value)
        }
        say_names(members, dialect.names)
        members["model"] = self.model.upstream
        members["messages"] = speak(self.messages, dialect)
        if max_tokens is not None:
            members[dialect.max_tokens] = max_tokens
        say_effort(members, dialect.effort)
        if self.grammar is not None and self._may_be_bound():
            bind(members, self.grammar, self.model)
        if self.stream:
            members["stream"] = True
            if "stream_options" not in dialect.drop:
                members["stream_options"] = {"include_usage": True}
        return Call(self.model, self.role, msgspec.json.encode(members), retries)

    def _may_be_bound(self) -> bool:
        """Whether a grammar takes nothing away: no reasoning, no calls of tools, and no wish of the client's."""
        grammar, calls = self.grammar, self.tools and "tools" in self.members
        free = self.role == "repair" or self.model.dialect.thinks_outside
        bare = free or (grammar is not None and grammar.bare)
        return bare and not calls and "response_format" not in self.members

    def dropped(self) -> Iterable[str]:
        """The client's members that the model's dialect does not take."""
        dialect = self.model.dialect
        dropped = {
            name
            for name in self.members
            if name in dialect.drop or not (dialect.open or name in STANDARD)
        }
        said = self.members.get("reasoning_effort")
        if said is not None and not can_say_effort(said, dialect.effort):
            dropped.add("reasoning_effort")
        return sorted(dropped)


def answering(
    request: ChatRequest,
    model: Model,
    role: Role,
    *,
    instruction: str | None = None,
    tools: bool = False,
    logprobs: bool = False,
    alternatives: int | None = None,
    stream: bool = False,
    choices: bool = False,
    sample: int = 0,
    temperature: float | None = None,
    terms: Terms = NO_TERMS,
) -> Draft:
    """A call whose answer may be published: the client's wishes hold, and its members go on byte for byte.

    `instruction`, and what `terms` have models told of the contract, are told behind the conversation. Without
    `tools` the client's tools are taken out; where the conversation already holds calls of tools they stay, as
    backends want to see them, but may not be called. With `choices` the client's `n` holds, with `logprobs` its wish
    for probabilities; with `alternatives` we want them ourselves, and so many beside each token, from every model that
    may have them. Samples after the first have seeds of their own. `temperature` takes the place of the client's.
    """
    members: Members = {name: value for name, value in request.members.items() if name not in _OWN}
    _settle_tools(request, members, armed=tools)
    if logprobs:
        names = ("logprobs", "top_logprobs")
        members |= {name: request.members[name] for name in names if name in request.members}
    if alternatives is not None and _has_logprobs(model):
        most = max(alternatives, request.top_logprobs if logprobs else 0)
        members |= {"logprobs": True, **({"top_logprobs": most} if most else {})}
    if choices and "n" in request.members:
        members["n"] = request.members["n"]
    appended = "\n\n".join(filter(None, (instruction, terms.prompt)))
    if temperature is not None:
        members["temperature"] = temperature
    if sample:
        members["seed"] = derived_seed(request, f"{role}/{sample}")
    return Draft(
        model,
        role,
        members,
        input_tokens=request.prompt_tokens + estimate(appended),
        ours=(message("user", appended),) if appended else (),
        needs=request.needs if tools else request.needs - {"tools"},
        wanted_output=request.output_limit,
        stream=stream,
        tools=tools,
        grammar=terms.grammar,
        proposals=not tools and request.offers_tools and _uses_tools(request),
        choices=request.choices if choices else 1,
    )


def private(
    request: ChatRequest,
    model: Model,
    role: Role,
    *,
    instruction: str,
    schema: Mapping[str, Any] | None,
    output: int = PRIVATE_OUTPUT,
) -> Draft:
    """A call whose answer is never published: the conversation, our instruction, and nothing else of the client's."""
    members: Members = {"messages": request.members["messages"]}
    if "seed" in request.members:
        members["seed"] = derived_seed(request, role)
    if _uses_tools(request) and "tools" in request.members:
        members |= {name: request.members[name] for name in _TOOLS if name in request.members}
        _settle_tools(request, members, armed=False)
    if schema is not None and "json_schema" in (model.capabilities or ()):
        members["response_format"] = _response_format(role, schema)
    return Draft(
        model,
        role,
        members,
        input_tokens=request.prompt_tokens + estimate(instruction),
        ours=(message("user", instruction),),
        needs=request.needs & {"vision"},
        wanted_output=output,
    )


def shortened(compose: Callable[[bool], Draft]) -> Draft:
    """A draft that can be had shorter: `compose` is told whether to leave some of its evidence out."""
    return replace(compose(False), shorter=lambda: compose(True))


def derived_seed(request: ChatRequest, salt: str) -> int:
    """A seed that follows from the client's, or from the body, and differs from stage to stage."""
    digest = hashlib.sha256(request.seed_source + salt.encode()).digest()
    return int.from_bytes(digest[:4]) >> 1


def _has_logprobs(model: Model) -> bool:
    """Whether a model may be asked for the probabilities of tokens, as far as is known."""
    able = model.capabilities is None or "logprobs" in model.capabilities
    return able and "logprobs" not in model.dialect.drop


def _settle_tools(request: ChatRequest, members: Members, *, armed: bool) -> None:
    """Take out the tools, or what says that they may be called, unless they may be."""
    if not armed and not _uses_tools(request):
        for name in _TOOLS:
            members.pop(name, None)
    elif "tools" not in members:
        members.pop("parallel_tool_calls", None)  # upstreams refuse it without any
    elif not armed:
        members["tool_choice"] = "none"


def _uses_tools(request: ChatRequest) -> bool:
    return any(message.role == "tool" for message in request.messages)


def bind(members: Members, grammar: Grammar, model: Model) -> None:
    """Say what an answer is to be, in the way that the upstream understands, if there is one."""
    dialect = model.dialect
    if grammar.schema is not None:
        if "json_schema" in (model.capabilities or ()) and "response_format" not in dialect.drop:
            members["response_format"] = _response_format("answer", grammar.schema)
        return
    name, said = ("choice", grammar.choices) if grammar.choices else ("regex", grammar.regex)
    if dialect.constrain == "structured_outputs":
        members.setdefault("structured_outputs", {name: said})
    elif dialect.constrain == "guided":
        members.setdefault(f"guided_{name}", said)


def _response_format(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "json_schema",
        "json_schema": {"name": name, "schema": schema, "strict": False},
    }


def is_null(value: Any) -> bool:
    """Whether a member says nothing: many servers refuse a null where they take the member to be left out."""
    return value is None or (isinstance(value, msgspec.Raw) and bytes(value).strip() == b"null")


def say_names(members: Members, names: Mapping[str, str]) -> None:
    """Call members what the upstream calls them."""
    for ours, theirs in names.items():
        if ours in members:
            members[theirs] = members.pop(ours)


def say_effort(members: Members, how: Effort) -> None:
    """Say how much to think in the way that the upstream understands."""
    if "reasoning_effort" not in members or how == "reasoning_effort":
        return
    effort = _effort(members.pop("reasoning_effort"))
    if effort is None:
        return
    if how == "enable_thinking":
        members.setdefault("chat_template_kwargs", {"enable_thinking": effort != "none"})
    elif how == "thinking_budget" and effort in _THINKING:
        members["thinking"] = {"type": "enabled", "budget_tokens": _THINKING[effort]}


def _effort(said: Any) -> str | None:
    effort = plain(said)
    return effort if isinstance(effort, str) else None


def can_say_effort(said: Any, how: Effort) -> bool:
    """Whether an upstream can be told how much to think."""
    effort = _effort(said)
    if how == "thinking_budget":
        return effort in _THINKING
    return effort is None or how != "none"


_THINKING = {"low": 1024, "medium": 4096, "high": 16_384}


@cache
def json_schema(type: type[Any]) -> dict[str, Any]:
    """The JSON schema of a pydantic model, as backends take it."""
    schema: dict[str, Any] = _bounded(json.loads(json.dumps(type.model_json_schema())))
    return schema


_MOST_ITEMS = 16
_LONGEST_TEXT = 2000


def _bounded(part: Any) -> Any:
    """A schema with an end to its lists and texts: a small model that is bound to one without may go on for ever."""
    if isinstance(part, list):
        return [_bounded(each) for each in part]
    if not isinstance(part, dict):
        return part
    bounded = {name: _bounded(each) for name, each in part.items()}
    match part.get("type"):
        case "array":
            bounded.setdefault("maxItems", _MOST_ITEMS)
        case "string" if part.keys().isdisjoint(("enum", "const", "pattern")):
            bounded.setdefault("maxLength", _LONGEST_TEXT)
        case _:
            pass
    return bounded
