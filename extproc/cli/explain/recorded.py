"""Recorded requests put to another configuration: what it would have decided, and what that would have cost.

A record without contents can be decided as far as nothing hangs on what was said. Headers are never recorded, and no
model is asked. What hangs on any of these is counted as unknown, with the signals that would have to be read.
"""

import gzip
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import msgspec
from pydantic import ValidationError

from extproc.cli.offline import asking
from extproc.config import Config
from extproc.decisions.engine import Policy
from extproc.decisions.explain import Explanation, explain
from extproc.errors import ConfigError, unknown
from extproc.process.runtime import Runtime, build
from extproc.process.schema import RunRecord
from extproc.signals import SignalConfig, Subject
from extproc.signals.read import Signals
from looper.calling.budget import cost
from looper.calling.calls import Answering
from looper.calling.client import EgressClient
from looper.calling.cost import PlannedCall
from looper.calling.models import Model
from looper.errors import LooperError
from looper.wire.chat import ChatRequest

_NOT_RECORDED = ("header", "attribute", "model")
"""Kinds of signals that no record has what they read of."""
_BY_SIZE = ("context",)
"""Kinds of signals that read no text."""
_UNKNOWN_LENGTH = 256
"""Tokens of an answer, where no record tells."""


def read_records(path: Path) -> Iterator[RunRecord]:
    """The records of a file, which may be compressed. Raises ConfigError for the first that is none."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _read(line, f"{path}:{number}")
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror or error}"]) from None


def _read(line: bytes, place: str) -> RunRecord:
    try:
        return RunRecord.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "line"
        raise ConfigError([f"{place}: {where}: {first['msg']}"]) from None


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of a recorded request, and what would have. `unread` are the signals on which it hangs; in
    micro-USD, None where a price or the decision is unknown.
    """

    run: str
    before: str
    after: str | None
    algorithm: str | None
    unread: tuple[str, ...]
    cost_before: float | None
    cost_after: float | None
    most: float | None
    why_not: str | None = None


@dataclass(slots=True)
class Lengths:
    """How long answers are, by model, as far as records tell."""

    _said: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def learn(self, record: RunRecord) -> None:
        for call in record.calls:
            if call.state == "ok" and call.role in get_args(Answering) and call.usage is not None:
                self._said[call.model].append(call.usage.completion_tokens)
        if record.kind == "routed" and record.model and record.completion_tokens is not None:
            self._said[record.model].append(record.completion_tokens)

    def of(self, model: Model) -> int:
        """Of a model that no record knows, as long as those of the others."""
        said = self._said.get(model.name) or [each for all in self._said.values() for each in all]
        length = round(fmean(said)) if said else _UNKNOWN_LENGTH
        return length if model.max_output is None else min(length, model.max_output)


async def replay(
    config: Config, records: Sequence[RunRecord], recipe: str | None = None
) -> list[Replayed]:
    """Put every record to a configuration; to this recipe, or to that of its public name. Nobody is asked."""
    if recipe is not None and recipe not in config.recipes:
        raise ConfigError([unknown("recipe", recipe, config.recipes)])
    runtime = build(config, EgressClient(config.egress))
    lengths = Lengths()
    for record in records:
        lengths.learn(record)
    return [await _replayed(record, runtime, lengths, recipe) for record in records]


async def _replayed(
    record: RunRecord, runtime: Runtime, lengths: Lengths, recipe: str | None
) -> Replayed:
    before = f"{record.recipe}.{record.decision}"
    spent = _spent(record)
    try:
        request = _request(record)
        policy = runtime.policy(request.model, recipe)
        heard, unread = _ears(policy, runtime, record)
        found = await explain(policy.reading(heard), _subject(record, request), runtime.models)
    except LooperError as error:
        return Replayed(record.run, before, None, None, (), spent, None, None, error.message)
    if unread and _is_open(found):
        return Replayed(record.run, before, None, None, unread, spent, None, None)
    action = found.action
    likely, most = _costs(found, policy, runtime, _tokens(record, request), lengths)
    after = f"{found.recipe}.{action.decision}"
    return Replayed(record.run, before, after, action.algorithm, (), spent, likely, most)


def _spent(record: RunRecord) -> float | None:
    if record.spent is not None and record.spent.cost_microusd is not None:
        return record.spent.cost_microusd
    return record.cost_microusd


def _tokens(record: RunRecord, request: ChatRequest) -> int:
    asked = record.request
    return (
        request.prompt_tokens
        if asked is None or asked.prompt_tokens is None
        else asked.prompt_tokens
    )


