"""The record of a run as it is kept and shown: what was decided and why, what it took, and what came of it.

Without `record: full` there is no word in it of what was said. What its members mean stands in `record.py`'s schema.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, get_args

import msgspec

from extproc.decisions.explain import Explanation
from extproc.protocol.actions import Metadata
from looper.calling.budget import Amount, Ledger
from looper.calling.calls import Answering
from looper.calling.drafts import LIMITS
from looper.run import Run
from looper.wire.chat import ABSENT, ChatRequest, Request
from looper.wire.messages import plain

VERSION = 1
"""Of the schema; another one when a reader of the old one would misread the new."""

RUNNING = "running"
"""The outcome of a run that is not over."""

_ANSWERING = get_args(Answering)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True)
class Opened:
    """A team's run that has begun, and what is known of its request.

    `trail` says by what others know it, `queued` are the seconds before its turn came.
    """

    request: ChatRequest
    run: Run
    facts: Metadata
    trail: Mapping[str, str] = field(default_factory=dict)
    queued: float = 0.0
    why: Explanation | None = None
    began: str = field(default_factory=now)

    def record(self, facts: Metadata, *, full: bool) -> dict[str, Any]:
        """The record as far as things have come. `facts` are those of the exchange."""
        run, trace = self.run, self.run.trace
        record: dict[str, Any] = {
            "version": VERSION,
            "kind": "team",
            "time": self.began,
            **facts,
            **self.trail,
            "queued": round(self.queued, 4),
            "seconds": round(trace.elapsed, 4),
            "first_token": trace.first_word if self.request.stream else None,
            "request": asked(self.request),
            "budget": _budget(run),
            "spent": _spent(run.ledger),
            "usage": run.ledger.usage.to_dict(),
            **trace.to_dict(),
            "why": self.why,
        }
        if full:
            record |= conversation(self.request) | _answers(run, record["calls"])
        return {name: value for name, value in record.items() if value is not None}

    def line(self) -> dict[str, Any]:
        """The run in a line of a list, with the stage that it has come to."""
        trace, ledger = self.run.trace, self.run.ledger
        so_far: dict[str, Any] = {
            "kind": "team",
            "time": self.began,
            **self.facts,
            "outcome": RUNNING,
            **self.trail,
            "seconds": trace.elapsed,
            "request": asked(self.request),
            "spent": _spent(ledger),
            "cost_microusd": ledger.cost,
            "calls": [{"model": call.model} for call in trace.calls],
        }
        return summary(so_far) | ({"stage": trace.stages[-1][0]} if trace.stages else {})


class Routed(msgspec.Struct, frozen=True, gc=False):
    """A request that Envoy has routed to one model. Made for every one of them, so that little is done before somebody
    looks. `seconds` and `first_token` are known where its answer passed by here.
    """

    facts: Metadata
    trail: Mapping[str, str]
    request: Mapping[str, Any]
    at: float
    routing: float
    seconds: float | None = None
    first_token: float | None = None
    why: Explanation | None = None
    said: Mapping[str, Any] = msgspec.field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The whole of it."""
        record: dict[str, Any] = {
            "version": VERSION,
            "kind": "routed",
            "time": datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds"),
            **self.facts,
            **self.trail,
            "routing": round(self.routing, 6),
            "seconds": _rounded(self.seconds),
            "first_token": _rounded(self.first_token),
            "request": self.request,
            "why": self.why,
            **self.said,
        }
        return {name: value for name, value in record.items() if value is not None}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


def asked(request: ChatRequest) -> dict[str, Any]:
    """What a request is like, without its contents."""
    facts: dict[str, Any] = {
        "model": request.model,
        "stream": request.stream,
        "messages": len(request.messages),
        "prompt_tokens": request.prompt_tokens,
        "tools": request.offers_tools,
    }
    if request.output_limit is not None:
        facts["max_tokens"] = request.output_limit
    return facts


def asked_of_one(request: Request) -> dict[str, Any]:
    """The same of what one model answers, chat or not; whether that is right is for its backend to say."""
    facts: dict[str, Any] = {"model": request.model, "stream": False, "tools": False}
    if isinstance(request, ChatRequest):
        members = request.members
        facts["messages"] = len(request.messages)
        facts["prompt_tokens"] = request.prompt_tokens
        facts["stream"] = bytes(members.get("stream", b"")) == b"true"
        facts["tools"] = ("tools" in members or "functions" in members) and request.offers_tools
    for name in LIMITS:
        if name in request.members and (limit := request.positive_or_none(name)) is not None:
            facts["max_tokens"] = limit
    return facts


def _budget(run: Run) -> dict[str, Any]:
    """What the run could spend: the limits that it had."""
    limits = run.ledger.limits
    micro = None if limits.microusd is None else float(limits.microusd)
    said = {"calls": limits.calls, "tokens": limits.tokens, "cost_microusd": micro}
    seconds = round(run.trace.elapsed + run.deadline.at - run.deadline.now(), 1)
    return {name: limit for name, limit in said.items() if limit is not None} | {"seconds": seconds}


def _spent(ledger: Ledger) -> dict[str, Any]:
    spent: Amount = ledger.spent
    return {"calls": spent.calls, "tokens": spent.tokens, "cost_microusd": ledger.cost}


def conversation(request: Request) -> dict[str, Any]:
    """What the client sent; nothing if there is in it what is no value to us, such as 1e400."""
    messages = plain(request.members.get("messages", ABSENT))
    if messages is None:
        return {}
    members = {name: plain(raw) for name, raw in request.members.items() if name != "messages"}
    return {
        "messages": messages,
        "members": {name: value for name, value in members.items() if value is not None},
    }


def _answers(run: Run, calls: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What each call's text says by the contract, as `answer`: equal answers are equal texts. And of how many."""
    contract = run.terms.contract
    if contract is None or not contract.comparable:
        return {}
    seen: list[tuple[Any, str]] = []
    for call in calls:
        value = contract.extract(call.get("text", ""))
        if value is not None and call["role"] in _ANSWERING:
            same = (text for other, text in seen if contract.same(other, value))
            call["answer"] = next(same, None) or contract.render(value)
            seen.append((value, call["answer"]))
    return {} if contract.options is None else {"options": contract.options}


_SUMMED_UP = (
    "run", "kind", "tenant", "time", "request_id", "trace_id", "recipe", "decision", "algorithm", "model", "outcome",
    "code", "status",
    "queued", "seconds", "first_token", "confidence_permille", "threshold_permille", "cost_microusd",
    "completion_tokens",
)  # fmt: skip


def summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record in a line of a list."""
    line = {name: record[name] for name in _SUMMED_UP if name in record}
    calls = record.get("calls", ())
    models = [*([record["model"]] if "model" in record else []), *(call["model"] for call in calls)]
    return line | {
        "asked": record.get("request", {}).get("model"),
        "stream": record.get("request", {}).get("stream", False),
        "prompt_tokens": record.get("request", {}).get("prompt_tokens", 0),
        "calls": record.get("spent", {}).get(
            "calls", len(calls) or int(record["kind"] == "routed")
        ),
        "models": list(dict.fromkeys(models)),
    }