def _request(record: RunRecord) -> ChatRequest:
    """The request, or one that is like it but for what it says. Raises a LooperError for one that was none of ours."""
    asked = "" if record.request is None else record.request.model
    if record.messages is None:
        return asking("", asked)
    body = {"model": asked, **(record.members or {}), "messages": record.messages}
    return ChatRequest.parse(msgspec.json.encode(body))


def _subject(record: RunRecord, request: ChatRequest) -> Subject:
    """Without contents it has the size that was recorded, whatever stands in their place."""
    if record.messages is not None:
        return Subject(request)
    return Subject(request, correction=_tokens(record, request) / max(1, request.prompt_tokens))


def _ears(policy: Policy, runtime: Runtime, record: RunRecord) -> tuple[Signals, tuple[str, ...]]:
    """The signals that can be read of a record, and the names of the others."""
    configs: Mapping[str, SignalConfig] = runtime.config.recipes[policy.name].signals
    full = record.messages is not None
    heard = tuple(
        each for each in policy.signals.local if _is_heard(configs[each.name].type, full=full)
    )
    names = {each.name for each in heard}
    return Signals(heard), tuple(name for name in policy.signals.names if name not in names)


def _is_heard(kind: str, *, full: bool) -> bool:
    return kind in _BY_SIZE or (full and kind not in _NOT_RECORDED)


def _is_open(found: Explanation) -> bool:
    """Whether another decision might have answered, had everything been read."""
    for each in found.decisions:
        if each.when is not None and each.when.held is None:
            return True
        if each.verdict == "answers":
            return False
    return False


def _costs(
    found: Explanation, policy: Policy, runtime: Runtime, tokens: int, lengths: Lengths
) -> tuple[float | None, float | None]:
    """What a decision likely costs, if all goes well and answers are as long as they were; and at the most."""
    action = found.action
    most = None if action.cost_usd is None else float(Decimal(action.cost_usd) * 1_000_000)
    if action.status is not None:
        return 0.0, 0.0
    decision = next(each for each in policy.decisions if each.name == action.decision)
    plan = decision.planned(action.models[0] if action.routed else None)
    return _likely(plan, runtime.models, tokens, lengths), most


def _likely(
    plan: Iterable[PlannedCall], models: Mapping[str, Model], tokens: int, lengths: Lengths
) -> float | None:
    total = Decimal(0)
    longest = 0
    for call in plan:
        if call.need != "always" or not call.models:
            continue
        candidates = [models[name] for name in call.models]
        if any(model.price is None for model in candidates):
            return None
        sizes = [lengths.of(model) for model in candidates]
        prompt = tokens + call.reads * longest
        total += max(
            cost(model, prompt, size) for model, size in zip(candidates, sizes, strict=True)
        )
        longest = max(longest, *sizes)
    return round(float(total), 3)


@dataclass(frozen=True, slots=True)
class Change:
    """Requests that went one way and would go another."""

    before: str
    after: str
    runs: int
    cost_before: float | None
    cost_after: float | None
    most: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What another configuration changes. `unread` are the signals on which the `unknown` runs hang."""

    runs: int
    changed: int
    unknown: int
    unread: Mapping[str, int]
    refused: Mapping[str, int]
    changes: Sequence[Change]


def compared(replayed: Sequence[Replayed]) -> Comparison:
    """By the way that requests went and would go, the most frequent first."""
    by: defaultdict[tuple[str, str], list[Replayed]] = defaultdict(list)
    for each in replayed:
        if each.after is not None:
            by[each.before, each.after].append(each)
    changes = [
        Change(
            before,
            after,
            len(runs),
            _sum(each.cost_before for each in runs),
            _sum(each.cost_after for each in runs),
            _sum(each.most for each in runs),
        )
        for (before, after), runs in by.items()
    ]
    return Comparison(
        runs=len(replayed),
        changed=sum(change.runs for change in changes if change.before != change.after),
        unknown=sum(each.after is None and each.why_not is None for each in replayed),
        unread=Counter(name for each in replayed for name in each.unread),
        refused=Counter(each.why_not for each in replayed if each.why_not is not None),
        changes=sorted(changes, key=lambda change: -change.runs),
    )


def _sum(costs: Iterable[float | None]) -> float | None:
    known = list(costs)
    return None if None in known else round(sum(each or 0.0 for each in known), 3)


def as_json(replayed: Sequence[Replayed]) -> dict[str, Any]:
    return {"comparison": compared(replayed), "runs": list(replayed)}
